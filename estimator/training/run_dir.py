"""The run's folder: configuration, vocabulary check, and cleaning that removes only a run's own files."""

import fnmatch
import json
import os
from pathlib import Path
from typing import Any

from estimator import format_version, json_text, storage
from estimator.errors import UserError
from estimator.format_version import NEWEST_SPLIT, SplitRules
from estimator.json_text import is_whole, sealed
from estimator.training.run_lock import LOCK, locked

CONFIG, VOCABULARY = "config.json", "vocabulary.json"
VOCABULARY_COPY, ORIGIN = "vocabulary", "origin.json"
BY_NAMES, SYSTEM_MESSAGE, RUN = "split_by_names", "system_message", "run"  # in origin.json
PREDICTIONS = "predictions.txt"
FOLDERS = ("checkpoints", "best", "samples", "control", "trackers", "profile", VOCABULARY_COPY)
# The second to last are temporary files of `storage.new_file` that a kill left behind.
FILES = ("evaluations.jsonl", "progress.json", "metrics.jsonl", PREDICTIONS, "lr_range.*",
         "events.out.tfevents.*", "report.html", VOCABULARY, ORIGIN, LOCK)  # fmt: skip
OURS = (*FOLDERS, *FILES, "*.json*." + 8 * "[0-9a-f]" + ".tmp", CONFIG)


def begin(
    folder: str | Path,
    values: dict[str, Any],
    *,
    vocabulary: str | None,
    origin: dict[str, Any] | None = None,
    change_of_order: str = "",
) -> list[str]:
    """Writes the configuration, the vocabulary digest and the origin; returns one line for each changed key.

    origin: code version, library versions and data of the run. change_of_order: says how training windows are read
    where they have another order than at the last start.
    """
    check_vocabulary(folder, vocabulary)
    before, rules = config_before(folder) or values, split_rules(folder)
    storage.write_json_atomic(_in(folder, CONFIG), values)
    if vocabulary:
        storage.write_json_atomic(_in(folder, VOCABULARY), sealed({"digest": vocabulary}))
    content_before = content(folder)
    record = format_version.stamped({"working_directory": os.getcwd(), BY_NAMES: int(rules), **(origin or {})})
    storage.write_json_atomic(_in(folder, ORIGIN), sealed(record))
    is_other_text = content_before is not None and content_before != (origin or {}).get("content", content_before)
    if change_of_order:
        changes = [change_of_order]
    else:
        changes = ["the text to evaluate on, and not that to train on"] if is_other_text else []
    if os.path.realpath(before["model_path"]) == os.path.realpath(values["model_path"]):
        before = before | {"model_path": values["model_path"]}  # another spelling, as of `--model RUN`
    return changes + changed_keys(before, values)


