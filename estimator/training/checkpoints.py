"""Saves checkpoints with Orbax: asynchronous writes, atomic commits.

A checkpoint holds the training state and a checksum of every array, so a file that was damaged after it was written
raises an error instead of being trained on.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from estimator import format_version, storage
from estimator.errors import UserError
from estimator.parallel.param_spec import path_name
from estimator.storage import backends
from estimator.training import abandoned, orbax_errors, orbax_paths, run_dir
from estimator.training.remote_checkpoints import CheckpointCopies

# Without this, Orbax's path library imports TensorFlow where it happens to be installed.
os.environ.setdefault("EPATH_USE_TF", "0")

from etils import epath

REQUIRED_FILES = ("state/manifest.ocdbt", "state/_METADATA")
NOT_SAVED: Any = ...  # Orbax's placeholder in a template: leave this part in the file


class _Protected:
    """Orbax's policy that preserves a set of steps, which may change."""

    def __init__(self) -> None:
        self.steps: set[int] = set()

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        return [checkpoint.step in self.steps for checkpoint in checkpoints]


class Checkpoints:
    """The checkpoints in one folder, named by their steps.

    `protected.steps` are not rotated out. `run`: which run they are saved with (`run_identity`), if it is set.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        writer: bool = False,
        guard: Callable[[], None] | None = None,
        keep_last: int = 5,
        keep_every: int | None = None,
    ):
        """Keeps the newest `keep_last` checkpoints and, permanently, those at multiples of `keep_every`.

        guard: raises UserError when the folder is no longer the writer's; called before each save.
        writer: removes what a killed writer left unfinished; there must be no other writer.
        """
        from orbax.checkpoint import v1 as ocp  # takes a fifth of a second, which released weights need not wait for

        orbax_errors.silence()
        self.protected = _Protected()
        self._copies = None
        self.orbax_reaches = str(folder).startswith("gs://")
        if self.orbax_reaches:
            backends.prepare(str(folder))
            self.folder: Any = epath.Path(folder)
        elif storage.is_remote(folder):
            keep = {"keep_last": keep_last, "keep_every": keep_every, "protected": self.protected.steps}
            self._copies = CheckpointCopies(str(folder), writer=writer, **keep)
            self.folder = self._copies.local
        else:
            self.folder = Path(os.path.realpath(folder))
        readable, self._alias = orbax_paths.readable(self.folder, is_in_bucket=self.orbax_reaches)
        policies = ocp.training.preservation_policies
        preserve: list[Any] = [policies.LatestN(keep_last), self.protected]
        if keep_every:
            preserve.append(policies.EveryNSteps(keep_every))
        context = ocp.Context()
        # zstd makes weights only 8 % smaller and takes seconds of a core per gigabyte away from training.
        context.array.saving.use_compression = False
        with orbax_errors.named_description(self.folder):
            self.checkpointer = ocp.training.Checkpointer(
                readable,
                context=context,
                preservation_policy=policies.AnyPreservationPolicy(preserve),
                cleanup_tmp_directories=writer,
            )
        self.run: str | None = None
        self._metadata = format_version.stamped({})
        self._writer = writer
        self._guard = guard or (lambda: None)
        self._background = ThreadPoolExecutor(1)
        self._pending: Any = None
        self.is_given_up = False

    @property
    def steps(self) -> list[int]:
        """Steps of all checkpoints, including those that only the bucket holds."""
        return sorted(
            {info.step for info in self.checkpointer.checkpoints} | (self._copies.steps if self._copies else set())
        )

    @property
    def latest_step(self) -> int | None:
        latest = self.checkpointer.latest
        return latest.step if latest else None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Copies the state and returns; a background thread writes the copy. Waits for an earlier save first."""
        self.wait()
        self._guard()
        if jax.process_count() == 1 and _is_room_beside(state):
            self._pending = self._background.submit(self._write, step, _copied(state))  # queued behind the last step
        else:
            pending = self._begin(step, state)  # returns when the state has left the devices
            self._pending = self._background.submit(self._finish, step, pending)

    def _write(self, step: int, state: dict[str, Any]) -> None:
        self._finish(step, self._begin(step, state))

    def _begin(self, step: int, state: dict[str, Any]) -> Any:
        tree = {"state": state, "checksums": checksums(state)}
        with self._writing():
            metadata = self._metadata | ({run_dir.RUN: self.run} if self.run else {})
            return self.checkpointer.save_async(step, tree, force=True, custom_metadata=metadata)

    def _finish(self, step: int, pending: Any) -> None:
        pending.result()
        if missing := self.missing_files(step):
            raise UserError(
                f"{self.folder / str(step)} was written without {missing}; report this path and file system"
            )
        if self._copies:
            self._copies.push()

    def missing_files(self, step: int) -> str:
        """Lists required files that the checkpoint lacks."""
        folder = self.folder / str(step)
        return " and ".join(name for name in REQUIRED_FILES if not (folder / name).exists())

    @property
    def is_writing(self) -> bool:
        """Whether a save of this process is still under way."""
        return self._pending is not None and not self._pending.done()

    def raise_failure(self) -> None:
        """Raises the error of a background save that failed; does not wait."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Waits until the last save has reached the run's folder. Raises UserError if the write failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            with self._writing():
                if wait([pending], abandoned.SLOW_SECONDS).not_done:
                    self.is_given_up = True
                    abandoned.await_done(pending, abandoned.WRITTEN)
                    self.is_given_up = False
                pending.result()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._background.shutdown(wait=not self.is_given_up)
            try:
                if not self.is_given_up:
                    with self._writing():
                        self.checkpointer.close()
            finally:
                if self._writer and not self.orbax_reaches:
                    abandoned.remove_unfinished(self.folder)
                if self._alias:
                    self._alias.cleanup()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns Orbax's errors into one UserError with advice."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{self.folder}: a checkpoint could not be written: {orbax_errors.cause_and_fix(error)}. Earlier ones "
                "are whole: the same command continues from them"
            ) from error


def _is_room_beside(state: Any) -> bool:
    """Whether each device has memory for a second copy of the state, judged by its peak use so far."""
    needed = dict.fromkeys(jax.local_devices(), 0)
    for leaf in jax.tree.leaves(state):
        for shard in leaf.addressable_shards:
            needed[shard.device] += shard.data.nbytes
    known = [(device.memory_stats(), size) for device, size in needed.items()]
    return all(stats["peak_bytes_in_use"] + size < stats["bytes_limit"] for stats, size in known if stats)


@jax.jit
def _copied(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def checksums(tree: Any) -> Any:
    """uint32 sum of each array's bits; independent of the sharding."""
    if jax.process_count() == 1 and jax.default_backend() == "cpu":
        return jax.tree.map(_checksum_here, tree)  # XLA's sum of an array is several times slower
    return _checksums_on_devices(tree)


