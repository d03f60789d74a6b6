"""Trains, evaluates and predicts from one JSON file.

python3 main.py --model X.json                          train and evaluate in turn; continues where it stopped
python3 main.py --model X.json --evaluate               evaluate the newest checkpoint once
python3 main.py --model X.json --predict_text "Hello"   generate; also --predict_file FILE, --interactive
python3 main.py --model X.json --dry_run                check the file, print the plan, stop
python3 main.py --model X.json --rehearse v5e-256       compile for that machine here, print memory and time of a step
python3 main.py --model X.json --tpu NAME               train on all workers of NAME, which may be local:N
"""

import sys

if __name__ == "__main__":  # before what takes time to load
    from runtime import allocator

    generates = any(word.startswith(("--predict", "--interactive")) for word in sys.argv)
    allocator.use(allocator.HUGE_PAGES if generates else allocator.KEPT)

import argparse
import glob
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import inputs
import optimizers
from cluster import launch
from estimator import Estimator
from models import MODELS
from models.gpt2.sample import Settings
from runtime import compile_cache, config, local_copies, processes, rehearsal, run_folder, storage
from runtime.errors import EXIT_INTERRUPTED, UserError, run_program
from runtime.metrics import Console
from runtime.plan import report
from runtime.run_config import RunConfig
from text import predictions, tokenizers
from text.chat_predictions import Speaker
from text.chat_template import Template
from text.predictions import Continuer, PredictionConfig


class Setup(NamedTuple):
    """The sections of the JSON file, and the model that it names."""

    model: Any
    model_config: Any
    optimizer: optimizers.OptimizerConfig
    data: inputs.InputConfig
    run: RunConfig
    prediction: PredictionConfig

    def values(self) -> dict[str, Any]:
        return config.resolved([self.model_config, self.optimizer, self.data, self.run, self.prediction])

    @property
    def cache(self) -> Path:
        """Where text is prepared, beside a run of this machine."""
        return local_copies.root() if storage.is_remote(self.folder) else Path(self.folder).parent / "cache"

    @property
    def folder(self) -> str:
        return self.run.model_path

    def vocabulary(self) -> Path:
        return inputs.encoder_path(self.data, n_vocab=self.model_config.n_vocab, cache=self.cache)

    def missing_data(self) -> list[str]:
        paths = [self.data.data_path] if isinstance(self.data.data_path, str) else self.data.data_path or []
        return [path for path in paths if not glob.glob(path)]

    def warnings(self) -> list[str]:
        return self.model.warnings(self.model_config) + optimizers.warnings(self.optimizer)


def main() -> int | None:
    arguments = parse_arguments()
    if launch.asked(arguments):
        return launch.command(arguments, lambda: read_setup(arguments).values())
    setup = read_setup(arguments)
    if arguments.rehearse:
        choice = partial(setup.model.attention_choice, setup.model_config, "train")
        return rehearsal.rehearse(arguments.rehearse, partial(make_estimator, setup), choice, cache=setup.cache)
    processes.connect()
    compile_cache.use()
    if arguments.dry_run:
        return dry_run(setup)
    if arguments.evaluate:
        return evaluate(setup)
    if arguments.interactive or arguments.predict_text is not None or arguments.predict_file is not None:
        return predict(setup, arguments)
    return train(setup, clean=arguments.clean)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="X.json", help="the JSON file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the file")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--clean", action="store_true", help="empty the run's folder, then train")
    mode.add_argument("--evaluate", action="store_true", help="evaluate the newest checkpoint once")
    mode.add_argument("--dry_run", action="store_true", help="check the file, print the plan, stop")
    mode.add_argument("--rehearse", metavar="TOPOLOGY", help="compile for v5e-256, v5p-512, h100x8 ..., stop")
    mode.add_argument("--predict_text", metavar="TEXT", help="continue TEXT")
    mode.add_argument("--predict_file", metavar="FILE", help="continue the text in FILE")
    mode.add_argument("--interactive", action="store_true", help="continue what you type, until Ctrl-D")
    predictions.add_arguments(parser)
    launch.add_arguments(parser)
    return launch.with_model(parser)


def read_setup(arguments: argparse.Namespace) -> Setup:
    values = config.read(arguments.model, arguments.set)
    values |= predictions.overrides(arguments)
    name = values.get("model", "GPT2")
    if name not in MODELS:
        near = config.did_you_mean(str(name), MODELS)
        raise UserError(f"{arguments.model}: model: no model {name!r}{near}; there are {', '.join(MODELS)}")
    model = MODELS[name]
    sections = [model.Config, optimizers.OptimizerConfig, inputs.InputConfig, RunConfig, PredictionConfig]
    return Setup(model, *config.divide(values, sections, source=arguments.model))


def open_data(setup: Setup) -> inputs.Data:
    model = setup.model_config
    return inputs.open_data(setup.data, n_ctx=model.n_ctx, n_vocab=model.n_vocab, cache=setup.cache)


def make_estimator(setup: Setup, *, total_steps: int = 1, platform: str | None = None, **options: Any) -> Estimator:
    params = setup.model.Params(setup.model_config, setup.optimizer, total_steps, setup.vocabulary, platform)
    return Estimator(setup.model.model_fn, params, setup.run, **options)


