"""Loads the metrics of runs as arrays: ours, and those of two older trainers (`foreign`).

A metrics file is read in blocks, so that a million records take little more memory than their numbers.
"""

import contextlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from estimator import json_text, storage
from estimator.errors import UserError
from estimator.plots import foreign
from estimator.plots.columns import LARGEST, POSITION, Columns, is_number
from estimator.storage import user_paths
from estimator.training import metrics_log, run_dir

EVALUATIONS = "evaluations.jsonl"
SEED_OR_PATH = "seed|path$"  # keys in which the seeds of a run differ
MOST_NAMES = 5  # of paths that are left out, in a line
SPLITS = ("train", "eval")  # of the records that are drawn
Records = tuple[Columns, Columns, list[dict[str, Any]]]  # of training, of evaluation, and the others


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run's records as arrays: `train[key]` and `evaluation[key]`, NaN where a record lacks the key.

    events: records of other splits. config: the run's config.json; {} if it has none. losses_by_position: by tokens of
    context, of the last `main.py --evaluate`. vocabulary: its digest; None if unknown.
    """

    label: str
    train: Columns
    evaluation: Columns
    events: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    losses_by_position: dict[int, float] = field(default_factory=dict)
    vocabulary: str | None = None

    def x(self, split: Columns, kind: str) -> np.ndarray:
        """x values of a split's records: steps, tokens, flops, or seconds of training."""
        values = self._values(split, kind)
        if split.rows and not np.isfinite(values).any():
            others = [f"--x {other}" for other in ("steps", "tokens", "time") if other != kind and self._has(other)]
            advice = f"use {' or '.join(others)}" if others else "it cannot be drawn; leave it out"
            raise UserError(f"{self.label} does not record its {kind}; {advice}")
        return values

    def _values(self, split: Columns, kind: str) -> np.ndarray:
        """The same, NaN or empty where it is unknown."""
        if kind == "time" and np.isfinite(self.train["elapsed"]).any():
            return split["elapsed"]
        if kind == "time":
            return self._training_seconds(split)
        if kind == "flops":
            known = np.isfinite(self.train["flops"])
            at, flops = self.train["step"][known], self.train["flops"][known]
            return np.interp(split["step"], np.insert(at, 0, 0), np.insert(flops, 0, 0)) if known.any() else at[:0]
        return split["step" if kind == "steps" else kind]

    def _has(self, kind: str) -> bool:
        """Whether all splits that have records can be drawn so."""
        splits = [split for split in (self.train, self.evaluation) if split.rows]
        return all(np.isfinite(self._values(split, kind)).any() for split in splits)

    def _training_seconds(self, split: Columns) -> np.ndarray:
        """Training time only, without pauses between starts and evaluations."""
        steps, seconds = self.train["step"], self.train["step_seconds"]
        if np.isnan(seconds).any() or not steps.size:
            return np.full(split.rows, np.nan)
        elapsed = np.cumsum(seconds * np.diff(steps, prepend=0))
        return np.interp(split["step"], np.insert(steps, 0, 0), np.insert(elapsed, 0, 0))

    @property
    def last_step(self) -> float:
        """Last step or, for runs that do not record steps, the last number of tokens."""
        key = "step" if self.train.has("step") or self.evaluation.has("step") else "tokens"
        logged = max(float(split[key][-1]) for split in (self.train, self.evaluation) if split.rows)
        return max([logged, *self.at_last_event(key)])

    def at_last_event(self, key: str) -> list[float]:
        """The step or tokens of the last event: a run may end some steps after the last one that it logged."""
        value = self.events[-1].get(key) if self.events else None
        return [value] if isinstance(value, int | float) and abs(value) < LARGEST else []


