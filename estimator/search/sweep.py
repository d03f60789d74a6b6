"""Runs a sweep: `--sweep`. Each trial is main.py in a process of its own, with a JSON file and a folder."""

import argparse
import contextlib
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estimator import config, storage
from estimator.data import text_input
from estimator.errors import EXIT_DIVERGED, EXIT_INTERRUPTED, EXIT_STOPPED, UserError, require_output
from estimator.search import sweep_results
from estimator.search.study import Study, rehearse
from estimator.search.sweep_config import Range, SweepConfig
from estimator.search.trials import FILE_NAME, Trial, TrialStore
from estimator.storage import locks
from estimator.training import metrics_log, run_dir
from estimator.training.control_files import ControlFolder

if TYPE_CHECKING:
    from estimator.setup import Setup

MAIN = Path(__file__).resolve().parents[2] / "main.py"
MOST_REASON = 500  # characters
LOOK_SECONDS, REMOTE_LOOK_SECONDS = 0.5, 15.0
PER_TOKEN = ("loss", "perplexity")
EVERYWHERE = ("step", "tokens", "time")  # numbers that all records of metrics.jsonl have
PASSED_ON = ("tpu_project", "tpu_zone", "tpu_ssh", "tpu_create", "tpu_api", "tpu_image", "tpu_network")
PASSED_FLAGS = ("tpu_internal", "spot", "tpu_replace")


def sweep(arguments: argparse.Namespace, model: "Callable[[], Setup]") -> int:
    """Runs the trials that are left, then prints the table and draws the figure; returns the exit code.

    model: checks the JSON file. A failed trial does not end the sweep.
    """
    path = arguments.sweep
    values, setup = config.read(path), model()
    (plan,) = config.parse_sections(values, [SweepConfig], source=path, also=_problems(values, setup.values()))
    _refuse_overridden(arguments.set, plan, path)
    base = config.read(arguments.model, arguments.set, run_dir.where_it_is)
    try:
        rehearse(plan)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    folder = Path(plan.folder or f"runs/{Path(path).stem}")
    if not (folder / FILE_NAME).exists() and (faults := _faults_of_trials(plan, setup)):  # others may have results
        raise config.faulty(path, faults)
    folder.mkdir(parents=True, exist_ok=True)
    targets = plan.targets or ([arguments.tpu] if arguments.tpu else [None] * plan.parallel)
    flags = [f"--{name}={value}" for name in PASSED_ON if (value := getattr(arguments, name))]
    flags += [f"--{name}" for name in PASSED_FLAGS if getattr(arguments, name)]
    with locks.exclusive(folder / "lock", f"another sweep runs in {folder}"), _interruptible():
        store = TrialStore(folder)
        store.require_same(plan.identity() | {"model": base})
        _try_again(plan, store)
        runner = Runner(plan, base, store, Study(plan, store.trials), flags)
        try:
            runner.run(targets)
        except KeyboardInterrupt:
            runner.interrupt()
            print(f"interrupted; the same command continues the sweep in {folder}", file=sys.stderr)
            return EXIT_INTERRUPTED
        except (UserError, OSError):  # of the sweep's own files: its trials continue with it, not alone
            runner.interrupt()
            raise
        print(sweep_results.report(plan, store))
        require_output()
        return 0 if any(trial.state == "complete" for trial in store.trials) else 2


def _try_again(plan: SweepConfig, store: TrialStore) -> None:
    """Marks failed trials to run again once all others are done: what made them fail may be fixed, as a full disk.

    Those that diverged would have the same bits again.
    """
    if len(store.trials) < plan.count or any(trial.state == "running" for trial in store.trials):
        return
    for trial in store.trials:
        if trial.state == "failed" and trial.code != EXIT_DIVERGED:
            trial.state, trial.reason, trial.code = "running", "", None


