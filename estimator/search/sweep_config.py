"""The file of a sweep: which keys vary and how they are chosen."""

import itertools
import json
import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
from pydantic import BeforeValidator, Field

from estimator.config import ConfigError, ConfigErrors, Section, UserPaths, described, short
from estimator.storage import is_remote

MOST_TRIALS = 100_000
OWN = ("grid", "random")  # samplers; all others are Optuna's
LARGEST, MOST_STEPS = 1e300, 1e15  # of a range, so that differences are finite and steps are exact
Named = str | dict[str, Any]  # a class of Optuna, or {"name": class, argument: value}


class Range(Section):
    """Numbers from min to max; integers if both, and the step, are whole. step: of integers and grids. count: points
    of a grid."""

    min: int | float
    max: int | float
    log: bool = False
    step: int | float | None = Field(None, gt=0)
    count: int | None = Field(None, gt=1, le=MOST_TRIALS)

    def conflicts(self) -> Iterator[ConfigError]:
        if max(abs(self.min), abs(self.max)) > LARGEST:
            yield ConfigError("max", f"a range reaches from -{LARGEST:g} to {LARGEST:g} at most")
        if self.step is not None and not (self.max - self.min) / self.step < MOST_STEPS:
            yield ConfigError("step", f"{self.step:g} is too small for the range; write a larger one")
        if not self.min < self.max or (self.log and self.min <= 0) or (self.log and self.step is not None):
            yield ConfigError("min", "a range needs min < max, with log also 0 < min and no step")

    @property
    def is_integer(self) -> bool:
        is_whole = self.step is None or float(self.step).is_integer()
        return isinstance(self.min, int) and isinstance(self.max, int) and is_whole

    @property
    def _step(self) -> int | float | None:
        return int(self.step) if self.step is not None and self.is_integer else self.step

    def at(self, share: float) -> int | float:
        """The number at a share, from 0 to below 1, of the range; shares drawn uniformly give its distribution."""
        if (step := self._step) is not None:
            return self.min + step * math.floor(share * (math.floor((self.max - self.min) / step + 1e-9) + 1))
        low, high = float(self.min), float(self.max) + self.is_integer
        value = low * (high / low) ** share if self.log else low + (high - low) * share
        return min(math.floor(value), int(self.max)) if self.is_integer else value

    def points(self) -> list[int | float]:
        """The points of a grid."""
        if (step := self._step) is not None:
            count = math.floor((self.max - self.min) / step + 1e-9) + 1
            if count > MOST_TRIALS:
                raise ConfigError("step", f"{count:,} points; write a step with {MOST_TRIALS:,} at most")
            return [self.min + step * i for i in range(count)]
        if self.count is None:
            raise ConfigError("count", 'missing; a range of a grid needs "count" or "step"')
        values = (np.geomspace if self.log else np.linspace)(self.min, self.max, self.count).tolist()
        return sorted({round(value) for value in values}) if self.is_integer else values


def _choices(parameters: Any) -> Any:
    """Ranges out of objects; each problem with the name of its parameter."""
    if not isinstance(parameters, dict):
        return parameters
    choices, problems = dict(parameters), []
    for name, choice in parameters.items():
        found: list[str] = []
        if isinstance(choice, dict):
            try:
                choices[name] = Range(**choice)
            except pydantic.ValidationError as error:
                found = described(error, Range)
        elif not isinstance(choice, list):
            found = [f'{short(choice)} is no choice; write a list of values, or {{"min": 1e-4, "max": 1e-2}}']
        problems += [ConfigError("parameters", f"{name}: {problem}") for problem in found]
    if problems:
        raise ConfigErrors(problems)
    return choices


def _own(sampler: Any) -> Any:
    """The name alone of a sampler of ours, which has no arguments."""
    is_own = isinstance(sampler, dict) and sampler.keys() == {"name"} and sampler["name"] in OWN
    return sampler["name"] if is_own else sampler


class SweepConfig(Section):
    """Sweep."""

    parameters: Annotated[dict[str, list[Any] | Range], BeforeValidator(_choices)] = Field(
        min_length=1, description='keys of the JSON file: a list of values, or {"min": 1e-4, "max": 1e-2, "log": true}'
    )
    folder: Annotated[str | None, UserPaths] = Field(
        None, description="folder of the trials; null: runs/NAME of this file's name"
    )
    runs: Annotated[str | None, UserPaths] = Field(
        None, description="folder or bucket path of the trials' runs; null: the same folder"
    )
    sampler: Annotated[Named, BeforeValidator(_own)] = Field(
        "grid", description="grid, random, or a sampler of Optuna, such as TPESampler"
    )
    pruner: Named | None = Field(
        None, description="a pruner of Optuna, such as MedianPruner; null stops no trial early"
    )
    trials: int | None = Field(None, gt=0, le=MOST_TRIALS, description="number of trials; null is the whole grid")
    parallel: int = Field(1, gt=0, le=1000, description="trials that run simultaneously")
    targets: list[str] | None = Field(None, min_length=1, description="--tpu names, each of which runs one trial")
    seed: int = Field(0, ge=0, description="random seed of the choices")
    metric: str = Field(
        "loss", description="loss, perplexity, bits_per_byte or eval_seconds of the eval records, to be made small"
    )
    objective: Literal["last", "best"] = Field("last", description="which evaluation of a trial counts")

    def conflicts(self) -> Iterator[ConfigError]:
        name = str(self.sampler if isinstance(self.sampler, str) else self.sampler.get("name"))
        if self.sampler != name.lower() in OWN:
            yield ConfigError("sampler", f"{short(self.sampler)}: write {short(name.lower())}, which has no arguments")
        elif self.sampler != "grid" and self.trials is None:
            yield ConfigError("trials", "missing; say how many, as only a grid has an end")
        for key, choice in self.parameters.items():
            if choice == []:
                yield ConfigError("parameters", f"{key}: no values; write at least one")
        if self.folder and is_remote(self.folder):
            yield ConfigError("folder", f"{self.folder}: name a folder of this machine; runs may be in a bucket")
        if self.sampler == "grid":
            yield from self._faults_of_grid()

    def _faults_of_grid(self) -> Iterator[ConfigError]:
        counts = []
        for name, part in self.parameters.items():
            try:
                counts.append(len(part.points() if isinstance(part, Range) else part))
            except ConfigError as problem:
                yield ConfigError("parameters", f"{name}: {problem}")
        if math.prod(counts) > MOST_TRIALS:
            yield ConfigError("parameters", f"the grid has more than {MOST_TRIALS:,} points")

    @property
    def count(self) -> int:
        """Number of trials."""
        return min(self.trials or MOST_TRIALS, len(self.grid())) if self.sampler == "grid" else self.trials or 0

    def grid(self) -> list[dict[str, Any]]:
        """All combinations, the last key varying fastest."""
        points = {key: part.points() if isinstance(part, Range) else part for key, part in self.parameters.items()}
        return [dict(zip(points, values, strict=True)) for values in itertools.product(*points.values())]

    def random(self, number: int) -> dict[str, Any]:
        """The choice of a trial, which depends on the seed and its number alone."""
        draw = np.random.default_rng([self.seed, number])
        shares = {key: float(draw.random()) for key in self.parameters}
        return {
            key: part.at(shares[key]) if isinstance(part, Range) else part[int(shares[key] * len(part))]
            for key, part in self.parameters.items()
        }

    def identity(self) -> dict[str, Any]:
        """What may not change while a sweep continues."""
        free = ("trials", "parallel", "targets", "folder", "runs")
        return json.loads(self.model_dump_json(exclude=set(free)))
