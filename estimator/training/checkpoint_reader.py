"""Restores checkpoints: verified reads, onto any devices."""

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from estimator import format_version, storage
from estimator.errors import UserError, describe_os_error
from estimator.parallel.param_spec import path_name
from estimator.training import abandoned
from estimator.training.checkpoints import NOT_SAVED, Checkpoints, checksums
from estimator.training.orbax_errors import causes, damaged_file, if_damaged, named_description, root_cause, system_code

OPEN_FILES = 16  # that Orbax and TensorStore may need to read a description
OPTIONAL = ("loss_scale", "recent")  # parts that only some settings have; `restore` omits them if they were not saved


class OtherStateError(UserError):
    """A checkpoint has other arrays than the configuration calls for.

    what: of which checkpoint that is so. arrays: a line for each. begins: whether a run can begin with its weights.
    advice: the message without the arrays.
    """

    def __init__(self, what: str, arrays: list[str], *, begins: bool):
        fix = "init_from this run, with another model_path" if begins else "another model_path"
        self.advice = f"{what}; take the values that it was trained with, or {fix}"
        super().__init__("\n".join([f"{self.advice}:", *arrays]))
        self.what, self.arrays, self.begins = what, arrays, begins


def restore(checkpoints: Checkpoints, template: dict[str, Any], *, step: int | None = None) -> dict[str, Any]:
    """Restores the newest checkpoint, or the one of `step`, with the structure of `template`.

    template: part name -> tree of ShapeDtypeStruct with shardings; a part or leaf that is NOT_SAVED is not read.
    The devices and their number may differ from those that wrote the checkpoint. Raises UserError if it is damaged.
    """
    # A read that failed, or a transfer that was corrupted, may succeed the next time.
    tries = 3 if checkpoints.orbax_reaches else 2
    while True:
        newest = checkpoints.latest_step
        try:
            with _noticed_interrupts():
                return _awaited(checkpoints, abandoned.started(partial(_restore, checkpoints, template, step=step)))
        except UserError:
            if checkpoints.is_given_up:
                raise
            with named_description(checkpoints.folder):
                checkpoints.checkpointer.reload()
            # A trainer may have replaced the newest one while it was read here.
            replaced = step is None and checkpoints.latest_step not in (None, newest)
            tries -= not replaced
            if not tries:
                raise


def _awaited(checkpoints: Checkpoints, pending: futures.Future[dict[str, Any]]) -> dict[str, Any]:
    checkpoints.is_given_up = True
    abandoned.await_done(pending, abandoned.READ)
    checkpoints.is_given_up = False
    return pending.result()


def _restore(checkpoints: Checkpoints, template: dict[str, Any], *, step: int | None = None) -> dict[str, Any]:
    steps = [info.step for info in checkpoints.checkpointer.checkpoints]
    assert steps, "no checkpoint to restore"
    if step is not None and step not in steps:
        raise UserError(f"{checkpoints.folder} has no step {step}; available: {', '.join(map(str, steps))}")
    step = max(steps) if step is None else step
    # With a damaged file Orbax abandons coroutines, and their warnings would bury our message.
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        metadata = checkpoints.checkpointer.metadata(step)
        format_version.check(metadata.custom_metadata, checkpoints.folder / str(step))
        stored = metadata.metadata["state"]
        template = {name: part for name, part in template.items() if name in stored or name not in OPTIONAL}
        _check_shapes(checkpoints, step, stored, template)
        parts = dict.fromkeys(stored, NOT_SAVED) | template
        wanted = {
            name: jax.tree.map(lambda _: NOT_SAVED, stored[name]) if part is NOT_SAVED else part
            for name, part in parts.items()
        }
        sums = jax.tree.map(lambda leaf: leaf if leaf is NOT_SAVED else _checksum_of(leaf), wanted)
        tree = checkpoints.checkpointer.load(step, {"state": wanted, "checksums": sums})
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        if any(isinstance(cause, KeyboardInterrupt) for cause in causes(error)):
            raise KeyboardInterrupt from error
        raise UserError(
            f"{checkpoints.folder / str(step)} could not be read: {_reason(checkpoints, step, error)}"
        ) from error
    finally:
        sys.unraisablehook = hook
    read = {name: tree["state"][name] for name, part in template.items() if part is not NOT_SAVED}
    stored_sums = {name: tree["checksums"][name] for name in read}
    expected, actual = jax.device_get((_read(stored_sums), checksums(_read(read))))
    if not all(map(np.array_equal, expected, actual)):
        raise UserError(
            f"{checkpoints.folder / str(step)}: the data do not have the checksum they were written with. "
            + if_damaged(step, checkpoints.steps)
        )
    if "step" in read and (held := int(read["step"])) != step:
        raise UserError(
            f"{checkpoints.folder / str(step)} was renamed: it holds step {held}; give it its name back, or, if step "
            f"{held} is there too, move this folder out of the run"
        )
    return template | read


