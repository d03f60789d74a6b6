"""How evaluations are shown and kept: a progress bar, tables, and the run's evaluations.jsonl."""

import contextlib
import errno
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tqdm import tqdm

from estimator import storage
from estimator.parallel import distributed
from estimator.training import run_dir

FILE_NAME = "evaluations.jsonl"


@contextlib.contextmanager
def progress(n_tokens: int) -> Iterator[Callable[[int], object]]:
    """A bar on a terminal; yields the function that counts tokens."""
    is_shown = sys.stderr.isatty() and distributed.is_first()
    with tqdm(total=n_tokens, unit="tok", unit_scale=True, disable=not is_shown, leave=False, desc="scoring") as bar:
        yield bar.update


def append(folder: str, record: Mapping[str, Any]) -> None:
    """Adds a line to the evaluations of a run that has begun; others are only printed."""
    if not run_dir.config_before(folder):
        print(f"note: {folder} is not the folder of a run yet, so {FILE_NAME} is not written", file=sys.stderr)
        return
    line = json.dumps({**record, "time": round(time.time(), 3)}, allow_nan=False)
    try:
        storage.append(storage.join(folder, FILE_NAME), line + "\n")
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        print(f"note: {folder}/{FILE_NAME} is not written: {error.strerror}", file=sys.stderr)


def table(name: str, columns: Mapping[str, float]) -> Iterator[str]:
    """Two lines of columns: the ranges of a quantity, and the mean loss in each."""
    widths = [max(len(key), 7) for key in columns]
    first = max(len(name), len("loss"))
    yield f"  {name:<{first}}  " + " ".join(f"{key:>{n}}" for key, n in zip(columns, widths, strict=True))
    yield f"  {'loss':<{first}}  " + " ".join(
        f"{value:>{n}.4f}" for value, n in zip(columns.values(), widths, strict=True)
    )