@dataclass(frozen=True)
class Group:
    """Runs that are drawn as one curve: one run, or several, such as seeds of it."""

    label: str
    runs: list[Run]

    @property
    def last_losses(self) -> np.ndarray:
        """The last evaluation losses of the runs that were evaluated and did not diverge."""
        return self.last_values("loss")

    def last_values(self, key: str) -> np.ndarray:
        """The finite values of a key in the last evaluation of each run."""
        values = np.array([run.evaluation[key][-1] for run in self.runs if run.evaluation.rows])
        return values[np.isfinite(values)]

    @property
    def differences(self) -> list[str]:
        """The keys of config.json in which the runs differ besides seeds and paths."""
        return sorted(key for key in self._keys_that_differ() if not re.search(SEED_OR_PATH, key))

    @property
    def count(self) -> str:
        """How many runs there are, called seeds where they are known to differ in nothing else."""
        keys = self._keys_that_differ()
        are_seeds = any("seed" in key for key in keys) and not self.differences
        return f"{len(self.runs)} {'seeds' if are_seeds and all(run.config for run in self.runs) else 'runs'}"

    def _keys_that_differ(self) -> set[str]:
        configs = [run.config for run in self.runs if run.config]
        keys = {key for config in configs for key in config}
        return {key for key in keys if any(config.get(key) != configs[0].get(key) for config in configs)}

    @property
    def share(self) -> str:
        """Of how many runs `last_losses` are, where not of all."""
        count = self.last_losses.size
        return f" over {count} of {self.count}" if count < len(self.runs) else ""


def load_groups(entries: Sequence[str], *, by_seed: bool) -> list[Group]:
    """Loads runs by path or pattern, each a group of its own, or by NAME=PATTERN, which makes one group.

    by_seed: runs whose config.json differs only in the seed and in paths form a group.
    """
    groups = _named(entries)
    paths = [path for _, members in groups for path in members]
    loaded = iter([load_run(path, label=label) for path, label in zip(paths, labels(paths), strict=True)])
    result = []
    for name, members in groups:
        runs = [next(loaded) for _ in members]
        result.append(Group(name or runs[0].label, runs))
    return _by_seed(result) if by_seed else result


def vocabularies_differ(groups: Sequence[Group]) -> bool:
    """Whether runs are known to have different vocabularies, so that their losses per token do not compare."""
    runs = [run for group in groups for run in group.runs if run.config]
    digests = {run.vocabulary for run in runs}
    sizes = {run.config.get("n_vocab") for run in runs}
    return len(digests - {None}) > 1 or (None in digests and len(sizes) > 1)


def _named(entries: Sequence[str]) -> list[tuple[str | None, list[str]]]:
    """The paths of each group, with the name that was given to it."""
    groups: list[tuple[str | None, list[str]]] = []
    others, waiting = _not_drawn(entries)
    for entry in entries:
        name, pattern = _name_and_pattern(entry)
        paths = _expanded(user_paths.argument(pattern))
        if name is None:
            groups += [(None, [path]) for path in paths if path not in others + waiting]
        else:
            groups.append((name, paths))
    return groups


def _not_drawn(entries: Sequence[str]) -> tuple[list[str], list[str]]:
    """Paths that are no runs, and runs that have not logged a step, among several.

    A shell that expands `runs/*` names the cache of prepared text and the files of a sweep, too. Where nothing else is
    named, there are none: the first of them is an error.
    """
    split = [_name_and_pattern(entry) for entry in entries]
    paths = [user_paths.argument(pattern) for name, pattern in split if name is None]
    existing = [path for path in paths if not storage.is_pattern(path) and storage.exists(path)]
    others = [path for path in existing if not _is_run(path)]
    waiting = [path for path in existing if path not in others and not _has_begun(path)]
    return (others, waiting) if len(others) + len(waiting) < len(entries) else ([], [])


def _name_and_pattern(entry: str) -> tuple[str | None, str]:
    name, equals, pattern = entry.partition("=")
    return (name, pattern) if equals and not storage.exists(entry) else (None, entry)


def paths_of(entries: Sequence[str]) -> list[str]:
    """The paths that entries of `load_groups` name."""
    return [path for _, members in _named(entries) for path in members]


