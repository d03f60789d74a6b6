"""The flags of main.py that set keys of `PredictionConfig` for one command. Loads nothing else."""

import argparse

from estimator.arguments import number
from estimator.errors import UserError
from estimator.storage import user_paths

KEYS = (
    "length",
    "num_samples",
    "best_of",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "stop",
)


def add_modes(group: argparse._MutuallyExclusiveGroup) -> None:
    """Adds the flags that choose the command."""
    group.add_argument("--predict_text", type=str, metavar="TEXT", help="continue TEXT")
    group.add_argument("--predict_file", type=user_paths.argument, metavar="FILE", help="continue a text or a .jsonl")
    group.add_argument(
        "--predict_lines",
        type=user_paths.argument,
        metavar="FILE",
        help="continue each line of FILE; empty lines are left out",
    )
    group.add_argument("--interactive", action="store_true", help="continue the text you type, until Ctrl-D")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags, all optional."""
    group = parser.add_argument_group("generation")
    group.add_argument("--length", type=int, metavar="N", help="new tokens per sample")
    group.add_argument("--num_samples", type=int, metavar="N", help="samples of the prompt")
    group.add_argument("--temperature", type=number, metavar="T", help="divides the logits; 0 is greedy decoding")
    group.add_argument("--top_k", type=int, metavar="K", help="sample from the K most likely tokens")
    group.add_argument(
        "--top_p", type=number, metavar="P", help="nucleus sampling: smallest set with total probability P"
    )
    group.add_argument("--min_p", type=number, metavar="P", help="drop tokens below P times the highest probability")
    group.add_argument("--repetition_penalty", type=number, metavar="R", help="above 1 discourages tokens seen so far")
    group.add_argument(
        "--frequency_penalty", type=number, metavar="F", help="subtracted per use of a token in the sample"
    )
    group.add_argument("--presence_penalty", type=number, metavar="F", help="subtracted once a token is in the sample")
    group.add_argument(
        "--best_of", type=int, metavar="N", help="draw N candidates per sample, keep the most likely one"
    )
    group.add_argument("--logprobs", action="store_true", help="prompt files: write tokens and their log-probabilities")
    group.add_argument(
        "--stop",
        type=str,
        action="append",
        metavar="STRING",
        help="end a sample before STRING; \\n is a newline; repeatable",
    )
    group.add_argument("--seed", type=int, metavar="S", help="random seed of the samples; the same seed repeats them")


def check(arguments: argparse.Namespace) -> None:
    """Raises UserError for a flag without effect, which would train a run instead."""
    if asked(arguments):
        return
    for name in (*KEYS, "logprobs", "seed"):
        if (value := getattr(arguments, name)) is not None and value is not False:
            raise UserError(f"--{name} goes with --predict_text, --predict_file, --predict_lines or --interactive")


def asked(arguments: argparse.Namespace) -> bool:
    """Whether the command line asks for text."""
    files = (arguments.predict_text, arguments.predict_file, arguments.predict_lines)
    return arguments.interactive or any(value is not None for value in files)
