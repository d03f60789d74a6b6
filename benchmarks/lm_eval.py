"""Runs tasks of lm-evaluation-harness on a run, in this process: no server and no export.

python3 -m benchmarks.lm_eval --model X.json --tasks lambada_openai,hellaswag --num_fewshot 0
python3 -m benchmarks.lm_eval --model X.json --tasks own --include_path DIR --limit 100 --log_samples

Needs `pip install lm_eval==0.4.13`, without its extras. Options that are not listed here are lm_eval's own. Results are
in RUN/lm_eval unless --output_path names another folder, and a line for each task in the run's evaluations.jsonl.
"""

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

import inputs
import optimizers
from estimator import setup as setups
from estimator.commands import evaluation_log
from estimator.errors import UserError, run_program
from estimator.parallel import device_check
from estimator.setup import Setup
from estimator.storage import user_paths
from estimator.system import compile_cache
from models import MODELS

NAME = "gpt2-jax"  # in lm_eval's registry of models


def main() -> None:
    """Runs lm_eval's command line with our model. Raises UserError for runs and options that cannot be used."""
    arguments, others = parse_arguments()
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("lm_eval is not installed; pip install lm_eval==0.4.13")
    setup = setups.read(
        arguments.model, arguments.set, models=MODELS, optimizers=optimizers, open_data=inputs.open_data
    )
    compile_cache.use()
    device_check.check_devices()
    register(setup, max_length=arguments.max_length)
    from lm_eval.__main__ import cli_evaluate

    out = arguments.output_path or str(Path(setup.folder) / "lm_eval")
    sys.argv = ["lm_eval", "run", "--model", NAME, "--tasks", arguments.tasks, "--output_path", out, *others]
    began = time.time()
    cli_evaluate()
    step = setup.estimator().loaded_step() or 0
    for record in results(Path(out), since=began):
        evaluation_log.append(setup.folder, {"step": step, **record})


def register(setup: Setup, *, max_length: int | None = None) -> None:
    """Puts a run into lm_eval's registry, under NAME."""
    from lm_eval.api.registry import register_model

    from benchmarks._lm_eval_model import RunLM

    class BoundLM(RunLM):
        def __init__(self, **options: Any):  # lm_eval's batch size and device: ours are chosen by Scorer
            super().__init__(setup, max_length=max_length)

    register_model(NAME)(BoundLM)


def results(folder: Path, *, since: float) -> list[dict[str, Any]]:
    """The numbers of each task in lm_eval's result files that are newer than a time."""
    records = []
    for path in sorted(folder.rglob("results_*.json")):
        if path.stat().st_mtime >= since - 1:
            for task, values in json.loads(path.read_text(encoding="utf-8"))["results"].items():
                numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
                records.append({"task": task, "harness": "lm_eval", **numbers})
    return records


def parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    """Our options, and lm_eval's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--model", required=True, metavar="X.json", help="the JSON file of the run")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the file")
    parser.add_argument("--tasks", required=True, metavar="NAMES", help="tasks of lm_eval, divided by commas")
    parser.add_argument("--max_length", type=int, metavar="N", help="tokens of a window (default: n_ctx)")
    parser.add_argument("--output_path", type=user_paths.argument, metavar="DIR", help="folder of the result files")
    parser.epilog = "of lm_eval: --num_fewshot N, --limit N, --include_path DIR, --log_samples, --gen_kwargs, ..."
    return parser.parse_known_args()


if __name__ == "__main__":
    run_program(main)
