"""The keys of the JSON file that choose the optimizer, its schedule and the weight decay."""

import json
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from estimator.config import ConfigError, Section
from estimator.quantities import numbered


class OptimizerConfig(Section):
    """Optimizer."""

    opt_name: Literal["adam", "adafactor", "sgd", "muon"] = Field(
        "adam", description="adam (AdamW when weight_decay is given), adafactor, sgd with momentum, or muon"
    )
    lr: float = Field(0.00025, ge=0, description="peak learning rate; adafactor's is relative, see relative_lr")
    lr_min: float = Field(0.0, ge=0, description="final learning rate of all schedules except constant")
    schedule: Literal["constant", "cosine", "linear", "cosine_restarts", "wsd"] | None = Field(
        None,
        description="learning-rate schedule after the warmup; wsd is warmup, stable, decay; null: cosine if"
        " warmup_steps is given, else constant",
    )
    warmup_steps: int | None = Field(
        None,
        ge=0,
        description="steps of linear warmup from 0; in a run that has fewer steps, a tenth of the run; null: none",
    )
    restart_steps: int | None = Field(None, gt=0, description="period of cosine_restarts in steps")
    decay_fraction: float = Field(0.2, gt=0, le=1, description="fraction of the run over which wsd decays linearly")
    weight_decay: float | None = Field(
        None, ge=0, description="decoupled weight decay, multiplied by the learning rate; null: none"
    )
    decay_all: bool = Field(False, description="also decay biases and gains, as ConnorJL/GPT2 does")
    grad_clip: float | None = Field(1.0, gt=0, description="largest global gradient norm; null: no clipping")
    beta1: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="decay of Adam's first moment; null: 0.9, with adafactor 0.0 (no momentum, less memory)",
    )
    beta2: float = Field(
        0.98, ge=0, lt=1, description="decay of Adam's second moment; adafactor uses it if decay_type is adam"
    )
    epsilon: float = Field(1e-9, gt=0, description="added to the square root of Adam's second moment")
    decay_type: Literal["pow", "adam"] = Field(
        "pow", description="decay of adafactor's second moment: 1 - step^-decay_exponent (pow), or beta2 (adam)"
    )
    decay_exponent: float = Field(0.8, gt=0, description="see decay_type")
    relative_lr: bool = Field(True, description="adafactor: multiply lr by the root mean square of each parameter")
    momentum: float | None = Field(
        None, ge=0, lt=1, description="momentum of sgd (null: 0.9) and muon (null: 0.95, Nesterov)"
    )
    ns_steps: int = Field(5, gt=0, le=1000, description="number of Newton-Schulz iterations of muon")
    neuron_beta2: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="muon: evens out the updates of a matrix's output neurons (NorMuon), by their second moment with"
        " this decay, such as 0.95; null: leaves them",
    )

    def conflicts(self) -> Iterator[ConfigError]:
        if self.schedule == "cosine_restarts" and self.restart_steps is None:
            yield ConfigError("restart_steps", "missing, and schedule cosine_restarts needs it; write steps per period")
        if self.lr_min > self.lr:
            yield ConfigError("lr_min", f"{self.lr_min:g} is above lr {self.lr:g}; write a smaller one")

    @property
    def schedule_name(self) -> str:
        return self.schedule or ("constant" if self.warmup_steps is None else "cosine")

    def warmup(self, total_steps: int) -> int:
        """Warmup steps; a tenth of the run if warmup_steps exceeds it."""
        warmup = self.warmup_steps or 0
        return warmup if warmup <= total_steps else total_steps // 10


def warnings(config: OptimizerConfig, *, total_steps: int | None = None) -> list[str]:
    """Describes settings that are allowed but known to hurt, with better ones."""
    found = []
    if total_steps and (config.warmup_steps or 0) > total_steps:
        warmup = config.warmup(total_steps)
        is_now = f"the warmup has {numbered(warmup, 'step')}, a tenth of the run" if warmup else "there is no warmup"
        found.append(
            f"warmup_steps: {config.warmup_steps:,} is more than the run's {numbered(total_steps, 'step')}; {is_now}"
        )
    if config.opt_name == "adafactor" and config.relative_lr and config.lr < 1e-3:
        found.append(
            f"lr {config.lr:g} is relative with adafactor: a step is lr times the size of the weights, here 50 to 1000"
            " times smaller than Adam's; write lr 0.01 with warmup_steps, or relative_lr false"
        )
    if config.decay_all and config.weight_decay:
        found.append("decay_all: weight decay pulls gains to 0 too; leave it out unless you repeat an old run")
    if unread := _unread_keys(config):
        decay = json.dumps(config.weight_decay)
        settings = f"opt_name {config.opt_name}, schedule {config.schedule_name}, weight_decay {decay}"
        found.append(f"{', '.join(unread)}: no effect with {settings}; leave out or change one of them")
    return found


def _unread_keys(config: OptimizerConfig) -> list[str]:
    """The keys that differ from their defaults and have no effect with this optimizer and schedule."""
    optimizer, schedule = config.opt_name, config.schedule_name
    readers = {
        "beta1": optimizer != "sgd",
        "beta2": optimizer in ("adam", "muon") or (optimizer == "adafactor" and config.decay_type == "adam"),
        "epsilon": optimizer in ("adam", "muon"),
        "decay_type": optimizer == "adafactor",
        "decay_exponent": optimizer == "adafactor" and config.decay_type == "pow",
        "relative_lr": optimizer == "adafactor",
        "momentum": optimizer in ("sgd", "muon"),
        "ns_steps": optimizer == "muon",
        "neuron_beta2": optimizer == "muon",
        "lr_min": schedule != "constant",
        "restart_steps": schedule == "cosine_restarts",
        "decay_fraction": schedule == "wsd",
        "decay_all": bool(config.weight_decay),
    }
    defaults = OptimizerConfig.model_fields
    return [key for key, is_read in readers.items() if not is_read and getattr(config, key) != defaults[key].default]
