"""What a forked training run needs besides main.py: the digest of its last state, and faults of the computation."""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from estimator import storage


def import_all() -> None:
    """Imports what main.py imports in its branches, so that forks need not."""
    import inputs  # noqa: F401
    import optimizers  # noqa: F401
    from estimator import setup  # noqa: F401
    from estimator.commands import evaluate, train  # noqa: F401
    from estimator.generation import predict  # noqa: F401
    from estimator.parallel import agreement, device_check, distributed  # noqa: F401
    from estimator.system import compile_cache  # noqa: F401
    from estimator.training import checkpoints  # noqa: F401
    from models import MODELS  # noqa: F401


def keep_programs() -> None:
    """Keeps jitted functions of `Estimator` between the runs of a process: to trace them takes most of a short run's
    time. They depend on the keys of the JSON file."""
    import jax

    import estimator.estimator

    made: dict[tuple[str, ...], Any] = {}
    jit = jax.jit

    class Jax:
        """In the place of the module."""

        def __getattr__(self, name: str) -> Any:
            return getattr(jax, name)

        def jit(self, function: Callable[..., Any], **options: Any) -> Any:
            values = json.loads(Path(sys.argv[sys.argv.index("--model") + 1]).read_text())
            code = getattr(function, "__code__", None)
            if jax.process_count() > 1 or code is None:
                return jit(function, **options)
            keys = sorted(item for item in values.items() if not item[0].endswith("_path"))
            key = (code.co_filename, str(code.co_firstlineno), str(keys), str(sorted(options)))
            return made.setdefault(key, jit(function, **options))

    estimator.estimator.jax = Jax()  # type: ignore[assignment]


def write_digest() -> None:
    """digest FOLDER FILE: writes the newest step and a digest of all bits of its state, read without our own code."""
    folder, out = sys.argv[1:]
    Path(out).write_text(json.dumps(digest(folder)))


def digest(folder: str) -> dict[str, Any]:
    import jax
    from etils import epath
    from orbax.checkpoint import v1 as ocp

    checkpointer = ocp.training.Checkpointer(epath.Path(storage.join(folder, "checkpoints")))
    step = checkpointer.latest.step
    place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    saved = checkpointer.metadata(step).metadata
    template = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), saved)
    sha = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(jax.device_get(checkpointer.load(step, template))):
        sha.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode() + leaf.tobytes())
    checkpointer.close()
    return {"step": step, "sha256": sha.hexdigest()}


def hook(hooks: Mapping[str, Any]) -> None:
    """nan_steps: [first, last] steps whose batch has weights that are not finite, as from a device that computes wrong
    values. heartbeat: seconds after which a silent process counts as dead. keeps_programs: see above."""
    if hooks.get("keeps_programs"):
        keep_programs()
    if "heartbeat" in hooks:
        from estimator.parallel import distributed

        distributed.HEARTBEAT_SECONDS = hooks["heartbeat"]
    if "nan_steps" in hooks:
        import numpy as np

        from estimator.data.batches import Batches

        (first, last), call = hooks["nan_steps"], Batches.__call__

        def spoiled(self: Batches, step: int) -> dict[str, Any]:
            batch = call(self, step)
            if first <= step <= last:
                rows, targets = batch["tokens"].shape[0], batch["tokens"].shape[1] - 1
                batch = batch | {"weights": np.full((rows, targets), np.nan, np.float32)}
            return batch

        Batches.__call__ = spoiled  # type: ignore[method-assign]