def _problems(sweep: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """What is wrong with a sweep of a file with the known keys."""
    problems = []
    parameters = sweep.get("parameters")
    for key, choices in parameters.items() if isinstance(parameters, dict) else ():
        if key in ("model_path", "predict_path"):
            problems.append(f"parameters: {key} follows from the trial; leave it out")
        elif key not in known:
            problems.append(f"parameters: no key {key}{config.advice(key, choices, known)}")
    if (metric := sweep.get("metric")) in ("split", "event"):
        problems.append(f"metric: {metric} is no number; write a key such as loss or bits_per_byte")
    elif isinstance(metric, str) and metric not in (*metrics_log.EVALUATION, *EVERYWHERE):
        listed = ", ".join(metrics_log.EVALUATION)
        problems.append(f"metric: evaluations log no {config.short(metric)}; write one of {listed}")
    return problems


def _faults_of_trials(plan: SweepConfig, setup: "Setup") -> list[str]:
    """What would make trials fail, each after the time that it takes."""
    faults = []
    for section in setup.sections:
        for key, choice in plan.parameters.items():
            if key not in type(section).model_fields:
                continue
            values = [choice.at(share) for share in (0, 0.4, 0.999)] if isinstance(choice, Range) else choice
            found = [line for value in values for line in config.faults_of_value(type(section), key, value)]
            faults += [f"parameters: {line}" for line in dict.fromkeys(found)]
    for key, value in (("eval_steps", setup.run.eval_steps), ("eval_split", setup.data.eval_split)):
        if value == 0 and key not in plan.parameters:
            faults.append(
                f"metric: {plan.metric} is of evaluations, and the runs have none ({key} 0); set another {key}"
            )
    if plan.metric in PER_TOKEN and (key := _key_of_vocabularies(plan, setup)):
        faults.append(
            f"metric: {plan.metric} is per token, and {key} gives the trials other tokens, so the smallest vocabulary "
            'would win; write "metric": "bits_per_byte"'
        )
    return faults


def _key_of_vocabularies(plan: SweepConfig, setup: "Setup") -> str | None:
    """The parameter that gives trials different vocabularies, if there is one."""
    keys = ["encoder_path"]
    if text_input.is_text(setup.data) and setup.data_with_vocabulary(None)[0].encoder_path is None:
        keys.append("n_vocab")  # each trial learns a vocabulary of its own
    return next((key for key in keys if key in plan.parameters), None)


def _refuse_overridden(texts: list[str], plan: SweepConfig, path: str) -> None:
    """UserError for keys that the command line sets in vain. texts: KEY=VALUE."""
    problems = []
    for key in (text.partition("=")[0].strip() for text in texts):
        if key in plan.parameters:
            problems.append(
                f"--set {key}: the sweep chooses it; leave it out, or take {key} out of parameters in {path}"
            )
        elif key == "model_path":
            problems.append(
                f"--set {key}: each trial has a run folder of its own; set folder or runs in {path} instead"
            )
        elif key == "predict_path":
            problems.append(f"--set {key}: each trial writes its samples into its run folder; leave it out")
    if problems:
        raise UserError("\n".join(problems))


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the sweep as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass
class Job:
    """A trial in progress. process: None for one that an earlier sweep started and that still runs. log_start: bytes
    of its log that earlier starts wrote."""

    trial: Trial
    target: str | None
    process: subprocess.Popen[bytes] | None
    began: float
    seconds: float
    log_start: int = 0
    looked: float = 0.0
    is_pruned: bool = False


class Runner:
    """Starts trials, follows their evaluations, and stops those that the pruner gives up."""

    def __init__(self, plan: SweepConfig, base: dict[str, Any], store: TrialStore, study: Study, flags: list[str]):
        self._plan, self._base, self._store, self._study, self._flags = plan, base, store, study, flags
        self._jobs: list[Job] = []
        self._left = [trial for trial in store.trials if trial.state == "running"]

    def run(self, targets: list[str | None]) -> None:
        """Runs trials until none is left, one on each target."""
        free = list(targets)
        while True:
            while free and (trial := self._next()):
                self._jobs.append(self._start(trial, free.pop(0)))
            if not self._jobs:
                return
            time.sleep(LOOK_SECONDS)
            for job in list(self._jobs):
                if self._is_alive(job):
                    self._follow(job)
                elif job.process is None:  # an earlier sweep's has ended: the same command tells how
                    self._jobs[self._jobs.index(job)] = self._start(job.trial, job.target)
                else:
                    self._jobs.remove(job)
                    free.append(job.target)
                    self._finish(job)

    def interrupt(self) -> None:
        """Lets the trials save and end; they continue with the sweep."""
        processes = [job.process for job in self._jobs if job.process and job.process.poll() is None]
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait()

    def _next(self) -> Trial | None:
        if self._left:
            trial = self._left.pop(0)
            self._study.resume(trial.number, trial.values)
            return trial
        number = len(self._store.trials)
        if number >= self._plan.count:
            return None
        trial = Trial(number, self._study.next(number))
        self._store.trials.append(trial)
        self._store.save()
        return trial

    def _run_of(self, trial: Trial) -> str:
        return storage.join(self._plan.runs or str(self._store.folder), trial.name)

    def _start(self, trial: Trial, target: str | None) -> Job:
        lock = Path(self._run_of(trial)) / run_dir.LOCK
        if target is None and lock.exists() and locks.is_held(lock):
            return Job(trial, target, None, time.monotonic(), trial.seconds)
        file, log = (self._store.folder / f"{trial.name}.{suffix}" for suffix in ("json", "log"))
        values = {**self._base, **trial.values, "model_path": self._run_of(trial), "predict_path": "auto"}
        storage.write_json_atomic(file, values)
        remote = ["--tpu", target, *self._flags] if target else []
        with open(log, "ab") as output:
            start = output.tell()
            process = subprocess.Popen(
                [sys.executable, str(MAIN), "--model", str(file), *remote],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        print(f"trial {trial.name}: {_shown(trial.values)}; output: {log}", flush=True)
        return Job(trial, target, process, time.monotonic(), trial.seconds, start)

    def _is_alive(self, job: Job) -> bool:
        if job.process:
            return job.process.poll() is None
        return locks.is_held(Path(self._run_of(job.trial)) / run_dir.LOCK)

    def _follow(self, job: Job) -> None:
        """Reads the trial's evaluations and stops it if the pruner says so."""
        run = self._run_of(job.trial)
        if time.monotonic() - job.looked < (REMOTE_LOOK_SECONDS if storage.is_remote(run) else LOOK_SECONDS):
            return
        job.looked = time.monotonic()
        try:
            is_longer = self._read(job.trial)
        except UserError:  # a damaged log: `_finish` tells
            return
        if is_longer and not job.is_pruned and self._study.should_prune(job.trial):
            job.is_pruned = True
            ControlFolder(run).send("stop")

    def _read(self, trial: Trial) -> bool:
        """Takes over new evaluations from the log; returns whether there are any. UserError for a damaged log."""
        path = storage.join(self._run_of(trial), metrics_log.FILE_NAME)
        if not storage.is_file(path):
            return False
        before = len(trial.reports)
        records = [record for record in metrics_log.read(path) if record["split"] == "eval"]
        metric = self._plan.metric
        trial.reports = [
            (each["step"], float(each[metric])) for each in records if isinstance(each.get(metric), int | float)
        ]
        return len(trial.reports) != before

    def _finish(self, job: Job) -> None:
        trial, code, fault = job.trial, job.process.returncode if job.process else 0, ""
        try:
            self._read(trial)
        except UserError as error:
            fault = str(error)
        trial.seconds = round(job.seconds + time.monotonic() - job.began, 1)
        if trial.reports:
            losses = [loss for _, loss in trial.reports]
            trial.step = trial.reports[-1][0]
            # NaN is neither less nor more than a number, so where it comes first min would return it.
            best = min(losses, key=lambda loss: (math.isnan(loss), loss))
            trial.loss = losses[-1] if self._plan.objective == "last" else best
        if fault:
            trial.state, trial.reason = "failed", fault
        elif code == 0 and trial.reports:
            trial.state = "complete"
        elif job.is_pruned and code in (EXIT_STOPPED, EXIT_INTERRUPTED):
            trial.state, trial.reason = "pruned", f"stopped at step {trial.step}"
        elif code in (EXIT_STOPPED, EXIT_INTERRUPTED):
            trial.reason = "stopped by hand; the same command continues it"
        else:
            trial.state, trial.reason, trial.code = "failed", self._why(job, code), code
        if trial.state != "running":
            self._study.finish(trial)
        self._store.save()
        print(f"trial {trial.name}: {sweep_results.outcome(trial, self._plan.metric)}", flush=True)

    def _why(self, job: Job, code: int) -> str:
        """The last error of the trial in its log."""
        if code == 0:
            return f"it logged no {self._plan.metric} of an evaluation (eval_steps, eval_split)"
        text = (self._store.folder / f"{job.trial.name}.log").read_bytes()[job.log_start :].decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        first = max((i for i, line in enumerate(lines) if line.startswith("error: ")), default=len(lines) - 1)
        error = " ".join(lines[max(first, 0) :])[:MOST_REASON].removeprefix("error: ")
        killed = f"killed by {signal.Signals(-code).name}; " if code < 0 and -code in signal.valid_signals() else ""
        return killed + (error or f"code {code}")


def _shown(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {sweep_results.short(value)}" for key, value in values.items())
