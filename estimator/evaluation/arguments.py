"""The flags of main.py that evaluate and score. Loads nothing else."""

import argparse

from estimator.errors import UserError
from estimator.storage import user_paths

TASK_NAMES = ("lambada", "hellaswag", "arc", "piqa", "winogrande", "blimp", "cbt", "choice", "target")
DETOKENIZERS = ("none", "wikitext", "ptb", "cbt", "lambada")


def add_modes(group: argparse._MutuallyExclusiveGroup) -> None:
    """Adds the flags that choose the command."""
    group.add_argument(
        "--evaluate",
        nargs="*",
        type=user_paths.argument,
        metavar="FILE",
        help="evaluate the newest checkpoint once, on held-out text or on each FILE",
    )
    group.add_argument(
        "--score", type=user_paths.argument, metavar="FILE", help="write the log-probability of each token of a text"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say how."""
    group = parser.add_argument_group("evaluation", "see docs/evaluation.md")
    group.add_argument(
        "--stride", type=int, metavar="N", help="slide the context by N tokens; without it each token is in one window"
    )
    group.add_argument("--context", type=int, metavar="N", help="tokens before the last of a window (default: n_ctx)")
    group.add_argument("--no_bos", action="store_true", help="put no <|endoftext|> before a document")
    group.add_argument(
        "--detokenizer", choices=DETOKENIZERS, default="none", help="undo a corpus's tokenization; count its own words"
    )
    group.add_argument("--out", type=user_paths.argument, metavar="CSV", help="file of --score (default: print it)")


def check(arguments: argparse.Namespace) -> None:
    """Raises UserError for a flag without effect."""
    is_scored = arguments.score is not None
    if arguments.out and not is_scored:
        raise UserError("--out goes with --score FILE")
    for flag in ("stride", "context", "no_bos"):
        if getattr(arguments, flag) not in (None, False) and not (is_scored or arguments.evaluate):
            raise UserError(f"--{flag} goes with --evaluate FILE or --score FILE")
    if arguments.detokenizer != "none" and not arguments.evaluate:
        raise UserError("--detokenizer goes with --evaluate FILE")


def evaluates(arguments: argparse.Namespace) -> bool:
    """Whether the command line evaluates or scores."""
    return arguments.evaluate is not None or arguments.score is not None
