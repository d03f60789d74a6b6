"""Checkpoints of a run, by Orbax: written in the background, committed whole or not at all, checked when read.

Each holds the state's tree and a checksum of every array; damage between writing and reading is found, not trained on.
"""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from runtime.errors import UserError

# Without this, Orbax's path library imports TensorFlow where it happens to be installed.
os.environ.setdefault("EPATH_USE_TF", "0")

from orbax.checkpoint import v1 as ocp  # noqa: E402

NOT_SAVED = ocp.PLACEHOLDER  # in a template: leave this part in the file


class Checkpoints:
    """The checkpoints in one folder, named by their steps."""

    def __init__(self, folder: str | Path, *, keep_last: int = 5, keep_every: int | None = None):
        """Keeps the newest `keep_last` and, for ever, those whose step is a multiple of `keep_every`."""
        self.folder = Path(folder).absolute()
        policies = ocp.training.preservation_policies
        preserve: list[Any] = [policies.LatestN(keep_last)]
        if keep_every:
            preserve.append(policies.EveryNSteps(keep_every))
        self._checkpointer = ocp.training.Checkpointer(
            self.folder,
            preservation_policy=policies.AnyPreservationPolicy(preserve),
            cleanup_tmp_directories=True,
        )
        self._pending: Any = None

    @property
    def latest_step(self) -> int | None:
        latest = self._checkpointer.latest
        return latest.step if latest else None

    def save(self, step: int, state: Any) -> None:
        """Takes a copy of the state and returns; the copy is written in the background. Waits for an earlier one."""
        self.wait()
        tree = {"state": state, "checksums": _checksums(state)}
        self._pending = self._checkpointer.save_async(step, tree, force=True)

    def wait(self) -> None:
        """Returns when what was saved is on disk; a write that failed is a UserError."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{self.folder}: the checkpoint could not be written ({_first_line(error)}); earlier ones are whole. "
                "Free some space or mend the folder, then run the same command to continue from them"
            ) from error

    def restore(self, template: Any) -> Any:
        """The newest checkpoint as `template`: a tree of ShapeDtypeStruct with shardings; parts NOT_SAVED are skipped.

        The devices may be others than those it was written from.
        """
        step = self.latest_step
        assert step is not None, "no checkpoint to restore"
        checksums = jax.tree.map(
            lambda leaf: leaf if leaf is NOT_SAVED else jax.ShapeDtypeStruct((), jnp.uint32), template
        )
        try:
            tree = self._checkpointer.load(step, {"state": template, "checksums": checksums})
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise UserError(self._unreadable(step, _first_line(error))) from error
        read, checksums = (_without_not_saved(tree[part]) for part in ("state", "checksums"))
        expected, actual = jax.device_get((checksums, _checksums(read)))
        if not all(jax.tree.leaves(jax.tree.map(np.array_equal, expected, actual))):
            raise UserError(self._unreadable(step, "its data does not have the checksum it was written with"))
        return tree["state"]

    def _unreadable(self, step: int, cause: str) -> str:
        earlier = [info.step for info in self._checkpointer.checkpoints if info.step < step]
        other = f"continue from step {earlier[-1]}" if earlier else "start from the beginning"
        return (
            f"{self.folder / str(step)} cannot be read: {cause}. If the JSON file describes another model than the "
            f"one saved there, choose another model_path; else the checkpoint is damaged: remove that folder to {other}"
        )

    def close(self) -> None:
        self.wait()
        self._checkpointer.close()


def _without_not_saved(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: None if leaf is NOT_SAVED else leaf, tree)


@jax.jit
def _checksums(tree: Any) -> Any:
    """uint32 sum of each array's bits: the same for every way of splitting it over devices."""

    def add(leaf: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * leaf.dtype.itemsize}"))
        return jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)

    return jax.tree.map(add, tree)


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
