"""Carries out numbered tasks: in this process, in several, on a Ray cluster, or as Slurm jobs that are submitted.

A task is done when what it makes is at its place, so that whoever runs it, however often, makes the same. datatrove, an
optional package, does what is more than one process.
"""

import argparse
import contextlib
import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from runtime import storage
from runtime.errors import UserError, describe_os_error

INSTALL = "pip install -r requirements-data.txt"
REPOSITORY = Path(__file__).resolve().parent.parent
PR_SET_PDEATHSIG = 1  # of Linux: the signal that a process gets when its parent ends
POLL_SECONDS = 0.2
LINE_SECONDS = 30.0  # between lines where no bar is shown

Work = Callable[[int], None]


class Executor(NamedTuple):
    """Who carries out tasks.

    kind: local, ray or slurm. workers: tasks at a time; None takes one a core, or one where datatrove is missing.
    Of Slurm: partition, time (limit of a job, as Slurm writes it), memory_gb and cpus of a task, qos, and script_only,
    which prints what would be submitted.
    """

    kind: str = "local"
    workers: int | None = None
    partition: str = ""
    time: str = "24:00:00"
    memory_gb: int = 4
    cpus: int = 1
    qos: str = ""
    script_only: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that `from_arguments` reads."""
    defaults = Executor._field_defaults
    group = parser.add_argument_group("who does the work")
    group.add_argument("--workers", type=int, metavar="N", help="tasks at a time (as many as there are cores)")
    group.add_argument("--executor", choices=("local", "slurm", "ray"), default=defaults["kind"])
    group.add_argument("--slurm_partition", metavar="NAME", default=defaults["partition"])
    group.add_argument("--slurm_time", metavar="H:MM:SS", default=defaults["time"], help="limit of a job (%(default)s)")
    group.add_argument(
        "--slurm_memory", type=int, metavar="GB", default=defaults["memory_gb"], help="a task (%(default)s)"
    )
    group.add_argument("--slurm_cpus", type=int, metavar="N", default=defaults["cpus"], help="a task (%(default)s)")
    group.add_argument("--slurm_qos", metavar="NAME", default=defaults["qos"])
    group.add_argument("--slurm_script", action="store_true", help="print the job scripts instead of submitting them")


def from_arguments(arguments: argparse.Namespace) -> Executor:
    """Who does the work by the options of a command."""
    if arguments.workers is not None and arguments.workers < 1:
        raise UserError("--workers must be 1 or more")
    if arguments.slurm_script and arguments.executor != "slurm":
        raise UserError("--slurm_script shows what --executor slurm submits; give both")
    if arguments.executor == "slurm" and not arguments.slurm_partition:
        raise UserError("--executor slurm needs the partition to submit to: --slurm_partition NAME")
    return Executor(
        kind=arguments.executor,
        workers=arguments.workers,
        partition=arguments.slurm_partition,
        time=arguments.slurm_time,
        memory_gb=arguments.slurm_memory,
        cpus=arguments.slurm_cpus,
        qos=arguments.slurm_qos,
        script_only=arguments.slurm_script,
    )


class Counters:
    """A number for each task in a small file, which workers write and the one who shows progress reads."""

    def __init__(self, path: str | Path, tasks: int):
        self.path, self.tasks = Path(path), tasks

    def create(self) -> None:
        self.path.write_bytes(bytes(8 * self.tasks))

    def set(self, task: int, value: int) -> None:
        """To be called by the one who does the task."""
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(self.path, os.O_WRONLY)
            try:
                os.pwrite(descriptor, value.to_bytes(8, "little"), 8 * task)
            finally:
                os.close(descriptor)

    def total(self) -> int:
        try:
            return int(np.fromfile(self.path, "<u8").sum())
        except FileNotFoundError:
            return 0


class Bar(NamedTuple):
    """What is shown while tasks are done. count: how much of `total` is done, in whatever process."""

    label: str
    total: int
    count: Callable[[], int]
    unit: str = "B"


class Submitted(NamedTuple):
    """Slurm jobs, which later ones can wait for."""

    executor: Any


def run_tasks(
    work: Work,
    *,
    tasks: int,
    executor: Executor,
    folder: str | Path,
    is_done: Callable[[int], bool],
    progress: Bar | None = None,
    name: str = "tasks",
    after: Submitted | None = None,
) -> Submitted | None:
    """Calls `work(i)` for every i < tasks that is not done.

    work: can be pickled, may be called again, and leaves its result at its final place only when it is complete.
    folder: for what executors note; seen by all machines. name: of the tasks, a plain word.
    after: jobs that must have ended well before these begin; of Slurm, which returns the jobs submitted.
    A task's UserError, or the system's refusal, is raised here.
    """
    left = [i for i in range(tasks) if not is_done(i)]
    folder = Path(folder) / name
    if executor.kind == "slurm":
        return _slurm(work, left, executor, folder, name, after)
    if not left:
        return None
    workers = min(_workers(executor), len(left)) if len(left) > 1 else 1
    with _shown(progress):
        if executor.kind == "ray":
            _ray(work, left, executor, folder)
        elif workers > 1:
            _local(work, left, workers, folder)
        else:
            for i in left:
                work(i)
    return None


def _workers(executor: Executor) -> int:
    if executor.workers is not None:
        return executor.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores > 1 and executor.kind == "local":
        try:
            import datatrove  # noqa: F401 (only whether it is there)
        except ImportError:
            print(f"one process, because the package datatrove is missing: {INSTALL}", file=sys.stderr)
            return 1
    return cores


# Progress.


@contextlib.contextmanager
def _shown(bar: Bar | None) -> Iterator[None]:
    """A bar on a terminal, and elsewhere a line now and then, from a thread of its own."""
    if bar is None:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_show, args=(bar, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _show(bar: Bar, ended: threading.Event) -> None:
    begun, start, said = bar.count(), time.monotonic(), time.monotonic()
    terminal = sys.stderr.isatty()
    scale = bar.unit == "B"
    with tqdm(
        total=bar.total, initial=begun, desc=bar.label, unit=bar.unit, unit_scale=scale, disable=not terminal
    ) as shown:
        while not ended.wait(POLL_SECONDS):
            count = min(bar.count(), bar.total)
            shown.update(count - shown.n)
            now = time.monotonic()
            if not terminal and now - said >= LINE_SECONDS and count > begun:
                said = now
                rate = (count - begun) / (now - start)
                left = (bar.total - count) / rate
                speed = f"{rate / 1e6:.1f} MB/s" if scale else f"{rate:.1f} {bar.unit}/s"
                print(f"{bar.label}: {100 * count / bar.total:.1f} %, {speed}, {left:.0f} s left", flush=True)
        shown.update(min(bar.count(), bar.total) - shown.n)


# datatrove.


class _Step:
    """What datatrove calls for each of its ranks: the task of that number among those that were left.

    A failure is also noted in a file, from which the one who waits learns its message.
    """

    def __init__(self, work: Work, left: list[int], folder: Path):
        self._work, self._left, self._folder = work, left, str(folder)
        self._parent = os.getpid()

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        if os.getpid() != self._parent and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who waits ends the others
        try:
            self._work(self._left[rank])
        except (UserError, OSError) as error:
            message = str(error) if isinstance(error, UserError) else describe_os_error(error)
            with contextlib.suppress(OSError):
                storage.write_bytes_atomic(str(_failure(self._folder, rank)), json.dumps(message).encode())
            raise UserError(message) from None


def _failure(folder: str | Path, rank: int) -> Path:
    return Path(folder) / f"failure-{rank:05d}.json"


def _datatrove() -> Any:
    try:
        import datatrove.executor
        import loguru
    except ImportError:
        raise UserError(f"more than one worker needs the package datatrove: {INSTALL}, or --workers 1") from None
    loguru.logger.disable("datatrove")
    return datatrove.executor


def _fresh(folder: Path) -> None:
    """Forgets what former attempts noted: what is done is seen from the results."""
    storage.remove(str(folder))
    folder.mkdir(parents=True)


def _local(work: Work, left: list[int], workers: int, folder: Path) -> None:
    module = _datatrove()

    class Quiet(module.LocalPipelineExecutor):
        def _launch_run_for_rank(self, *arguments: Any, **options: Any) -> Any:
            import loguru

            loguru.logger.disable("datatrove")
            return super()._launch_run_for_rank(*arguments, **options)

    _fresh(folder)
    # Forked, so that workers have at once what was read before, a vocabulary for instance. JAX does not survive it.
    method = "fork" if sys.platform == "linux" and "jax" not in sys.modules else "spawn"
    step = _Step(work, left, folder)
    made = Quiet(
        [step],
        tasks=len(left),
        workers=workers,
        logging_dir=str(folder),
        skip_completed=False,
        start_method=method,
    )
    with _ending_together():
        made.run()


@contextlib.contextmanager
def _ending_together() -> Iterator[None]:
    """What is forked meanwhile, datatrove's manager too, ends with this process even where that is killed.

    Otherwise it would stay for ever, and hold the locks that this process had.
    """
    if sys.platform != "linux":
        yield
        return
    prctl, parent, active = ctypes.CDLL(None).prctl, os.getpid(), True

    def ask() -> None:
        if active and os.getppid() == parent:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    os.register_at_fork(after_in_child=ask)
    try:
        yield
    finally:
        active = False


def _ray(work: Work, left: list[int], executor: Executor, folder: Path) -> None:
    module = _datatrove()
    try:
        import ray
    except ImportError:
        raise UserError("--executor ray needs the package ray: pip install ray") from None
    if not ray.is_initialized():
        environment = {"env_vars": {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}}
        address = os.environ.get("RAY_ADDRESS")
        options: dict[str, Any] = {} if address else {"num_cpus": _workers(executor), "include_dashboard": False}
        ray.init(address=address, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR, **options)
    _fresh(folder)
    step = _Step(work, left, folder)
    module.RayPipelineExecutor(
        [step],
        tasks=len(left),
        workers=_workers(executor),
        logging_dir=str(folder),
        skip_completed=False,
        mem_per_cpu_gb=0.5,
    ).run()
    for rank in range(len(left)):
        with contextlib.suppress(FileNotFoundError):
            raise UserError(json.loads(_failure(folder, rank).read_bytes()))
        if not (folder / "completions" / f"{rank:05d}").is_file():
            raise UserError(f"task {left[rank]} of {folder.name} did not end on Ray; run the same command again")


def _slurm(
    work: Work, left: list[int], executor: Executor, folder: Path, name: str, after: Submitted | None
) -> Submitted | None:
    if not left:
        return after
    module = _datatrove()
    _fresh(folder)
    made = module.SlurmPipelineExecutor(
        [_Step(work, left, folder)],
        tasks=len(left),
        workers=executor.workers or -1,
        time=executor.time,
        partition=executor.partition,
        cpus_per_task=executor.cpus,
        mem_per_cpu_gb=executor.memory_gb,
        qos=executor.qos,
        job_name=name,
        logging_dir=str(folder),
        skip_completed=False,
        depends=after.executor if after else None,
        env_command=f'export PYTHONPATH="{REPOSITORY}:$PYTHONPATH" PATH="{Path(sys.executable).parent}:$PATH"',
        requeue_signals=None,
        randomize_start_duration=0,
    )
    if executor.script_only:
        jobs = min(len(left), made.max_array_size)
        command = f"srun -l -n 1 launch_pickled_pipeline {folder.resolve() / 'executor.pik'}"
        print(f"# {name}: {len(left)} tasks{', when the job before has ended well' if after else ''}")
        print(made.get_launch_file_contents(made.get_sbatch_args(jobs), command))
    else:
        try:
            made.launch_job()
        except subprocess.CalledProcessError as error:
            raise UserError(f"sbatch ended with code {error.returncode}; its message is above") from None
        except FileNotFoundError as error:
            raise UserError(
                f"Slurm's command {error.filename or 'sbatch'} is missing here; --slurm_script prints the job"
            ) from None
    return Submitted(made)
