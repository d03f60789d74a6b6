"""Trains, evaluates and predicts from one JSON file.

python3 main.py --model X.json                          train, evaluating in turn; continues from the newest checkpoint
python3 main.py --model X.json --evaluate [FILE ...]    evaluate the newest checkpoint once, on held-out text or files
python3 main.py --model X.json --score FILE             write the log-probability of each token of a text
python3 main.py --model X.json --predict_text "Hello"   generate; also --predict_file FILE, --predict_lines FILE
python3 main.py --model X.json --interactive            talk to the model
python3 main.py --model X.json --dry_run                check the file and print the plan
python3 main.py --model X.json --check                  check data, memory, disk, permissions and devices too
python3 main.py --model X.json --show_batch 1200        print the data that a step trains on
python3 main.py --model X.json --lr_range_test          suggest a learning rate, with a picture
python3 main.py --model X.json --sweep SWEEP.json       search for settings by many runs
python3 main.py --model X.json --profile 20:25          train, and trace five steps: where does their time go?
python3 main.py --model X.json --rehearse v5e-256       compile for that machine here; print memory and time per step
python3 main.py --model X.json --tpu NAME               train on all workers of NAME, which may be local:N
"""

if __name__ == "__main__":  # before the imports that take time
    from estimator import interrupts

    interrupts.exit_quietly()
    from estimator.system import malloc_settings

    malloc_settings.use()

import argparse
from functools import partial
from typing import TYPE_CHECKING

from estimator.arguments import Parser, steps
from estimator.errors import run_program
from estimator.evaluation import arguments as evaluation_arguments
from estimator.generation import arguments as generation_arguments
from estimator.launch import arguments as launch_arguments
from estimator.search import arguments as search_arguments
from estimator.system import collector

if TYPE_CHECKING:
    from estimator.setup import Setup

USAGE = "%(prog)s --model X.json [--set KEY=VALUE ...] [OPTION ...]    (all options: --help)"


def main() -> int | None:
    """Runs the command line and returns its exit code. Each branch imports only what it uses."""
    arguments = parse_arguments()
    if arguments.sweep:
        from estimator.search.sweep import sweep

        return sweep(arguments, lambda: read_setup(arguments))
    if launch_arguments.asked(arguments):
        from estimator.launch import cli

        return cli.command(arguments, lambda: read_setup(arguments).values())
    setup = read_setup(arguments)
    if arguments.rehearse:
        from estimator.aot.rehearse import rehearse

        choice = partial(setup.model.attention_choice, setup.model_config, "train")
        return rehearse(arguments.rehearse, setup.estimator, choice, cache=setup.cache)
    return run(setup, arguments)


def run(setup: "Setup", arguments: argparse.Namespace) -> int | None:
    """Runs the command on this machine's devices, together with the other processes of the run."""
    from estimator.parallel import agreement, device_check, distributed
    from estimator.system import compile_cache

    distributed.connect()
    compile_cache.use()
    if arguments.dry_run:
        from estimator.commands.dry_run import dry_run

        return dry_run(setup)
    if arguments.check:
        from estimator.commands.check import check

        return check(setup)
    if arguments.show_batch:
        from estimator.commands.show_batch import show_batch

        return show_batch(setup, arguments.show_batch)
    device_check.check_devices()
    agreement.require_equal(lambda: {**setup.values(), **agreement.environment(), "--clean": arguments.clean})
    if evaluation_arguments.evaluates(arguments):
        from estimator.commands.evaluate import evaluate

        return evaluate(setup, arguments)
    if generation_arguments.asked(arguments):
        from estimator.generation.predict import predict

        return predict(setup, arguments)
    if arguments.lr_range_test is not None:
        from estimator.search.lr_range import lr_range_test

        return lr_range_test(setup, arguments.lr_range_test)
    from estimator.commands.train import train

    return train(setup, clean=arguments.clean, profiled=arguments.profile)


def parse_arguments() -> argparse.Namespace:
    """The command line, checked. Loads neither JAX nor the launcher, so --help is fast."""
    parser = Parser(__doc__, usage=USAGE)
    parser.add_argument("--model", type=str, metavar="X.json", help="the JSON file, or a run's folder")
    parser.add_argument(
        "--set", type=str, action="append", default=[], metavar="KEY=VALUE", help="override a key of the file"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--clean", action="store_true", help="empty the run's folder, then train")
    mode.add_argument("--dry_run", action="store_true", help="check the file and print the plan")
    mode.add_argument("--check", action="store_true", help="check all that a run needs; exit code 2 if it would fail")
    mode.add_argument("--show_batch", metavar="STEP", help="print the data of a step, or of windows FIRST:STOP")
    mode.add_argument("--rehearse", metavar="TOPOLOGY", help="compile for v5e-256, v5p-512, h100x8, ... and stop")
    generation_arguments.add_modes(mode)
    search_arguments.add_modes(mode)
    mode.add_argument("--profile", type=steps, metavar="START:STOP", help="train, tracing these steps")
    evaluation_arguments.add_modes(mode)
    evaluation_arguments.add_arguments(parser)
    generation_arguments.add_arguments(parser)
    launch_arguments.add_arguments(parser)
    arguments = launch_arguments.with_model(parser)
    evaluation_arguments.check(arguments)
    generation_arguments.check(arguments)
    return arguments


def read_setup(arguments: argparse.Namespace) -> "Setup":
    """The checked JSON file of the command line; raises one UserError that lists every problem."""
    with collector.paused():
        import inputs
        import optimizers
        from estimator import setup
        from estimator.generation import completion
        from models import MODELS

    others = (launch_arguments.asked, generation_arguments.asked, evaluation_arguments.evaluates)
    return setup.read(
        arguments.model,
        arguments.set,
        models=MODELS,
        optimizers=optimizers,
        open_data=inputs.open_data,
        flags=completion.overrides(arguments),
        planning=setup.planning(arguments, trains=not any(asked(arguments) for asked in others)),
    )


if __name__ == "__main__":
    run_program(main)
