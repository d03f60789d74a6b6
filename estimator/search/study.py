"""Chooses the values of trials: a grid, random numbers, or Optuna's samplers; Optuna's pruners stop trials."""

import inspect
import json
import math
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from estimator import invocation
from estimator.config import did_you_mean, short
from estimator.errors import UserError, import_failed
from estimator.search.sweep_config import OWN, Named, Range, SweepConfig
from estimator.search.trials import Trial

if TYPE_CHECKING:
    import optuna

REHEARSED = 12  # trials; samplers draw at random before they have seen ten
REFUSALS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError, RuntimeError,
            TypeError, ValueError)  # fmt: skip


def rehearse(config: SweepConfig) -> None:
    """Raises UserError for a sampler or pruner that fails: most arguments are first used in the middle of a sweep."""
    for key, named, alone in (
        ("sampler", config.sampler, {"pruner": None}),
        ("pruner", config.pruner, {"sampler": "random"}),
    ):
        if named is None or named in OWN:
            continue
        study = Study(config.model_copy(update=alone), [])
        try:
            name = named if isinstance(named, str) else named.get("name")
            numbers = range(min(REHEARSED, config.count))
            # GPSampler takes ten seconds.
            for number in tqdm(numbers, f"trying {name}", delay=1, disable=not sys.stderr.isatty(), leave=False):
                # Growing, so pruners are tempted; WilcoxonPruner is slow where differences of two trials are equal.
                reports = [(2**i, 2.0**i * (1 + number)) for i in range(REHEARSED)]
                trial = Trial(number, study.next(number), state="complete", loss=reports[0][1], reports=reports)
                study.should_prune(trial)
                study.finish(trial)
        except REFUSALS as error:
            raise _refused(type(getattr(study.optuna_study, key)), named, key, error) from None


class Study:
    """Optuna is needed for its samplers and pruners only. before: the trials of an interrupted sweep."""

    def __init__(self, config: SweepConfig, before: list[Trial]):
        self._config = config
        self._grid = config.grid() if config.sampler == "grid" else []
        self._trials: dict[int, optuna.trial.Trial] = {}
        self._reported: dict[int, int] = {}
        self._optuna = None if config.sampler in OWN and config.pruner is None else _optuna()
        if not self._optuna:
            return
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        pruner = _made(self._optuna.pruners, config.pruner or "NopPruner", "pruner")
        self.optuna_study = self._optuna.create_study(pruner=pruner, sampler=self._sampler(0))
        # Samplers that have tried all choices call this; the number of trials is that of the file.
        self.optuna_study.stop = lambda: None
        self._distributions = {key: _distribution(self._optuna, part) for key, part in config.parameters.items()}
        for trial in before:
            if trial.state != "running":
                self.optuna_study.add_trial(self._finished(trial))

    def next(self, number: int) -> dict[str, Any]:
        """The values of a new trial."""
        if self._config.sampler in OWN:
            values = self._grid[number] if self._grid else self._config.random(number)
            self.resume(number, values)
            return values
        self.optuna_study.sampler = self._sampler(number)  # so that a sweep that continues chooses alike
        self._trials[number] = self.optuna_study.ask(self._distributions)
        chosen = self._trials[number].params
        return {key: _value(part, chosen[key]) for key, part in self._config.parameters.items()}

    def resume(self, number: int, values: dict[str, Any]) -> None:
        """Continues a trial with values that are known."""
        if self._optuna:
            self.optuna_study.enqueue_trial(self._encoded(values))
            self._trials[number] = self.optuna_study.ask(self._distributions)

    def should_prune(self, trial: Trial) -> bool:
        """Reports the trial's newest evaluations and asks the pruner."""
        handle = self._trials.get(trial.number)
        if handle is None or self._config.pruner is None:
            return False
        return any(handle.should_prune() for _ in self._report(handle, trial))

    def _report(self, handle: "optuna.trial.Trial", trial: Trial) -> Iterator[None]:
        """Reports new evaluations one by one."""
        for step, loss in trial.reports:
            if step > self._reported.get(trial.number, -1):
                handle.report(loss, step)
                self._reported[trial.number] = step
                yield

    def finish(self, trial: Trial) -> None:
        """Tells the sampler the result, and the pruner the evaluations since the last look."""
        if self._optuna and trial.number in self._trials:
            for _ in self._report(self._trials[trial.number], trial):
                pass
            self.optuna_study.tell(self._trials.pop(trial.number), **self._outcome(trial))

    def _sampler(self, number: int) -> Any:
        assert self._optuna
        name = "RandomSampler" if self._config.sampler in OWN else self._config.sampler
        # seed + number would give a sweep with the next seed the same draws, one trial earlier.
        seed = int(np.random.SeedSequence([self._config.seed, number]).generate_state(1)[0])
        return _made(self._optuna.samplers, name, "sampler", seed)

    def _finished(self, trial: Trial) -> Any:
        assert self._optuna
        outcome = self._outcome(trial)
        return self._optuna.trial.create_trial(
            state=outcome["state"],
            value=outcome["values"],
            params=self._encoded(trial.values),
            distributions=self._distributions,
            intermediate_values=dict(trial.reports),
        )

    def _outcome(self, trial: Trial) -> dict[str, Any]:
        """State and value for Optuna, which takes no NaN."""
        assert self._optuna
        states = self._optuna.trial.TrialState
        if trial.state == "complete" and trial.loss is not None and not math.isnan(trial.loss):
            return {"state": states.COMPLETE, "values": trial.loss}
        return {"state": states.PRUNED if trial.state == "pruned" else states.FAIL, "values": None}

    def _encoded(self, values: dict[str, Any]) -> dict[str, Any]:
        parts = self._config.parameters
        return {
            key: value if isinstance(parts[key], Range) else json.dumps(value, sort_keys=True)
            for key, value in values.items()
        }


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise import_failed(
            error, f"samplers but grid and random, and pruners, need Optuna: {invocation.install('sweep')}"
        ) from error
    return optuna


