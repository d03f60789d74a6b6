"""Small JSON that a run, a server or an evaluation is sent, for the fuzzer: file, valid bytes, how it is read."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from estimator import config
from estimator.errors import UserError
from estimator.evaluation import tasks
from estimator.launch import run_store
from estimator.launch.run_store import StoredRun
from estimator.search import trials
from estimator.search.sweep_config import SweepConfig
from estimator.search.trials import Trial
from estimator.shards import discovery
from estimator.training import control_files, progress
from estimator.training.data_position import DataSpan


def read_control(path: Path) -> str:
    """A request to a running training; a ValueError of the parser is answered to its sender."""
    try:
        return repr(control_files.parse("a.json", path.read_bytes()))
    except ValueError as error:
        raise UserError(str(error)) from None


def read_tasks(path: Path) -> str:
    """A record of a task's file, as each task that evaluate.py knows reads it."""
    try:
        record = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(str(error)) from None
    items: list[Any] = []
    for task in tasks.TASKS.values():
        try:
            items.append(tasks.item(task, record))
        except tasks.BadItem:
            items.append(None)
    if not any(items):
        raise UserError("no task takes this record")
    return repr(items)


def body(kind: str) -> Callable[[Path], str]:
    """An HTTP body, as FastAPI checks it; a ValidationError is answered with 400."""

    def read(path: Path) -> str:
        import pydantic

        from serving.api import schemas

        try:
            return repr(getattr(schemas, kind).model_validate(json.loads(path.read_bytes())))
        except (pydantic.ValidationError, ValueError, RecursionError) as error:
            raise UserError(str(error)) from None

    return read


def read_progress(path: Path) -> str:
    """The spans of a run that resumes."""
    sizes = {"batch_size": 4, "tokens_per_window": 16}
    return repr(progress.resume(path.parent, 9, **sizes, data={"data_seed": 0}, old={}))


def read_shard_list(path: Path) -> str:
    return repr((discovery.read_manifest(path.parent, "a"), discovery.is_split_by_tokens([path.parent / "a_0.npy"])))


def read_history(path: Path) -> str:
    folder = control_files.ControlFolder(str(path.parent))
    folder.path = str(path.parent)
    return repr(folder.history())


def read_sweep(path: Path) -> str:
    """A sweep as main.py reads it: the file that a user writes."""
    (plan,) = config.parse_sections(config.read(path), [SweepConfig], source=path)
    return repr(plan)


CONTROL = {"command": "lr", "value": 0.001}
TASK = {
    "text": "a fox",
    "prompt": "a fox",
    "completion": "a fox",
    "goal": "a fox",
    "sol1": "a",
    "sol2": "b",
    "label": 1,
    "ctx": "a fox",
    "endings": ["a", "b", "c", "d"],
    "question": {"stem": "a fox"},
    "choices": ["a", "b"],
    "gold": 0,
}
COMPLETION = {
    "model": "a",
    "prompt": "the fox",
    "max_tokens": 9,
    "temperature": 0.5,
    "stop": ["x"],
    "logit_bias": {"1": 2},
}
CHAT = {
    "model": "a",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "the fox"}]}],
    "max_tokens": 9,
}
HISTORY = control_files.Entry(2, "a", "lr", 0.005, 0.01)._asdict()
TRIALS = [asdict(Trial(0, {"lr": 0.1}, reports=[(2, 3.5)])), asdict(Trial(1, {"lr": 0.2}, "failed", reason="no"))]
SWEEP = {"parameters": {"lr": {"min": 0.001, "max": 0.1, "count": 3}, "n_layer": [1, 2]}, "sampler": "grid", "seed": 3}
SHARD_LIST = {"shards": {"a_0.npy": 128}, "fraction_of": "tokens", "format": 1}
SPANS = {"spans": [DataSpan(0, 0, 0, 4, 16, {"data_seed": 0}, 0)._asdict()]}
REQUESTS: dict[str, tuple[str, bytes, Callable[[Path], str]]] = {
    name: (file, json.dumps(values).encode(), read)
    for name, file, values, read in (
        ("progress.json", progress.FILE_NAME, SPANS, read_progress),
        ("list of shards", "a.json", SHARD_LIST, read_shard_list),
        ("control history", control_files.HISTORY, HISTORY, read_history),
        ("sweep file", "a.json", SWEEP, read_sweep),
        ("sweep trials", trials.FILE_NAME, TRIALS, lambda path: repr(trials.TrialStore(path.parent).trials)),
        ("launched run", "run.json", asdict(StoredRun("tpu", "x.json", "r")), lambda path: repr(run_store.read(path))),
        ("control request", "a.json", CONTROL, read_control),
        ("task record", "a.json", TASK, read_tasks),
        ("HTTP completion", "a.json", COMPLETION, body("CompletionBody")),
        ("HTTP chat", "a.json", CHAT, body("ChatBody")),
    )
}
