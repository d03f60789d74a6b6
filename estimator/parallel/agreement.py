"""Checks that all processes of a run have equal settings; unequal ones would silently train a wrong model."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from estimator.errors import UserError, message

PACKAGE = Path(__file__).resolve().parents[2]
CODE = ("*.py", "estimator/**/*.py", "models/**/*.py", "models/**/*.cc", "models/**/*.h")
SHOWN = 8  # differences listed in the error


def environment() -> dict[str, object]:
    """Settings outside the JSON file that affect results: versions, code, flags, devices of each process."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in CODE for path in PACKAGE.glob(pattern)):
        digest.update(path.read_bytes())
    return {
        "version of JAX": jax.__version__,
        "code": digest.hexdigest()[:12],
        **{name: os.environ.get(name) for name in ("XLA_FLAGS", "JAX_DEFAULT_MATMUL_PRECISION")},
        "floats": jax.dtypes.canonicalize_dtype(float).name,
        "kind of device": jax.local_devices()[0].device_kind,
        "devices of each process": jax.local_device_count(),
    }


def require_equal(values: Callable[[], Mapping[str, object]]) -> None:
    """Raises UserError on all processes, naming each differing key, unless `values` returns the same on each.

    A collective: every process must call it. With a single process `values` is not called.
    """
    if jax.process_count() == 1:
        return
    everyone = _gather(json.dumps(values(), sort_keys=True, default=str).encode())
    first, *others = (json.loads(each) for each in everyone)
    lines = []
    for process, other in enumerate(others, 1):
        for key in sorted(first.keys() | other.keys()):
            if first.get(key) != other.get(key):
                lines.append(f"{key}: {first.get(key)!r} on process 0, {other.get(key)!r} on process {process}")
    if lines:
        more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        raise UserError(
            f"the processes of this run were not started alike: {'; '.join(lines[:SHOWN])}{more}. Start the "
            "same command with the same files on every host"
        )


def from_first(value: Callable[[], Any]) -> Any:
    """Broadcasts the JSON value that `value` returns on process 0, or raises its error on all. A collective."""
    if jax.process_count() == 1:
        return value()
    answer: dict[str, Any] = {}
    if jax.process_index() == 0:
        try:
            answer = {"value": value()}
        except (UserError, OSError) as error:  # else the others would wait for this process
            answer = {"error": message(error)}
    answer = json.loads(_gather(json.dumps(answer).encode())[0])
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["value"]


def _gather(content: bytes) -> list[bytes]:
    """Gathers the messages of all processes, ordered by process index."""
    lengths = multihost_utils.process_allgather(np.int32(len(content))).reshape(-1)
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    rows = multihost_utils.process_allgather(padded).reshape(len(lengths), -1)
    return [row[:length].astype(np.uint8).tobytes() for row, length in zip(rows, lengths, strict=True)]
