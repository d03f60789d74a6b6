"""Obeys the commands of a running training's control folder."""

import time
from typing import NamedTuple

import jax
import numpy as np

from estimator.errors import UserError
from estimator.training.control_files import Request
from estimator.training.samples import FOLDER as SAMPLES
from estimator.training.session import TrainingSession
from estimator.training.train_step import TrainState


class Reply(NamedTuple):
    """What to answer. ok: whether the command was obeyed. when_saved: wait until the newest checkpoint is on disk."""

    message: str
    ok: bool = True
    when_saved: bool = False


def obeyed(
    request: Request, session: TrainingSession, step: int, state: TrainState, *, peak: float | None
) -> tuple[TrainState, Reply]:
    """Obeys a request after `step` steps; returns the state to continue with, and the reply. A collective.

    peak: the highest rate of the file's schedule.
    """
    match request.command:
        case "save":
            session.save(step, state, by_request=True)
            return state, Reply(f"saved step {step}" if step else "no step is trained yet", when_saved=True)
        case "evaluate":
            session.evaluate(step, state)
            if session.evaluation is None:
                return state, Reply("the run has no evaluation (eval_steps, eval_split)", ok=False)
            return state, Reply(f"evaluated step {step}: {session.monitor.evaluated}")
        case "sample":
            try:
                session.sample(step, state)
            except UserError as error:
                return state, Reply(str(error), ok=False)
            return state, Reply(f"sampled at step {step}: {session.config.model_path}/{SAMPLES}/{step}.jsonl")
        case "lr":
            assert request.value is not None
            assert peak
            reply = Reply(f"from step {step} on, the schedule's highest rate is {request.value:g}")
            return with_rate(state, request.value / peak), reply
        case "pause" | "resume":
            was_paused, session.is_paused = session.is_paused, request.command == "pause"
            if was_paused == session.is_paused:
                return state, Reply(f"step {step}: the run {'was already' if was_paused else 'is not'} paused")
            session.paused_at = time.monotonic()
            return state, Reply(f"{request.command}d at step {step}")
        case _:
            session.stop.ask("stop command")
            done = f"saved step {step} and stopped" if step else "stopped before the first step"
            return state, Reply(f"{done}; the same command continues", when_saved=True)


def with_rate(state: TrainState, factor: float) -> TrainState:
    """Multiplies the schedule's learning rates by a factor from now on. A collective."""
    return state._replace(lr_scale=jax.device_put(np.float32(factor), state.step.sharding))
