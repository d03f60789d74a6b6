"""A checkpoint of some arrays for the fuzzer, and how it is read."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from estimator.errors import UserError
from estimator.training.checkpoint_reader import restore
from estimator.training.checkpoints import Checkpoints

STEP = 4
# The files that are changed.
CHECKPOINTS = {
    "description": "_CHECKPOINT_METADATA",
    "metadata": "state/_METADATA",
    "shardings": "state/_sharding",
    "manifest": "state/manifest.ocdbt",
    "data": "state/**/d/*",
}


def checkpoint(folder: Path, name: str, arrays: Mapping[str, np.ndarray]) -> Path:
    """Writes a checkpoint into a folder and returns the largest file of that name in CHECKPOINTS."""
    with contextlib.closing(Checkpoints(folder, writer=True)) as written:
        written.save(STEP, {"params": _on_device(arrays, jax.numpy.asarray)})
    return max((folder / str(STEP)).glob(CHECKPOINTS[name]), key=lambda path: path.stat().st_size)


def read_checkpoint(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The arrays of the checkpoint with this file. arrays: of the shapes and types that it has."""
    folder = next(parent.parent for parent in path.parents if parent.name == str(STEP))
    wanted = _on_device(arrays, lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding))
    # Orbax prints what it cannot read to standard output, where the worker answers.
    with contextlib.closing(Checkpoints(folder)) as read, contextlib.redirect_stdout(None):
        if not read.steps:
            raise UserError(f"{folder}: no checkpoint")
        return jax.device_get(restore(read, {"params": wanted})["params"])


def _on_device(arrays: Mapping[str, np.ndarray], leaf: Callable[[jax.Array], Any]) -> dict[str, Any]:
    replicated = NamedSharding(Mesh(jax.devices()[:1], "data"), PartitionSpec())
    return {name: leaf(jax.device_put(array, replicated)) for name, array in arrays.items()}
