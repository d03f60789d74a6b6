"""Programs that are killed, starved or given damaged files end with the right bits or with a clear refusal.

    python -m benchmarks.faults                          200 trials of training runs
    python -m benchmarks.faults --target encode --trials 50 --seed 7
    python -m benchmarks.faults --seed 7 --only 23       one trial again: it follows from its seed and number

Faults are SIGKILL at any call that changes a file, torn and short writes, full, read-only and failing disks, stop
signals, SIGSTOP, clock jumps, lack of memory, damaged and exchanged files, lost and silent workers, a storage service
that fails, NaN. A trial draws up to three. It has survived if the result is that of an undisturbed run, and was refused
if it is so after one-line errors whose advice was followed. Failures are lost (a saved step or a file is gone, or a
program hangs) and wrong (another result, a traceback, an error without advice).
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from benchmarks import _faults_programs, _faults_serve, _faults_train, _faults_train_kinds
from benchmarks import _faults_trial as trials
from benchmarks._faults_trial import OUTCOMES, REFUSED, SURVIVED, Fault, Report
from benchmarks._report import finish, processor, say, table

ATTEMPTS = 5
PAUSE_SECONDS = 2.0  # longer ones are no delays of a busy machine


class Target(Protocol):
    """Inputs, warm processes and undisturbed results, for all trials of a target."""

    def close(self) -> None: ...


# Name -> (what trials share, in a new folder and with the shim; one trial).
TARGETS: dict[str, tuple[Callable[[Path, str], Target], Callable[..., None]]] = {
    "train": (_faults_train.Laboratory, _faults_train_kinds.trial),
    "encode": (_faults_programs.Encode, _faults_programs.trial),
    "extract": (_faults_programs.Extract, _faults_programs.trial),
    "download": (_faults_programs.Download, _faults_programs.trial),
    "download_model": (_faults_programs.DownloadModel, _faults_programs.trial),
    "export": (_faults_programs.Export, _faults_programs.trial),
    "export_gguf": (_faults_programs.ExportGGUF, _faults_programs.trial),
    "serve": (_faults_serve.ServerRoom, _faults_serve.trial),
}


class Pauses:
    """Notices within its block whether this process, and so perhaps those of a trial, were stopped from outside."""

    def __init__(self) -> None:
        self.seen = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._done.wait(0.1):
            self.seen |= (now := time.monotonic()) > before + PAUSE_SECONDS
            before = now

    def __enter__(self) -> "Pauses":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()


def run(target: str, *, numbers: list[int], seed: int, jobs: int) -> list[Report]:
    """The trials of a target. OSError without a compiler."""
    make, trial = TARGETS[target]
    library = trials.library()

    def one(number: int) -> Report:
        for attempt in range(1, ATTEMPTS + 1):
            report, began = Report(number, attempt), time.monotonic()
            with Pauses() as pauses:
                try:
                    trial(shared, report, random.Random(f"{seed}/{target}/{number}"))
                    report.outcome = REFUSED if report.refusals else SURVIVED
                except Fault as fault:
                    report.outcome, report.why = fault.outcome, fault.why
            if not (report.why and pauses.seen):
                break
            say(f"trial {number}: this process was stopped meanwhile, which workers and clients do not wait for; again")
        line = f"trial {number}: {report.outcome} after {', '.join(report.kinds)} ({time.monotonic() - began:.0f} s)"
        again = f"--target {target} --seed {seed} --only {number}"
        say(line if report.outcome in (SURVIVED, REFUSED) else f"{line}; again: {again}\n{report.why}")
        return report

    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder:
        shared = make(Path(folder), library)
        try:
            with ThreadPoolExecutor(jobs) as pool:
                return list(pool.map(one, numbers))
        finally:
            shared.close()


def summary(reports: list[Report]) -> list[dict[str, str | int]]:
    """A row a kind of fault, and the sums. A trial of several kinds is in the row of each."""
    names = sorted({kind for report in reports for kind in report.kinds})
    rows = []
    for name in [*names, "trials"]:
        counts = Counter(report.outcome for report in reports if name == "trials" or name in report.kinds)
        rows.append({"fault": name, "trials": counts.total()} | {outcome: counts[outcome] for outcome in OUTCOMES})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--target", choices=TARGETS, default="train", help="%(default)s")
    parser.add_argument("--only", type=int, metavar="TRIAL", help="this trial alone")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="trials at a time (%(default)s)")
    parser.add_argument("--smoke", action="store_true", help="the smallest of everything")
    arguments = parser.parse_args()
    numbers = list(range(1, 4 if arguments.smoke else arguments.trials + 1))
    if arguments.only is not None:
        numbers = [arguments.only]
    began = time.monotonic()
    try:
        reports = run(arguments.target, numbers=numbers, seed=arguments.seed, jobs=arguments.jobs)
    except OSError as error:
        sys.exit(f"error: {error}")
    rows = summary(reports)
    print(table(rows))
    sums = {outcome: rows[-1][outcome] for outcome in OUTCOMES}
    failed = [report.number for report in reports if report.why]
    details = {"target": arguments.target, "seed": arguments.seed, "trials": len(reports), **sums,
               "by_kind": rows[:-1], "seconds": time.monotonic() - began, "failed": failed}  # fmt: skip
    packages = ("jax", "orbax-checkpoint", "numpy")
    finish("faults", "trials lost or wrong", len(failed), {}, device=processor(), packages=packages, details=details)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
