"""Configuration keys of a run: folder, batch sizes, limits, and evaluation, logging and saving periods."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from estimator.config import ConfigError, Section, UserPaths
from estimator.errors import UserError
from estimator.quantities import numbered
from estimator.training.bad_steps import OutlierBounds
from estimator.training.data_position import DataSpan


class RunConfig(Section):
    """Run."""

    model_path: Annotated[str, UserPaths] = Field(
        description="folder of the run: config, checkpoints, metrics, samples"
    )
    budget: str | None = Field(
        None, description="2h, 500M tokens or 1e18 flops: chooses all sizes that the file leaves out, see docs/dial.md"
    )
    train_batch_size: int = Field(gt=0, le=2**20, description="sequences per optimizer step, over all devices")
    eval_batch_size: int | None = Field(
        None, gt=0, le=2**20, description="sequences per evaluation batch; null: train_batch_size"
    )
    micro_batch_size: int | None = Field(
        None,
        gt=0,
        le=2**20,
        description="sequences per device and forward pass, the rest by gradient accumulation; null: as many as fit",
    )
    mesh: dict[Literal["data", "fsdp", "tensor"], int] | None = Field(
        None, description='devices along each axis, {"data": -1, "fsdp": 1, "tensor": 1}; -1 is the rest; null chooses'
    )
    max_steps: int | None = Field(None, gt=0, description="number of optimizer steps; the schedule ends with it")
    max_tokens: int | None = Field(
        None, gt=0, le=2**60, description="limit in tokens; the limit reached first ends the run; null: no limit"
    )
    max_epochs: float | None = Field(
        None, gt=0, description="limit in passes over the tokens of the training data; null: no limit"
    )
    train_steps: int = Field(1000, gt=0, description="optimizer steps between evaluations")
    eval_steps: int | None = Field(
        100, ge=0, description="batches per evaluation; null: the whole split, 0: no evaluation"
    )
    sample_steps: int | None = Field(
        None, gt=0, description="optimizer steps between samples of sample_prompts; null: none"
    )
    log_steps: int = Field(
        10, gt=0, description="optimizer steps between log lines; their loss is the mean since the last line or start"
    )
    report: bool = Field(True, description="write report.html into the run's folder when training is complete")
    trackers: list[Literal["wandb", "mlflow", "trackio"]] = Field(
        [], description="experiment trackers that get the metrics too, besides TensorBoard; docs/plots.md"
    )
    save_steps: int | None = Field(
        None, gt=0, description="optimizer steps between checkpoints, in addition to save_minutes; null: none by steps"
    )
    save_minutes: float | None = Field(10.0, gt=0, description="minutes between checkpoints; null: none by time")
    keep_checkpoints: int = Field(
        5, gt=0, description="newest checkpoints to keep, in addition to the last one up to the lowest evaluation loss"
    )
    keep_best: bool = Field(False, description="keep the weights with the lowest evaluation loss in RUN/best")
    load_best: bool = Field(
        False, description="evaluate, predict, export and serve with the weights in RUN/best, not the newest ones"
    )
    patience: int | None = Field(
        None, gt=0, description="evaluations without a new lowest loss that end the run early; null: never"
    )
    keep_every_steps: int | None = Field(
        None, gt=0, description="checkpoints at multiples of this step are kept permanently; null: none"
    )
    max_loss_rise: float | None = Field(
        3.0,
        gt=0,
        description="rise in nats of the loss, averaged over 50 steps, above its minimum that stops the run as"
        " diverged (code 3) after 50 such steps; null never stops",
    )
    max_skipped_steps: int = Field(
        20, gt=0, description="consecutive non-finite updates after which the run stops as diverged"
    )
    on_bad_step: Literal["skip", "stop", "rollback"] = Field(
        "skip",
        description="after a step whose loss or gradient is not finite or an outlier: skip leaves out its update; stop"
        " ends the run (code 3); rollback returns to the newest checkpoint and continues with the data after its batch",
    )
    max_loss_jump: float | None = Field(
        None, gt=0, description="nats above the median of the last 64 losses that make a step an outlier; null: none is"
    )
    max_grad_norm_jump: float | None = Field(
        None,
        gt=1,
        description="multiple of the median of the last 64 gradient norms that makes a step an outlier; null: none is",
    )
    max_rollbacks: int = Field(3, ge=0, description="rollbacks of a run after which a bad step stops it")
    check_steps: int | None = Field(
        1000,
        gt=0,
        description="steps between checks that each device computes a known result and that all replicas of the"
        " parameters are equal; null: none but those at the start and, of the replicas, before each checkpoint",
    )
    iterations: int = Field(
        1, gt=0, le=100_000, description="optimizer steps per device call, as long as a call takes under 5 seconds"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="random seed of initialization and dropout")

    def conflicts(self) -> Iterator[ConfigError]:
        if self.max_steps is None and self.max_tokens is None and self.max_epochs is None:
            yield ConfigError("max_steps", "missing; say when the run ends: max_steps, max_tokens or max_epochs")
        if len(set(self.trackers)) < len(self.trackers):
            yield ConfigError("trackers", "a name is there twice; write each once")
        if self.eval_steps == 0 and (self.keep_best or self.patience):
            key = "keep_best" if self.keep_best else "patience"
            yield ConfigError(key, "needs evaluations, and eval_steps is 0; write null, or a number of batches")

    @property
    def limits(self) -> str:
        """The keys that end the run, as a line names them."""
        keys = ("max_steps", "max_tokens", "max_epochs")
        return " and ".join(key for key in keys if getattr(self, key) is not None)

    @property
    def bounds(self) -> OutlierBounds:
        """Bounds above which a step is an outlier."""
        return OutlierBounds(self.max_loss_jump, self.max_grad_norm_jump)

    def total_steps(
        self, *, tokens_per_example: int, examples_per_epoch: int | None, span: DataSpan | None = None
    ) -> int:
        """Step at which the first of max_steps, max_tokens and max_epochs is reached. span: progress so far."""
        known_epochs = self.max_epochs is not None and examples_per_epoch is not None
        if self.max_steps is None and self.max_tokens is None and not known_epochs:
            raise UserError(
                "max_epochs: the number of steps depends on data that is not here; add max_steps or max_tokens"
            )
        return (span or DataSpan(0, 0, 0, self.train_batch_size, tokens_per_example, None, 0)).total_steps(
            max_steps=self.max_steps,
            max_tokens=self.max_tokens,
            max_windows=self.max_epochs * examples_per_epoch if self.max_epochs and examples_per_epoch else None,
        )

    def accumulation(self, *, devices: int, limit: float) -> int:
        """Micro-batches of a step on each device, of at most `limit` sequences unless micro_batch_size names a size.

        Raises UserError for sizes that do not divide.
        """
        batch = self.train_batch_size
        if batch % devices:
            less, more = batch // devices * devices, (batch // devices + 1) * devices
            raise UserError(
                f"train_batch_size: {numbered(batch, 'sequence')} cannot be divided among {devices} devices; write "
                + (f"{less} or {more}" if less else f"{more}")
            )
        examples = batch // devices
        divisors = [n for n in range(1, examples + 1) if examples % n == 0]
        micro = self.micro_batch_size or max((n for n in divisors if n <= limit), default=1)
        if examples % micro:
            raise UserError(
                f"micro_batch_size: {micro} does not divide a device's {numbered(examples, 'sequence')} "
                f"(train_batch_size {batch} on devices: {devices}); write one of {str(divisors)[1:-1]}"
            )
        return examples // micro