def _expanded(pattern: str) -> list[str]:
    """The runs of a pattern; a path without wildcards is itself."""
    if not storage.is_pattern(pattern):
        return [pattern]
    paths, runs, begun = _matches(pattern)
    if not paths:
        raise UserError(f"{pattern}: no run has such a name")
    if not runs:
        raise UserError(f"{pattern}: nothing with such a name is a run's folder or metrics file")
    if not begun:
        raise UserError(f"{pattern}: no run with such a name has reached its first log line (log_steps) yet")
    return begun


def _matches(pattern: str) -> tuple[list[str], list[str], list[str]]:
    """All paths that match, those of them that are runs, and those of these that have logged a step."""
    paths = storage.glob(pattern)
    runs = [path for path in paths if _is_run(path)]
    return paths, runs, [path for path in runs if _has_begun(path)]


def left_out(entries: Sequence[str]) -> list[str]:
    """Lines on the paths of `load_groups`, and the matches of its patterns, that are not drawn."""
    others, waiting = _not_drawn(entries)
    lines = [f"left out {_first(others)}: no runs"] if others else []
    lines += [f"left out {_first(waiting)}: not at the first log line (log_steps) yet"] if waiting else []
    for pattern in dict.fromkeys(user_paths.argument(_name_and_pattern(entry)[1]) for entry in entries):
        if not storage.is_pattern(pattern):
            continue
        paths, runs, begun = _matches(pattern)
        if others := len(paths) - len(runs):
            lines.append(f"{pattern}: left out {others} of its matches, which are no runs")
        if waiting := [path for path in runs if path not in begun]:
            lines.append(f"{pattern}: left out {', '.join(waiting)}: not at the first log line (log_steps) yet")
    return lines


def _first(paths: list[str]) -> str:
    return ", ".join(paths[:MOST_NAMES]) + (f" and {len(paths) - MOST_NAMES} more" if len(paths) > MOST_NAMES else "")


def _is_run(path: str) -> bool:
    return bool(_metrics_files(path)) if storage.is_folder(path) else storage.is_file(path) and _is_metrics_file(path)


def _has_begun(run: str) -> bool:
    """Whether a run has a record to draw, or a line that is none, which is an error."""
    path = metrics_file(run)
    if foreign.has_metrics(path):
        return True
    lines = (line for _, block in metrics_log.blocks(path) for line in block.split(b"\n"))
    return any(record is None or record["split"] in SPLITS for record in map(metrics_log.parse, lines))


def _by_seed(groups: list[Group]) -> list[Group]:
    together: dict[str, list[Group]] = {}
    for group in groups:
        config = {key: value for key, value in group.runs[0].config.items() if not re.search(SEED_OR_PATH, key)}
        key = json.dumps(config, sort_keys=True) if config else f"run {len(together)}"
        together.setdefault(key, []).append(group)
    return [Group(members[0].label, [run for each in members for run in each.runs]) for members in together.values()]


def metrics_file(path: str) -> str:
    """The metrics file of a run's folder, or the file itself. Raises UserError if there is none."""
    if not storage.exists(path):
        raise UserError(f"{path}: no such run; give a run's folder (model_path) or its {metrics_log.FILE_NAME}")
    if not storage.is_folder(path):
        if not _is_metrics_file(path):
            raise UserError(
                f"{path}: no metrics file; give a run's folder, or a pattern in quotation marks, which takes only runs"
            )
        return path
    if found := _metrics_files(path):
        return found[0]
    missing = f"{path} is not a run's folder: it has no {metrics_log.FILE_NAME}, which training writes"
    below = [] if storage.is_remote(path) else sorted(Path(path).glob(f"*/{metrics_log.FILE_NAME}"))
    raise UserError(f"{missing}; did you mean {below[0].parent}?" if below else missing)


def _metrics_files(folder: str) -> list[str]:
    files = [storage.join(folder, name) for name in (metrics_log.FILE_NAME, foreign.JSON_LOG)]
    return [file for file in files if storage.is_file(file)]


