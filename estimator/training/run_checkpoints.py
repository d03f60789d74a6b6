"""The checkpoints of a run: those of its newest steps in RUN/checkpoints, the weights of `keep_best` in RUN/best."""

from collections.abc import Callable, Collection
from contextlib import closing
from typing import Any, NamedTuple

import jax

from estimator import invocation, storage
from estimator.errors import UserError
from estimator.parallel import param_spec
from estimator.training.best import BEST, kept
from estimator.training.checkpoint_reader import restore
from estimator.training.checkpoints import NOT_SAVED, Checkpoints
from estimator.training.initial_state import require_finite, weights_template
from estimator.training.remote_checkpoints import steps_in
from estimator.training.run_config import RunConfig

CHECKPOINTS = "checkpoints"


class RunCheckpoints(NamedTuple):
    """Opens and reads the checkpoints that a configuration names."""

    config: RunConfig

    def open(
        self, name: str = CHECKPOINTS, *, writer: bool = False, guard: Callable[[], None] | None = None
    ) -> Checkpoints:
        """The checkpoints in one of the run's folders. writer, guard: as for `Checkpoints`."""
        keep = {"keep_last": self.config.keep_checkpoints, "keep_every": self.config.keep_every_steps}
        return Checkpoints(storage.join(self.config.model_path, name), writer=writer, guard=guard, **keep)

    def latest_step(self, name: str = CHECKPOINTS) -> int | None:
        """Step of the newest one, or None. Neither creates the folder nor downloads a checkpoint."""
        folder = storage.join(self.config.model_path, name)
        if folder.startswith("s3://"):
            return max(steps_in(folder), default=None)
        if not storage.is_folder(folder):
            return None
        with closing(self.open(name)) as checkpoints:
            return checkpoints.latest_step

    def loaded_step(self) -> int | None:
        """The same of the folder that `restore` reads: with `load_best`, RUN/best."""
        return self.latest_step(BEST if self.config.load_best else CHECKPOINTS)

    def require(self, *, has_initial: bool) -> None:
        """Raises UserError if the run has neither a checkpoint nor weights to start from (`has_initial`)."""
        folder = self.config.model_path
        if self.loaded_step() is not None:
            return
        if self.config.load_best:
            raise UserError(f"load_best: {storage.join(folder, BEST)} has no checkpoint; train with keep_best")
        if not has_initial and (steps := kept(folder)):
            known = f"{storage.join(folder, BEST)} has the weights of step {max(steps)}"
            raise UserError(
                f"{storage.join(folder, CHECKPOINTS)} has no checkpoint, and {known}: put the checkpoints back, or use "
                "these weights with --set load_best=true"
            )
        if not has_initial:
            raise UserError(
                f"{folder} has no checkpoint yet; train first: {invocation.program('main.py')} with the same --model"
            )

    def restore(
        self, spec: Any, on: jax.sharding.Mesh, *, step: int | None, only: Collection[str] | None, note: Any
    ) -> tuple[int, Any]:
        """Step and parameters of a checkpoint. spec: an EstimatorSpec. step, only: as for `Estimator.restore`."""
        self.require(has_initial=spec.initial is not None)
        at, values = weights_template(spec, on)
        if spec.initial and self.loaded_step() is None:
            params = spec.initial(values, jax.random.key(self.config.seed), note=note)[1]
            require_finite("init_from", params)
            return 0, params
        if only is not None:
            values = jax.tree_util.tree_map_with_path(
                lambda path, leaf: leaf if param_spec.path_name(path) in only else NOT_SAVED, values
            )
        is_best = self.config.load_best
        parts = {"step": at, "params": values} | ({} if is_best else {"optimizer": NOT_SAVED})
        with closing(self.open(BEST if is_best else CHECKPOINTS)) as checkpoints:
            state = restore(checkpoints, parts, step=step)
        require_finite(f"{self.config.model_path}, step {int(state['step'])}", state["params"])
        return int(state["step"]), state["params"]
