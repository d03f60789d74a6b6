"""Checks memory, disk space and permissions before a run."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import jax

from estimator import storage
from estimator.errors import UserError
from estimator.parallel import hardware
from estimator.quantities import size
from estimator.training.dry_run import TrainingPlan, device_bytes
from estimator.training.run_config import RunConfig


class TooLargeError(UserError):
    """Training does not fit into memory. need: what takes how much of it."""

    def __init__(self, need: str, fix: str):
        super().__init__(f"memory: {need}; {fix}")
        self.need = need


def memory_problems(plan: TrainingPlan) -> list[str]:
    """Describes what does not fit into device memory: the training state and gradients, or these plus activations."""
    excess = _excess(plan)
    return [str(excess)] if excess else []


def require_memory(plan: TrainingPlan) -> None:
    """Raises TooLargeError if training does not fit into memory, because the system would kill the process."""
    if excess := _excess(plan):
        raise excess


def _excess(plan: TrainingPlan) -> TooLargeError | None:
    device = plan.mesh.devices.flat[0]
    is_cpu = device.platform == "cpu"
    limit = hardware.memory_limit([device]) * (2 if is_cpu else 1)  # a CPU's limit is half of the machine's memory
    # On CPUs all of the mesh's devices share the machine's memory.
    count = plan.mesh.size if is_cpu else 1
    state = count * (device_bytes(plan.state.params) + device_bytes(plan.state.optimizer) + plan.gradient_bytes)
    total = state + count * plan.working_bytes
    whose = f"{size(limit)} {'in this machine' if is_cpu else 'on each device'}"
    if state > limit:
        fix = "write a smaller n_embd, n_layer or n_vocab, take adafactor, or use more devices"
        return TooLargeError(f"parameters, gradients and optimizer take {size(state)}, more than the {whose}", fix)
    if total > limit:
        fix = 'write a smaller micro_batch_size or n_ctx, or remat "full"'
        return TooLargeError(f"training takes about {size(total)}, more than the {whose}", fix)
    return None


def checkpoint_bytes(plan: TrainingPlan) -> int:
    """Bytes of one checkpoint: the uncompressed training state of all devices."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((plan.state.params, plan.state.optimizer)))


def checkpoint_count(plan: TrainingPlan, config: RunConfig) -> int:
    """Largest number of checkpoints on disk: newest, best (twice with keep_best), the one being written, multiples of
    keep_every_steps."""
    multiples = plan.total_steps // config.keep_every_steps if config.keep_every_steps else 0
    return config.keep_checkpoints + 2 + multiples + config.keep_best


def disk_report(plan: TrainingPlan, config: RunConfig) -> str:
    one, count = checkpoint_bytes(plan), checkpoint_count(plan, config)
    return f"checkpoints take {size(one)} each, up to {size(one * count)} for {count} in {config.model_path}"


def disk_problems(plan: TrainingPlan, config: RunConfig) -> list[str]:
    """Describes a lack of disk space for checkpoints; empty for a bucket."""
    if storage.is_remote(config.model_path):
        return []
    checkpoints = Path(config.model_path) / "checkpoints"
    held = sum(path.stat().st_size for path in checkpoints.rglob("*") if path.is_file())
    needed = checkpoint_bytes(plan) * checkpoint_count(plan, config) - held
    place = _existing(config.model_path)
    if not place.exists():
        return []  # a link that leads nowhere, of which `write_problems` tells
    free = shutil.disk_usage(place).free
    text = (
        f"disk: checkpoints take {size(needed)} more, and {config.model_path} has {size(free)} free; free some space, "
        "write a smaller keep_checkpoints or a larger keep_every_steps, or choose another model_path"
    )
    return [text] if needed > free else []


def require_place(folder: str) -> None:
    """Raises UserError if a run's folder cannot be created or written to."""
    for problem in write_problems([("model_path", folder)]):
        raise UserError(problem)


def write_problems(paths: Iterable[tuple[str, str]]) -> list[str]:
    """Describes which (key, path) of files and folders to be written cannot be; writes nothing."""
    problems = []
    for key, path in paths:
        if storage.is_remote(path):
            continue
        folder = _existing(path)
        if not folder.exists():
            problems.append(
                f"{key}: {path}: {folder} is a link that leads nowhere; remove the link, or choose another path"
            )
        elif not folder.is_dir() and (key != "predict_path" or folder != Path(os.path.abspath(path))):
            problems.append(f"{key}: {path}: {folder} is a file, and a folder is needed; choose another path")
        elif not os.access(folder, os.W_OK | (os.X_OK if folder.is_dir() else 0)):
            problems.append(
                f"{key}: {path}: {folder} cannot be written to; check its permissions or choose another path"
            )
    return problems


def inside(path: str | None, folders: Iterable[str]) -> str | None:
    """Returns the training folder that contains `path`, or None."""
    if path is None or storage.is_remote(path):
        return None
    real = Path(os.path.realpath(path))
    parents = {str(parent) for parent in real.parents}
    return next((folder for folder in folders if os.path.isdir(folder) and os.path.realpath(folder) in parents), None)


def _existing(path: str) -> Path:
    """The path, or its nearest parent that exists, if only as a link that leads nowhere."""
    full = Path(os.path.abspath(path))
    return next(parent for parent in (full, *full.parents) if os.path.lexists(parent))
