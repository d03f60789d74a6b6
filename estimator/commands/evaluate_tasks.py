"""Evaluates a run's checkpoint on tasks: `evaluate.py`."""

import argparse
import contextlib
import itertools
import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

from estimator import storage
from estimator.commands import evaluation_log
from estimator.corpus import readers
from estimator.corpus.parts import Part
from estimator.errors import UserError, require_output
from estimator.evaluation import requests as scored
from estimator.evaluation.requests import Result
from estimator.evaluation.scorer import Scorer
from estimator.evaluation.tasks import TASKS, BadItem, Item, item
from estimator.parallel import distributed
from estimator.setup import Setup
from estimator.storage import user_paths
from estimator.tokenization import special_text
from estimator.tokenization import tokenizer as tokenizers
from estimator.training import run_dir
from estimator.training.metrics_writers import readable

AS_TEXT = (
    "the items are scored as plain text, without the roles of a conversation, as lm-evaluation-harness does by "
    "default; a model that learned conversations alone may do worse than it could"
)


def evaluate_tasks(setup: Setup, arguments: argparse.Namespace) -> None:
    """Prints the metrics of each task and appends them to evaluations.jsonl. UserError for an item that is none."""
    estimator = setup.estimator()
    estimator.require_checkpoint()
    setup.note_own_vocabulary(partial(print, file=sys.stderr))
    setup.note_other_function(partial(print, file=sys.stderr))
    if setup.data.input == "chat":
        print(AS_TEXT, file=sys.stderr)
    tokenizer = tokenizers.load(setup.vocabulary())
    run_dir.check_vocabulary(setup.folder, tokenizer.digest)
    tokenizer = special_text.reading(tokenizer, setup.data.special or ())
    items = [_items(*task, limit=arguments.limit, detokenizer=arguments.detokenizer) for task in arguments.task]
    user_paths.require_output(arguments.out, "--out", inputs=[path for _, path in arguments.task])
    run_dir.require_foreign(arguments.out, "--out", setup.folder)
    step, params = estimator.restore()
    n_ctx = setup.model_config.n_ctx
    with contextlib.ExitStack() as stack:
        is_first = distributed.is_first()
        out = stack.enter_context(storage.new_file(arguments.out, "w")) if arguments.out and is_first else None
        for (name, path), own in zip(arguments.task, items, strict=True):
            requests = scored.encoded([pair for each in own for pair in each.requests], tokenizer)
            n_tokens = sum(len(request.tokens) - request.first for request in requests)
            with evaluation_log.progress(n_tokens) as progress:
                found = scored.results(Scorer(estimator, params, n_ctx=n_ctx, progress=progress), requests)
            metrics = scored.of_choices(own, found) if TASKS[name].is_choice else scored.of_targets(found)
            if not is_first:
                continue
            print(f"step {step}, {name}, {path}: " + ", ".join(_shown(metrics)))
            evaluation_log.append(setup.folder, {"step": step, "task": name, "file": path, "context": n_ctx, **metrics})
            if out:
                out.writelines(_item_lines(name, own, found))
    if is_first:
        require_output()


def _items(name: str, path: str, *, limit: int | None, detokenizer: str | None) -> list[Item]:
    labels = _labels(path) if name == "piqa" else None
    items = []
    for record in itertools.islice(readers.records(Part(path)), limit):
        value = record.value
        if labels is not None and isinstance(value, dict) and "label" not in value and len(items) < len(labels):
            value = value | {"label": labels[len(items)]}
        try:
            items.append(item(TASKS[name], value, detokenizer))
        except BadItem as error:
            raise UserError(f"{record.where}: {error}; --task {name} cannot use this item") from None
    if not items:
        raise UserError(f"{path}: no items; give a file of JSON lines, JSON, CSV or Parquet")
    if labels is not None and limit is None and len(labels) != len(items):
        raise UserError(
            f"{_labels_file(path)}: {len(labels):,} labels of {len(items):,} items; give the file of {path}"
        )
    return items


def _labels(path: str) -> list[str] | None:
    """The lines of PIQA's separate file of labels, valid-labels.lst of valid.jsonl."""
    name = _labels_file(path)
    return storage.read_bytes(name).decode(errors="replace").split() if storage.is_file(name) else None


def _labels_file(path: str) -> str:
    return f"{os.path.splitext(path)[0]}-labels.lst"


def _shown(metrics: dict[str, Any]) -> Iterator[str]:
    for name, value in metrics.items():
        if name.endswith("_stderr"):
            continue
        error = f" \u00b1 {readable(metrics[f'{name}_stderr'], 4)}" if f"{name}_stderr" in metrics else ""
        yield f"{name} {readable(value, 4)}{error}" if isinstance(value, float) else f"{name} {value:,}"


def _item_lines(name: str, items: list[Item], found: list[Result]) -> Iterator[str]:
    rest = iter(found)
    for number, each in enumerate(items):
        own = [next(rest) for _ in each.requests]
        line = {"task": name, "item": number, "gold": each.gold}
        line |= {"also_gold": list(each.also_gold)} if each.also_gold else {}
        line |= {"logprobs": [result.logprob for result in own]}
        line |= {"greedy": [result.is_greedy for result in own], "tokens": [result.n_tokens for result in own]}
        yield json.dumps(line) + "\n"
