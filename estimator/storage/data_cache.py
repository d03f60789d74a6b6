"""Copies of remote data on this machine's disk, fetched once, shared by all its processes, and bounded.

A run draws its windows in random order from all of its documents, so a part of the data that is smaller than the whole
would be fetched over and over: whole files are copied before training begins, and what does not fit is refused. Each
remote folder has a folder here. Of these the least recently used go when space is needed, never one in use.
"""

import contextlib
import fnmatch
import functools
import glob
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from estimator import json_text, quantities, storage
from estimator.errors import UserError
from estimator.quantities import numbered
from estimator.storage import locks
from estimator.storage.backends import ObjectStat
from estimator.storage.cache_root import folder_of

COPIES, IN_USE, FETCHING = ".copies.json", ".in_use", ".fetching"
AT_ONCE = 8  # files fetched at the same time
DescribedBy = Callable[[Collection[str], Collection[str]], Iterable[str]]  # files wanted, all files: more of these


def local(
    entry: str,
    *,
    limit_gb: float,
    recursive: bool = False,
    siblings: bool = False,
    parts: Collection[str] = (),
    described_by: DescribedBy = lambda chosen, there: (),
    named: Collection[str] = (),
) -> str:
    """Copies a remote folder, file or pattern to this machine, and returns the local one that replaces it.

    limit_gb: largest size of all copies together. recursive: copies all subfolders of a folder, not only those named in
    `parts`. siblings: copies the other files in the folder of a file too. described_by: more files that come along.
    named: all entries that are fetched, as files that are named one by one may be described together.
    Raises UserError where nothing exists there, or there is no room.
    """
    base, last = _divided(entry)
    target = folder_of(base)
    target.mkdir(parents=True, exist_ok=True)
    _in_use(str(target), os.getpid())
    with locks.exclusive(target / FETCHING, f"another process fetches into {target}", wait=True):
        there = {path.removeprefix(f"{base}/"): known for path, known in storage.listing_with_facts(base).items()}
        wanted = _wanted(entry, base, last, there, recursive=recursive, siblings=siblings, parts=parts)
        together = wanted.keys() | _names(named, base, there)
        wanted |= {name: there[name] for name in described_by(together, there)}
        _fetch(base, target, there, wanted, limit=int(limit_gb * 1e9))
    return str(target / last) if last else str(target)


def _divided(entry: str) -> tuple[str, str]:
    """The remote folder, and the file or pattern within, "" for all of it."""
    if not storage.is_pattern(entry):
        base, _, last = entry.rpartition("/")
        return (base, last) if last and storage.is_file(entry) else (entry.rstrip("/"), "")
    parts = entry.split("/")
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return "/".join(parts[:first]), "/".join(parts[first:])


def _wanted(
    entry: str,
    base: str,
    last: str,
    there: dict[str, ObjectStat],
    *,
    recursive: bool,
    siblings: bool,
    parts: Collection[str],
) -> dict[str, ObjectStat]:
    if storage.is_pattern(entry):
        chosen = {path.removeprefix(f"{base}/") for path in storage.glob(entry)}
    elif last and not siblings:
        chosen = {last}
    else:
        chosen = {name for name in there if recursive or "/" not in name or name.rpartition("/")[0].lower() in parts}
    chosen = {name for name in chosen if not any(part.startswith(".") for part in name.split("/"))}
    found = {name: there[name] for name in sorted(chosen) if name in there}
    if not found:
        raise UserError(f"{entry}: nothing exists there; check the spelling of the path")
    return found


def _names(entries: Collection[str], base: str, there: Collection[str]) -> set[str]:
    """The files of the folder that are among the entries, or match patterns among them."""
    within = [entry.removeprefix(f"{base}/") for entry in entries if entry.startswith(f"{base}/")]
    patterns = [entry for entry in within if entry not in there and glob.has_magic(entry)]
    matching = {name for each in patterns for name in fnmatch.filter(there, each) if name.count("/") == each.count("/")}
    return matching.union(entry for entry in within if entry in there)


def _fetch(base: str, target: Path, there: dict[str, ObjectStat], wanted: dict[str, ObjectStat], *, limit: int) -> None:
    copied = _read_copies(target)
    for name in list(copied):
        known = there.get(name)
        if known is None or not _is_copy(target / name, copied[name], known):
            del copied[name]
            for stale in (target / name, target / f"{name}.index"):
                stale.unlink(missing_ok=True)
    missing = {name: known for name, known in wanted.items() if name not in copied}
    _write_copies(target, copied)  # also the mark of its last use
    if not missing:
        return
    size = sum(known.size for known in missing.values())
    _make_room(target, size, wanted=sum(known.size for known in wanted.values()), base=base, limit=limit)
    files = numbered(len(missing), "file")
    recording = threading.Lock()
    terminal = sys.stderr.isatty()
    if not terminal:
        print(f"fetching {files} ({quantities.size(size)}) from {base} to {target}, once", file=sys.stderr, flush=True)
    with (
        ThreadPoolExecutor(AT_ONCE) as pool,
        tqdm(total=size, desc=f"fetching {base}", unit="B", unit_scale=True, disable=not terminal) as bar,
    ):

        def fetch(name: str) -> None:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            known = storage.download(f"{base}/{name}", target / name)
            with recording:  # else an older record could be written over a newer one
                copied[name] = [known.version, known.size]
                _write_copies(target, copied)
                bar.update(known.size)

        running = [pool.submit(fetch, name) for name in missing]
        try:
            for each in running:
                each.result()
        except BaseException:
            for each in running:
                each.cancel()
            raise


def _is_copy(path: Path, record: list[str | int], known: ObjectStat) -> bool:
    return record == [known.version, known.size] and path.is_file() and path.stat().st_size == known.size


def _make_room(target: Path, size: int, *, wanted: int, base: str, limit: int) -> None:
    """Removes copies that were not used for the longest time, until there is room for `size` more bytes."""
    everything = sorted(target.parent.glob(f"*/{COPIES}"), key=lambda path: path.stat().st_mtime)
    sizes = {path.parent: sum(int(each[1]) for each in _read_copies(path.parent).values()) for path in everything}

    def is_room() -> bool:
        return sum(sizes.values()) + size <= limit and size <= shutil.disk_usage(target).free

    for folder in sizes:
        if is_room():
            return
        if folder != target:
            with contextlib.suppress(locks.Busy), locks.exclusive(folder / IN_USE, f"{folder} is in use"):
                _empty(folder)
                sizes[folder] = 0
    if not is_room():
        raise UserError(
            f"{base}: {wanted / 1e9:.1f} GB of data do not fit with the data in use into {target.parent}, which may "
            f"hold {limit / 1e9:.1f} GB (data_cache_gb) and has {shutil.disk_usage(target).free / 1e9:.1f} GB free; "
            "raise data_cache_gb, set GPT2_CACHE to a folder on a larger disk, or mount the bucket as a folder"
        )


def _empty(folder: Path) -> None:
    (folder / COPIES).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in (IN_USE, FETCHING):
            path.unlink(missing_ok=True)


def _read_copies(folder: Path) -> dict[str, list[str | int]]:
    try:
        found = json_text.loads((folder / COPIES).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_copies(folder: Path, copied: dict[str, list[str | int]]) -> None:
    storage.write_bytes_atomic(str(folder / COPIES), json.dumps(copied, indent=0, sort_keys=True).encode())


@functools.cache
def _in_use(folder: str, process: int) -> TextIO:
    """Marks a folder as in use by this process for as long as it lives."""
    return locks.share(Path(folder) / IN_USE)