def _checksum_here(leaf: jax.Array) -> jax.Array:
    bits = np.asarray(leaf).reshape(-1).view(f"uint{8 * leaf.dtype.itemsize}")
    return jnp.asarray(np.sum(bits, dtype=np.uint32))


@jax.jit
def _checksums_on_devices(tree: Any) -> Any:
    def add(leaf: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * leaf.dtype.itemsize}"))
        return jnp.sum(bits.astype(jnp.uint32), dtype=jnp.uint32)

    return jax.tree.map(add, tree)


def not_finite(values: Any) -> list[str]:
    """Names of arrays with non-finite values, which are neither saved nor used. A collective."""
    leaves = [pair for pair in jax.tree_util.tree_leaves_with_path(values) if isinstance(pair[1], jax.Array)]
    if jax.process_count() == 1 and jax.default_backend() == "cpu":
        # One pass without a temporary. A sum of finite values may overflow, so it only preselects arrays.
        with np.errstate(over="ignore", invalid="ignore"):
            leaves = [(path, leaf) for path, leaf in leaves if not np.isfinite(np.sum(np.asarray(leaf)))]
    is_finite = jax.device_get(_all_finite([leaf for _, leaf in leaves])) if leaves else []
    return [path_name(path) for (path, _), finite in zip(leaves, is_finite, strict=True) if not finite]


@jax.jit
def _all_finite(leaves: list[jax.Array]) -> list[jax.Array]:
    return [jnp.isfinite(leaf).all() for leaf in leaves]


def listed(names: list[str]) -> str:
    """The first names, and how many more."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
