"""Evaluates a run on tasks: last words, and multiple choice by log-likelihood.

python3 evaluate.py --model X.json --task lambada lambada_test.jsonl --task hellaswag hellaswag_val.jsonl

A file is JSON lines, JSON, CSV or Parquet, compressed or not, with the fields of the published data set; choice and
target take any (see docs/evaluation.md). Results are printed and appended to the run's evaluations.jsonl.
"""

if __name__ == "__main__":  # before the imports that take time
    from estimator import interrupts

    interrupts.exit_quietly()

import argparse
from typing import TYPE_CHECKING

from estimator.arguments import Parser
from estimator.errors import UserError, run_program
from estimator.evaluation.arguments import DETOKENIZERS, TASK_NAMES
from estimator.storage import user_paths
from estimator.system import collector

if TYPE_CHECKING:
    from estimator.setup import Setup


def main() -> None:
    """Runs the command line. Raises UserError for files and runs that cannot be evaluated."""
    arguments = parse_arguments()
    setup = read_setup(arguments)
    from estimator.commands.evaluate_tasks import evaluate_tasks
    from estimator.parallel import agreement, device_check, distributed
    from estimator.system import compile_cache

    distributed.connect()
    compile_cache.use()
    device_check.check_devices()
    agreement.require_equal(lambda: {**setup.values(), **agreement.environment(), "--task": arguments.task})
    evaluate_tasks(setup, arguments)


def read_setup(arguments: argparse.Namespace) -> "Setup":
    """The checked JSON file of the command line."""
    with collector.paused():
        import inputs
        import optimizers
        from estimator import setup
        from models import MODELS

    return setup.read(arguments.model, arguments.set, models=MODELS, optimizers=optimizers, open_data=inputs.open_data)


def parse_arguments() -> argparse.Namespace:
    """The command line, checked. Loads no JAX, so --help is fast."""
    parser = Parser(__doc__)
    parser.add_argument("--model", type=str, required=True, metavar="X.json", help="the JSON file of the run")
    parser.add_argument(
        "--set", type=str, action="append", default=[], metavar="KEY=VALUE", help="override a key of the file"
    )
    parser.add_argument(
        "--task", action="append", type=str, nargs=2, required=True, metavar=("NAME", "FILE"),
        help=f"a task and its items; repeatable; NAME is {', '.join(TASK_NAMES)}",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, metavar="N", help="the first N items of each file")
    parser.add_argument(
        "--detokenizer", choices=DETOKENIZERS, help="undo the tokenization of the items (default: cbt for cbt)"
    )
    parser.add_argument(
        "--out", type=user_paths.argument, metavar="JSONL", help="write the log-likelihoods of each item"
    )
    arguments = parser.parse_args()
    for name, _ in arguments.task:
        if name not in TASK_NAMES:
            raise UserError(f"--task {name}: no such task; write one of {', '.join(TASK_NAMES)}")
    if arguments.limit is not None and arguments.limit < 1:
        raise UserError(f"--limit {arguments.limit}: write a positive number of items")
    arguments.task = [(name, user_paths.argument(path)) for name, path in arguments.task]
    return arguments


if __name__ == "__main__":
    run_program(main)
