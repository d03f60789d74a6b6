"""The keys of a run: its folder, its batches, when it ends, evaluates, logs and saves."""

import math
from typing import Literal

from pydantic import Field, model_validator

from runtime.config import Problem, Section
from runtime.errors import UserError


class RunConfig(Section):
    """Run."""

    model_path: str = Field(description="folder of the run: config, checkpoints, metrics, samples")
    train_batch_size: int = Field(gt=0, description="sequences of an optimizer step, on all devices together")
    eval_batch_size: int | None = Field(None, gt=0, description="sequences of an evaluation batch; null is the former")
    micro_batch_size: int | None = Field(
        None, gt=0, description="sequences that a device computes at once; null is as many as its memory holds"
    )
    mesh: dict[Literal["data", "fsdp", "tensor"], int] | None = Field(
        None, description='devices along each axis, {"data": -1, "fsdp": 1, "tensor": 1}; -1 is the rest; null chooses'
    )
    max_steps: int | None = Field(None, gt=0, description="steps after which the run, and the schedule, ends")
    max_tokens: int | None = Field(None, gt=0, description="the same in tokens; the smallest of the three counts")
    max_epochs: float | None = Field(None, gt=0, description="the same in passes over the training documents")
    train_steps: int = Field(1000, gt=0, description="steps between two evaluations")
    eval_steps: int | None = Field(100, gt=0, description="batches of an evaluation; null is the whole split")
    log_steps: int = Field(10, gt=0, description="steps between two lines of metrics")
    save_steps: int | None = Field(None, gt=0, description="steps between two checkpoints, besides save_minutes")
    save_minutes: float | None = Field(10.0, gt=0, description="minutes between two checkpoints")
    keep_checkpoints: int = Field(5, gt=0, description="newest checkpoints that are kept")
    keep_every_steps: int | None = Field(None, gt=0, description="checkpoints at multiples of this are kept for ever")
    iterations: int = Field(1, gt=0, description="steps in one call of the device, when a call takes under 5 seconds")
    seed: int = Field(0, description="of the initial weights and the dropouts")

    @model_validator(mode="after")
    def _check(self) -> "RunConfig":
        if self.max_steps is None and self.max_tokens is None and self.max_epochs is None:
            raise Problem("max_steps", "missing; write when the run ends: max_steps, max_tokens or max_epochs")
        return self

    def total_steps(self, *, tokens_per_example: int, examples_per_epoch: int | None) -> int:
        """Steps until the first of max_steps, max_tokens and max_epochs is reached."""
        ends = []
        if self.max_steps is not None:
            ends.append(self.max_steps)
        if self.max_tokens is not None:
            ends.append(math.ceil(self.max_tokens / (self.train_batch_size * tokens_per_example)))
        if self.max_epochs is not None and examples_per_epoch is not None:
            ends.append(max(1, math.floor(self.max_epochs * examples_per_epoch / self.train_batch_size)))
        if not ends:
            raise UserError(
                "max_epochs: its steps are known only where the data are; write max_steps or max_tokens too"
            )
        return min(ends)