def _is_metrics_file(path: str) -> bool:
    """Whether a file is one of metrics by its name or by its first record."""
    return path.rpartition("/")[2] == metrics_log.FILE_NAME or metrics_log.begins(path) or foreign.has_metrics(path)


def load_run(path: str | Path, *, label: str) -> Run:
    """Loads a run from its folder or metrics file. Raises UserError if there is nothing to draw."""
    file = metrics_file(str(path))
    if foreign.is_checkpoint(file):
        train, evaluation = foreign.read_checkpoint(file)
        return Run(label=label, train=train, evaluation=evaluation)
    if foreign.is_json_log(file):
        train, evaluation = foreign.read_json_log(file)
        return Run(label=label, train=train, evaluation=evaluation)
    train, evaluation, events = _read(file)
    if not train.rows and not evaluation.rows:
        raise UserError(f"{file} has no records: the run has not reached its first log line (log_steps) yet")
    folder = file.removesuffix(metrics_log.FILE_NAME).rstrip("/") or "."
    return Run(
        label=label,
        train=train,
        evaluation=evaluation,
        events=events,
        config=run_dir.config_before(folder),
        losses_by_position=_losses_by_position(folder),
        vocabulary=run_dir.vocabulary_digest(folder),
    )


def objects(path: str, *, whole: bool = False) -> list[dict[str, Any]]:
    """The objects of a JSON lines file, or the one of a JSON file; lines that are none are left out."""
    if not storage.is_file(path):
        return []
    data = storage.read_bytes(path)
    found = []
    for line in [data] if whole else data.splitlines():
        try:
            found.append(json_text.loads(line))
        except ValueError:
            continue
    return [each for each in found if isinstance(each, dict)]


def _losses_by_position(folder: str) -> dict[int, float]:
    rows = [row for row in objects(storage.join(folder, EVALUATIONS)) if row.get("task") == "eval_split"]
    matches = [(POSITION.fullmatch(key), value) for key, value in (rows[-1] if rows else {}).items()]
    return {int(match[1]): value for match, value in matches if match and isinstance(value, float)}


def _read(path: str) -> Records:
    """The records of a metrics.jsonl; a last line that a kill cut is dropped."""
    tables = [_records(lines, path=path, first=first) for first, lines in metrics_log.blocks(path)]
    train, evaluation = [table[0] for table in tables], [table[1] for table in tables]
    return Columns.joined(train), Columns.joined(evaluation), [event for table in tables for event in table[2]]


def _records(lines: bytes, *, path: str, first: int) -> Records:
    """The records of some lines. first: number of the first line."""
    if rows := metrics_log.unchecked_records(lines):
        with contextlib.suppress(ValueError, TypeError, KeyError, OverflowError):  # unusual numbers, or no split
            return _by_split(rows)
    rows = metrics_log.records(lines, path=path, first=first)
    return _by_split([{key: _number(key, value) for key, value in row.items()} for row in rows])


def _by_split(rows: list[dict[str, Any]]) -> Records:
    splits: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    events: list[dict[str, Any]] = []
    for row in rows:
        splits.get(row["split"], events).append(row)
    return Columns.of(splits["train"]), Columns.of(splits["eval"]), events


def _number(key: str, value: Any) -> Any:
    return None if isinstance(value, str) and is_number(key) else value


def labels(paths: Sequence[str | Path]) -> list[str]:
    """Distinguishing part of each path, without a common suffix (a/model, b/model: a and b)."""
    folders = [str(path).removesuffix(metrics_log.FILE_NAME) for path in paths]
    parts = [
        PurePosixPath(path).parts if storage.is_remote(path) else Path(path or ".").resolve().parts for path in folders
    ]
    different = set(parts)
    while len(different) > 1 and min(map(len, parts)) > 2 and len({part[-1] for part in parts}) == 1:
        parts = [part[:-1] for part in parts]
    length = 1
    while len({part[-length:] for part in parts}) < len(different):
        length += 1
    return ["/".join(part[-length:]) for part in parts]