def _check_shapes(checkpoints: Checkpoints, step: int, stored: Any, template: dict[str, Any]) -> None:
    parts = {name: part for name, part in template.items() if part is not NOT_SAVED}
    saved = {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(stored)}
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(parts)}
    here = {name: saved.get(name) if leaf is NOT_SAVED else leaf.shape for name, leaf in leaves.items()}
    saved = {name: shape for name, shape in saved.items() if name.split("/")[0] in parts}
    differing = [name for name in sorted(saved | here) if saved.get(name) != here.get(name)]
    if differing:
        lines = [f"  {name}: saved {saved.get(name, 'none')}, here {here.get(name, 'none')}" for name in differing]
        more = [f"  and {len(lines) - 5} more"] if len(lines) > 5 else []
        is_optimizer = all(name.startswith("optimizer/") for name in differing)
        other = "optimizer, or training other parameters," if is_optimizer else "model or optimizer"
        raise OtherStateError(
            f"{checkpoints.folder / str(step)} was written by another {other} than the JSON file describes",
            lines[:5] + more,
            begins=is_optimizer,
        )


def _reason(checkpoints: Checkpoints, step: int, error: Exception) -> str:
    """Describes the cause; advises on damage only when neither the operating system nor memory is the cause."""
    cause = causes(error)[-1]
    if missing := checkpoints.missing_files(step):
        return f"{missing} is missing. {if_damaged(step, checkpoints.steps)}"
    if code := _failed_read(checkpoints.folder / str(step), error):
        return describe_os_error(OSError(code, os.strerror(code)))
    if (isinstance(cause, OSError) and cause.errno) or isinstance(cause, MemoryError):
        return f"{root_cause(error)}; fix the cause and run the same command again"
    text = damaged_file(checkpoints.folder / str(step), error) or root_cause(error)
    return f"{text}. {if_damaged(step, checkpoints.steps)}"


def _failed_read(folder: Any, error: BaseException) -> int | None:
    """The operating system's code of a read that failed, which Orbax takes for an empty description; None where files
    are damaged or missing."""
    cause, code = causes(error)[-1], system_code(error)
    if code and not isinstance(cause, OSError) and code not in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
        return code
    if isinstance(cause, (TypeError, KeyError)) and not storage.is_remote(folder):
        try:
            with contextlib.ExitStack() as together:  # as Orbax's threads open them
                for path in Path(folder).rglob("_*"):
                    together.enter_context(path.open("rb")).read()
                for _ in range(OPEN_FILES):
                    together.enter_context(open(os.devnull, "rb"))
        except OSError as failed:
            return failed.errno
    return None


def _read(tree: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(tree) if leaf is not NOT_SAVED]


def _checksum_of(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Shape and sharding of an array's checksum: replicated on each of the array's devices."""
    assert isinstance(leaf.sharding, NamedSharding), leaf
    return jax.ShapeDtypeStruct((), jnp.uint32, sharding=NamedSharding(leaf.sharding.mesh, PartitionSpec()))


@contextlib.contextmanager
def _noticed_interrupts() -> Iterator[None]:
    """Turns any error after a Ctrl-C into KeyboardInterrupt.

    A library may catch the KeyboardInterrupt in its event loop and then fail without a result.
    """
    before, seen = signal.getsignal(signal.SIGINT), False

    def notice(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen = True
        if callable(before):
            before(number, frame)

    ours = callable(before) and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, notice)
    try:
        yield
    except Exception as error:
        if seen:
            raise KeyboardInterrupt from error
        raise
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)
