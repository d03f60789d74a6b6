"""Checkpoints of a run, by Orbax: written in the background, committed whole or not at all, checked when read.

Each holds the state's tree and a checksum of every array; damage between writing and reading is found, not trained on.
"""

import contextlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from runtime import storage, stores
from runtime.checkpoint_copies import CheckpointCopies
from runtime.errors import UserError
from runtime.params import path_name

# Without this, Orbax's path library imports TensorFlow where it happens to be installed.
os.environ.setdefault("EPATH_USE_TF", "0")

from etils import epath
from orbax.checkpoint import v1 as ocp

NOT_SAVED = ocp.PLACEHOLDER  # in a template: leave this part in the file


class Checkpoints:
    """The checkpoints in one folder, named by their steps."""

    def __init__(self, folder: str | Path, *, writer: bool = False, keep_last: int = 5, keep_every: int | None = None):
        """Keeps the newest `keep_last` and, for ever, those whose step is a multiple of `keep_every`.

        writer: removes what a killed writer left unfinished; there must be no other writer.
        """
        # Orbax logs each failure of each of its threads with a traceback; we tell of it once.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._copies = None
        self._orbax_reaches = str(folder).startswith("gs://")
        if self._orbax_reaches:
            stores.prepare(str(folder))
            self.folder: Any = epath.Path(folder)
        elif storage.is_remote(folder):
            self._copies = CheckpointCopies(str(folder), writer=writer, keep_last=keep_last, keep_every=keep_every)
            self.folder = self._copies.local
        else:
            self.folder = Path(folder).absolute()
        policies = ocp.training.preservation_policies
        preserve: list[Any] = [policies.LatestN(keep_last)]
        if keep_every:
            preserve.append(policies.EveryNSteps(keep_every))
        context = ocp.Context()
        # zstd would make weights 8 % smaller, and take seconds of a core for each gigabyte, which training then lacks.
        context.array.saving.use_compression = False
        self._checkpointer = ocp.training.Checkpointer(
            self.folder,
            context=context,
            preservation_policy=policies.AnyPreservationPolicy(preserve),
            cleanup_tmp_directories=writer,
        )
        self._writer = writer
        self._background = ThreadPoolExecutor(1)
        self._pending: Any = None

    @property
    def latest_step(self) -> int | None:
        latest = self._checkpointer.latest
        return latest.step if latest else None

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Takes a copy of the state and returns; the copy is written in the background. Waits for an earlier one."""
        self.wait()
        if jax.process_count() == 1 and _is_room_beside(state):
            self._pending = self._background.submit(self._write, step, _copied(state))  # queued behind the last step
        else:
            pending = self._begin(step, state)  # returns when the state has left the devices
            self._pending = self._background.submit(self._finish, pending)

    def _write(self, step: int, state: dict[str, Any]) -> None:
        self._finish(self._begin(step, state))

    def _begin(self, step: int, state: dict[str, Any]) -> Any:
        tree = {"state": state, "checksums": _checksums(state)}
        with self._writing():
            return self._checkpointer.save_async(step, tree, force=True)

    def _finish(self, pending: Any) -> None:
        pending.result()
        if self._copies:
            self._copies.push()

    def wait(self) -> None:
        """Returns when what was saved is where the run is kept; a write that failed is a UserError."""
        pending, self._pending = self._pending, None
        if pending is not None:
            with self._writing():
                pending.result()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._background.shutdown()
            try:
                with self._writing():
                    self._checkpointer.close()
            finally:
                self._give_back()

    def _give_back(self) -> None:
        """Removes the unfinished checkpoint of a write that failed: its space may be what is missing."""
        for _ in range(25):  # Orbax's threads may still be putting files there
            unfinished = (
                list(self.folder.glob("*.orbax-checkpoint-tmp")) if self._writer and not self._orbax_reaches else []
            )
            if not unfinished:
                return
            for path in unfinished:
                shutil.rmtree(path, ignore_errors=True)
            time.sleep(0.2)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns Orbax's errors into one that says what to do."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{self.folder}: a checkpoint could not be written: {_root_cause(error)}. Earlier ones are whole; "
                "mend the cause (free some space?) and run the same command to continue from them"
            ) from error

    def restore(self, template: dict[str, Any], *, step: int | None = None) -> dict[str, Any]:
        """A checkpoint, the newest or that of a step, in the form of `template`.

        Each part of it is a tree of ShapeDtypeStruct with shardings.

        A part, or leaf, that is NOT_SAVED is not read. The devices may be others than those it was written from.
        """
        tries = 3 if self._orbax_reaches else 1  # what a bad line has damaged is whole the next time
        while True:
            try:
                return self._restore(template, step=step)
            except UserError:
                tries -= 1
                if not tries:
                    raise

    def _restore(self, template: dict[str, Any], *, step: int | None = None) -> dict[str, Any]:
        steps = [info.step for info in self._checkpointer.checkpoints]
        assert steps, "no checkpoint to restore"
        if step is not None and step not in steps:
            raise UserError(f"{self.folder} has no step {step}; there are {', '.join(map(str, steps))}")
        step = max(steps) if step is None else step
        # A damaged file makes Orbax abandon coroutines, whose last words would bury our message.
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            stored = self._checkpointer.metadata(step).metadata["state"]
            self._check_shapes(step, stored, template)
            wanted = {
                name: jax.tree.map(lambda _: NOT_SAVED, stored[name]) if part is NOT_SAVED else part
                for name, part in template.items()
            }
            sums = jax.tree.map(lambda leaf: leaf if leaf is NOT_SAVED else _checksum_of(leaf), wanted)
            tree = self._checkpointer.load(step, {"state": wanted, "checksums": sums})
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise UserError(
                f"{self.folder / str(step)} could not be read: {_root_cause(error)}. {self._if_damaged(step)}"
            ) from error
        finally:
            sys.unraisablehook = hook
        read = {name: tree["state"][name] for name, part in template.items() if part is not NOT_SAVED}
        checksums = {name: tree["checksums"][name] for name in read}
        expected, actual = jax.device_get((_read(checksums), _checksums(_read(read))))
        if not all(map(np.array_equal, expected, actual)):
            raise UserError(
                f"{self.folder / str(step)}: the data do not have the checksum they were written with. "
                + self._if_damaged(step)
            )
        return template | read

    def _check_shapes(self, step: int, stored: Any, template: dict[str, Any]) -> None:
        parts = {name: part for name, part in template.items() if part is not NOT_SAVED}
        saved = {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(stored)}
        leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(parts)}
        here = {name: saved.get(name) if leaf is NOT_SAVED else leaf.shape for name, leaf in leaves.items()}
        saved = {name: shape for name, shape in saved.items() if name.split("/")[0] in parts}
        differing = [name for name in sorted(saved | here) if saved.get(name) != here.get(name)]
        if differing:
            lines = [f"  {name}: saved {saved.get(name, 'none')}, here {here.get(name, 'none')}" for name in differing]
            more = [f"  and {len(lines) - 5} more"] if len(lines) > 5 else []
            raise UserError(
                f"{self.folder / str(step)} was written by another model or optimizer than the JSON file describes; "
                "take the file that it was trained with, or another model_path:\n" + "\n".join(lines[:5] + more)
            )

    def _if_damaged(self, step: int) -> str:
        earlier = [info.step for info in self._checkpointer.checkpoints if info.step < step]
        other = f"continue from step {earlier[-1]}" if earlier else "start from the beginning"
        return f"If it is damaged, remove that folder to {other}"


def _read(tree: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(tree) if leaf is not NOT_SAVED]


def _checksum_of(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Shape and place of an array's checksum: whole on each of the array's devices."""
    assert isinstance(leaf.sharding, NamedSharding), leaf
    return jax.ShapeDtypeStruct((), jnp.uint32, sharding=NamedSharding(leaf.sharding.mesh, PartitionSpec()))


def _is_room_beside(state: Any) -> bool:
    """Whether each device has room for a second state, by the most that it has ever held."""
    needed = dict.fromkeys(jax.local_devices(), 0)
    for leaf in jax.tree.leaves(state):
        for shard in leaf.addressable_shards:
            needed[shard.device] += shard.data.nbytes
    known = [(device.memory_stats(), size) for device, size in needed.items()]
    return all(stats["peak_bytes_in_use"] + size < stats["bytes_limit"] for stats, size in known if stats)


@jax.jit
def _copied(tree: Any) -> Any:
    return jax.tree.map(jnp.copy, tree)


def _checksums(tree: Any) -> Any:
    """uint32 sum of each array's bits: the same for every way of splitting it over devices."""
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


def _root_cause(error: BaseException) -> str:
    seen = [error]  # Orbax raises an error of one thread again in others: causes may go in circles
    while (cause := seen[-1].__cause__ or seen[-1].__context__) and cause not in seen:
        seen.append(cause)
    error = [error for error in seen if not isinstance(error, UserError)][-1]
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if len(text) <= 300 else f"{text[:100]} ... {text[-200:]}"