def count_steps(setup: Setup, data: inputs.Data | None) -> int:
    epoch = data.train.windows_per_epoch if data else None
    return setup.run.total_steps(tokens_per_example=setup.model_config.n_ctx, examples_per_epoch=epoch)


def evaluation(setup: Setup, data: inputs.Data, estimator: Estimator) -> Callable[[Any], dict[str, float]]:
    """Parameters -> loss, perplexity and bits per byte over the fixed evaluation windows."""
    batch_size = setup.run.eval_batch_size or setup.run.train_batch_size
    host, hosts = estimator.share
    windows = inputs.Evaluation(
        data, batch_size=batch_size, steps=setup.run.eval_steps, host_index=host, host_count=hosts
    )
    return estimator.evaluate(windows.batches, describe=windows.describe)


def train(setup: Setup, *, clean: bool) -> int:
    data = open_data(setup)
    total_steps = count_steps(setup, data)
    console = Console(total_steps=total_steps) if processes.is_first() else None
    estimator = make_estimator(setup, total_steps=total_steps, console=console)
    if clean and console:
        run_folder.clean(setup.folder)

    def begin() -> None:
        if not console:
            return
        changes = run_folder.begin(setup.folder, setup.values(), vocabulary=data.tokenizer)
        choice = setup.model.attention_choice(setup.model_config, "train")
        warnings = [f"warning: {text}" for text in setup.warnings()]
        for line in [
            *(f"changed since this run began: {change}" for change in changes),
            *warnings,
            *data.notes,
            choice,
        ]:
            console.note(str(line))

    host, hosts = estimator.share
    finished = estimator.train(
        inputs.Batches(data.train, batch_size=setup.run.train_batch_size, host_index=host, host_count=hosts),
        total_steps=total_steps,
        evaluation=evaluation(setup, data, estimator),
        begin=begin,
    )
    if console:
        console.close()
    return 0 if finished else EXIT_INTERRUPTED


def evaluate(setup: Setup) -> None:
    estimator = make_estimator(setup)
    estimator.require_checkpoint()
    data = open_data(setup)
    run_folder.check_vocabulary(setup.folder, data.tokenizer)
    step, params = estimator.restore()
    metrics = evaluation(setup, data, estimator)(params)
    if processes.is_first():
        print(f"step {step}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))


def predict(setup: Setup, arguments: argparse.Namespace) -> None:
    wanted = setup.prediction
    note = partial(print, file=sys.stderr)
    prompt = arguments.predict_text
    if arguments.predict_file is not None:
        prompt = predictions.read_prompt(arguments.predict_file)
    estimator = make_estimator(setup)
    estimator.require_checkpoint()
    tokenizer = tokenizers.load(setup.vocabulary())
    run_folder.check_vocabulary(setup.folder, tokenizer.digest)
    template = Template(tokenizer, source=setup.folder) if setup.data.input == "chat" else None
    end = template.end if template else tokenizer.end_of_text
    sampler = estimator.predictor(end_of_text=end, n_known=tokenizer.n_vocab)
    seed = secrets.randbelow(2**31) if arguments.seed is None else arguments.seed
    note(f"{sampler.note}\nseed {seed}: --seed {seed} repeats this")
    settings = Settings(wanted.temperature, wanted.top_k, wanted.top_p)
    stream = partial(sampler.stream, settings=settings, length=wanted.length, seed=seed)
    if template:
        most = sampler.longest_prompt(wanted.length or setup.model_config.n_ctx // 4)  # what is left is for the reply
        answerer = Speaker(template, tokenizer, stream, wanted, most=most, note=note)
    else:
        answerer = Continuer(tokenizer, stream, wanted, seen=partial(sampler.seen, length=wanted.length), note=note)
    show = partial(print, end="", flush=True)
    if arguments.interactive:
        answerer.interact(ask=input, show=show)
    else:
        shown = f"{prompt}\n" if template else prompt
        predictions.write_samples(shown, answerer.replies(prompt), path=wanted.predict_path, show=show)


def dry_run(setup: Setup) -> None:
    """Checks everything that can be checked without preparing text or touching the run's folder."""
    missing = [] if setup.data.input in ("text", "chat") else setup.missing_data()
    warnings = [f"data_path: {path} is not here, so the data are not checked" for path in missing]
    data = None if missing or setup.data.input in ("text", "chat") else open_data(setup)
    total_steps = count_steps(setup, data)
    estimator = make_estimator(setup, total_steps=total_steps)
    if is_remote := storage.is_remote(setup.folder):
        warnings.append(f"model_path: {setup.folder} is not looked into")
    plan = estimator.plan(total_steps=total_steps, first_step=0 if is_remote else estimator.latest_step() or 0)
    print(report(plan, values=setup.values(), examples_per_epoch=data.train.windows_per_epoch if data else None))
    print(setup.model.attention_choice(setup.model_config, "train"))
    for line in setup.warnings() + warnings:
        print(f"warning: {line}")


if __name__ == "__main__":
    run_program(main)