def _made(module: Any, named: Named, key: str, seed: int | None = None) -> Any:
    """An object of Optuna; UserError for a name or arguments that it does not have."""
    arguments: dict[str, Any] = {"name": named} if isinstance(named, str) else dict(named)
    name = arguments.pop("name", "")
    kind = key.rpartition("_")[2]  # sampler or pruner
    for argument, value in arguments.items():  # such as PatientPruner's wrapped_pruner
        if argument.endswith(f"_{kind}") and isinstance(value, str | dict):
            arguments[argument] = _made(module, value, f"{key}: {argument}", seed)
    names = [each for each in dir(module) if each.endswith(kind.capitalize()) and not each.startswith("Base")]
    made = getattr(module, name) if name in names else None
    if not isinstance(made, type):
        own = [*OWN] if key == "sampler" else []
        raise UserError(f"{key}: no {name!r}{did_you_mean(str(name), names)}; available: {', '.join([*own, *names])}")
    if seed is not None and "seed" in inspect.signature(made).parameters:
        arguments.setdefault("seed", seed)
    try:
        with warnings.catch_warnings():  # that it is experimental is of no use to the person who has chosen it
            warnings.filterwarnings("ignore", message=".* is experimental")
            return made(**arguments)
    except REFUSALS as error:
        raise _refused(made, named, key, error) from None


def _refused(made: type, named: Named, key: str, error: BaseException) -> UserError:
    parameters = inspect.signature(made).parameters
    kinds = {name: each.annotation for name, each in parameters.items()}
    arguments = {} if isinstance(named, str) else {name: value for name, value in named.items() if name != "name"}
    missing = [name for name, each in parameters.items() if each.default is each.empty and name not in arguments]
    given = [
        f"{name} ({getattr(kind := kinds.get(name, 'unknown'), '__name__', kind)}) is {short(value)}"
        for name, value in arguments.items()
    ]
    fix = f"check its arguments: {', '.join(given)}" if given else f"choose another {key}, or other parameters"
    if missing and isinstance(error, TypeError):
        fix = f'write {{"name": "{made.__name__}", "{missing[0]}": ...}}, or choose another {key}'
    if isinstance(error, ImportError):
        fix = f"install that package, or choose another {key}"
    return UserError(f"{key}: {made.__name__}: {' '.join(str(error).split()) or type(error).__name__}; {fix}")


def _distribution(optuna: Any, part: list[Any] | Range) -> Any:
    if not isinstance(part, Range):
        return optuna.distributions.CategoricalDistribution([json.dumps(value, sort_keys=True) for value in part])
    if part.is_integer:
        step = 1 if part.step is None else int(part.step)
        return optuna.distributions.IntDistribution(part.min, part.max, log=part.log, step=step)
    return optuna.distributions.FloatDistribution(float(part.min), float(part.max), log=part.log, step=part.step)


def _value(part: list[Any] | Range, chosen: Any) -> Any:
    return chosen if isinstance(part, Range) else json.loads(chosen)