def changed_keys(before: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """A line for each of `values` that differs from the one before."""
    return [
        f"{key}: {json.dumps(before[key])} before, {json.dumps(value)} now"
        for key, value in changed(before, values).items()
    ]


def changed(before: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Those of `values` that differ from the ones before; new keys do not."""
    return {key: value for key, value in values.items() if key in before and before[key] != value}


def require_foreign(path: str | None, name: str, folder: str | Path) -> None:
    """Raises UserError for an output that is a file of the run's own, or in one of its folders.

    name: of the flag or key. Samples may go to the run's file of samples.
    """
    if path is None or storage.is_remote(path) != storage.is_remote(folder):
        return
    if storage.is_remote(path):
        inner = path.removeprefix(f"{str(folder).rstrip('/')}/") if path.startswith(str(folder)) else ""
    else:
        inner = os.path.relpath(os.path.realpath(path), os.path.realpath(folder))
    first = inner.partition("/")[0]
    if inner != PREDICTIONS and any(fnmatch.fnmatchcase(first, pattern) for pattern in OURS):
        raise UserError(f"{name} {path}: the run keeps its {first} there; write to a file with another name")


def require_layout(run: str | Path) -> None:
    """Raises UserError if a file has the name of one of the run's folders, or a folder that of one of its files:
    before steps are trained that it would keep from being saved."""
    if storage.is_remote(run):
        return
    fix = "rename it, or choose another model_path"
    for path in (_in(run, name) for name in FOLDERS):
        if os.path.lexists(path) and not os.path.isdir(path):
            what = "a link that leads nowhere" if os.path.islink(path) else "a file"
            raise UserError(f"{path} is {what}, and the run needs a folder of this name; {fix}")
    names = os.listdir(run) if os.path.isdir(run) else []
    files = [name for name in sorted(names) if any(fnmatch.fnmatch(name, pattern) for pattern in (*FILES, CONFIG))]
    for path in (_in(run, name) for name in files):
        if os.path.islink(path) and not os.path.isdir(os.path.dirname(os.path.realpath(path))):
            raise UserError(f"{path} is a link into a folder that does not exist; create that folder, or {fix}")
        if os.path.islink(os.path.realpath(path)):
            raise UserError(f"{path} is a link that leads back to itself; {fix}")
        if os.path.exists(path) and not os.path.isfile(path):
            what = "a folder" if os.path.isdir(path) else "no regular file"
            raise UserError(f"{path} is {what}, and the run needs a file of this name; {fix}")


def check_vocabulary(folder: str | Path, digest: str | None) -> None:
    """Raises UserError if the vocabulary differs from the one that the run began with."""
    if digest and vocabulary_digest(folder) not in (None, digest):
        raise UserError(
            f"{folder} was trained with another vocabulary than the one in use now; set encoder_path to it, or "
            "choose another model_path to start over"
        )


def vocabulary_digest(folder: str | Path) -> str | None:
    """Digest of the vocabulary that the run was trained with; None if unknown."""
    return _read(folder, VOCABULARY).get("digest")


def where_it_is(values: dict[str, Any], path: str) -> dict[str, Any]:
    """The keys of a JSON file; of a run's own config.json, wherever the run was moved or copied to, with its folder.

    Relative paths that lead nowhere from here are taken from the directory in which the run was trained; those that
    are looked for in data_path first stay where it has them.
    """
    name = path.replace(os.sep, "/").rpartition("/")[2]
    folder = path[: -len(name)].rstrip("/") or "." if name == CONFIG else ""
    ours = ("checkpoints", ORIGIN)  # a copy without its checkpoints is no name for the run that it is of
    if not folder or "model_path" not in values or not any(storage.exists(_in(folder, name)) for name in ours):
        return values
    directory = str(_read(folder, ORIGIN).get("working_directory", ""))

    def found(entry: Any, data: Any = None) -> Any:
        if isinstance(entry, list):
            return [found(each, data) for each in entry]
        if not isinstance(entry, str) or storage.is_remote(entry) or os.path.isabs(entry):
            return entry
        # The name of a directory that is gone is no pattern for the names of others.
        there = os.path.join(directory, entry) if os.path.isdir(directory) else entry
        within = [os.path.join(data, entry)] if isinstance(data, str) and os.path.isdir(data) else []
        places = {entry: entry, **dict.fromkeys(within, entry), there: there}
        # A name with brackets that exists anywhere is meant as it is, and no pattern for other names.
        fitting = (place for is_there in (storage.exists, storage.glob) for place in places if is_there(place))
        return places[next(fitting, entry)]

    located = {key: found(values[key]) for key in ("data_path", "encoder_path", "init_from") if key in values}
    within = {key: found(values[key], located.get("data_path")) for key in ("eval_split", "dataset") if key in values}
    return values | located | within | {"model_path": folder if storage.is_remote(folder) else os.path.abspath(folder)}


def content(folder: str | Path) -> str | None:
    """Digest of the documents of the run's latest start; None if unknown."""
    return _read(folder, ORIGIN).get("content")


def system_message(folder: str | Path) -> str | None:
    """The system message with which most conversations of the run's latest start begin; None if unknown."""
    return _read(folder, ORIGIN).get(SYSTEM_MESSAGE)


def identity(folder: str | Path) -> str | None:
    """The number of the run, which its checkpoints repeat; None for a new run and one of an earlier version."""
    return _read(folder, ORIGIN).get(RUN)


def split_rules(folder: str | Path) -> SplitRules:
    """How names divide the run's data: as when it was begun; a new run's, by the newest rules."""
    if not config_before(folder):
        return NEWEST_SPLIT
    return SplitRules(min(int(_read(folder, ORIGIN).get(BY_NAMES, False)), NEWEST_SPLIT))


def config_before(folder: str | Path) -> dict[str, Any]:
    """Configuration of the run's latest start; empty for a new folder."""
    return read_config(folder) if storage.is_file(_in(folder, CONFIG)) else {}


def other_split(folder: str | Path, values: dict[str, Any], *, content: str) -> list[str]:
    """Describes how the evaluation text differs from the text that training held out: eval_split or the data.

    content: digest of the current documents. Runs without a stored digest are compared by their keys only.
    """
    if not storage.is_file(_in(folder, CONFIG)):
        return []
    before = where_it_is(read_config(folder), _in(folder, CONFIG))
    origin = _read(folder, ORIGIN)
    lines = []
    if _absolute(before.get("eval_split")) != _absolute(values.get("eval_split")):
        lines.append(f"the run was trained with eval_split {json.dumps(before.get('eval_split'))}")
    if origin.get("content", content) != content:
        lines.append(f"the run was trained on other data ({origin.get('data_path') or before.get('data_path')})")
    return lines


def _absolute(entry: Any) -> Any:
    """The paths of `eval_split` in one spelling, as far as they lead somewhere from here."""
    if isinstance(entry, list):
        return [_absolute(each) for each in entry]
    is_here = isinstance(entry, str) and not storage.is_remote(entry) and storage.glob(entry)
    return os.path.abspath(entry) if is_here else entry


def read_config(folder: str | Path) -> dict[str, Any]:
    """Reads the configuration from a run's folder. Raises UserError if the folder is of a later version."""
    values = _read(folder, CONFIG)
    if not {"model_path", "train_batch_size"} <= set(values):
        raise UserError(f"{folder} is not the folder of a run: it has no {CONFIG} of ours")
    _read(folder, ORIGIN)  # has the version of the folder's format
    return values


def clean(folder: str | Path) -> None:
    """Removes the files that a run wrote and nothing else. Raises UserError if the folder is not a run's."""
    if not (any(Path(folder).iterdir()) if Path(folder).is_dir() else storage.is_folder(str(folder))):
        return
    given = read_config(folder).get("encoder_path") or ""
    with locked(folder):
        # config.json goes last, so that an interrupted clean can be repeated.
        for pattern in OURS:
            if pattern == LOCK and storage.is_remote(folder):
                continue  # `locked` takes it away
            if pattern == VOCABULARY_COPY and os.path.realpath(given) == os.path.realpath(_in(folder, pattern)):
                continue  # the user's own
            for path in storage.children(str(folder), pattern):
                if os.path.islink(path) and os.path.isdir(path):  # a symlink, perhaps to a larger disk, is the user's
                    for entry in storage.children(path, "[0-9]*"):
                        storage.remove(entry)
                else:
                    storage.remove(path)


def _in(folder: str | Path, name: str) -> str:
    return storage.join(str(folder), name)


def _read(folder: str | Path, name: str) -> dict[str, Any]:
    """A JSON file of the run; {} where there is none."""
    path = _in(folder, name)
    if not storage.is_file(path):
        return {}
    try:
        values = json_text.loads(storage.read_bytes(path).decode())
    except ValueError:
        raise UserError(f"{path} is not valid JSON; restore it from a copy") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a JSON object; restore it from a copy")
    format_version.check(values, path)
    if not is_whole(values):
        raise UserError(f"{path} is damaged: its checksum does not match; restore it from a copy")
    return values
