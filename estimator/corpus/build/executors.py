"""Runs numbered tasks: in this process, in several, on a Ray cluster, or as Slurm jobs that are submitted.

A task is done when its result is at its place, so whoever runs it, however often, produces the same. Ray and, for
Slurm's jobs, datatrove are optional packages. Ray's own tasks are used, since they come back when a machine is lost:
datatrove's executor for Ray runs each task in a pool of forked processes, which waits forever for one that dies.
"""

import argparse
import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from estimator import invocation, storage
from estimator.corpus.build.worker_pool import Work, attempt, run_in_processes
from estimator.errors import UserError, import_failed

INSTALL = invocation.install("data")
REPOSITORY = Path(__file__).resolve().parents[3]
POLL_SECONDS = 0.2
LINE_SECONDS = 30.0  # between lines where no bar is shown
CONNECT_SECONDS = 5.0
RETRIES = 5  # of a task on Ray whose process or machine was lost


class Executor(NamedTuple):
    """Selects where tasks run.

    kind: local, ray or slurm. workers: tasks at a time; None means one per core, with Ray of the cluster. For Slurm:
    partition, time (limit of a job, in Slurm's notation), memory_gb and cpus of a task, qos, and script_only, which
    prints the jobs instead.
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
    group.add_argument("--workers", type=int, metavar="N", help="tasks at a time (one per core)")
    group.add_argument("--executor", choices=("local", "slurm", "ray"), default=defaults["kind"], help="%(default)s")
    group.add_argument("--slurm_partition", metavar="NAME", default=defaults["partition"])
    group.add_argument("--slurm_time", metavar="H:MM:SS", default=defaults["time"], help="limit of a job (%(default)s)")
    group.add_argument(
        "--slurm_memory", type=int, metavar="GB", default=defaults["memory_gb"], help="a task (%(default)s)"
    )
    group.add_argument("--slurm_cpus", type=int, metavar="N", default=defaults["cpus"], help="a task (%(default)s)")
    group.add_argument("--slurm_qos", metavar="NAME", default=defaults["qos"])
    group.add_argument("--slurm_script", action="store_true", help="print the job scripts instead of submitting them")


def from_arguments(arguments: argparse.Namespace) -> Executor:
    """The executor that the options of a command select."""
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
    """A counter per task in a small file, which workers write and the progress bar reads."""

    def __init__(self, path: str | Path, tasks: int):
        self.path, self.tasks = Path(path), tasks

    def create(self) -> None:
        self.path.write_bytes(bytes(8 * self.tasks))

    def set(self, task: int, value: int) -> None:
        """Sets the counter of a task; called by its worker."""
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
    """A progress bar. count: returns how much of `total` is done, in all processes together."""

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
    folder: for the executors' files; seen by all machines. name: a word for the tasks.
    after: Slurm jobs that must succeed before these begin; with Slurm, returns the jobs submitted.
    A task's UserError, or the system's refusal, is raised here.
    """
    left = [i for i in range(tasks) if not is_done(i)]
    folder = Path(folder) / name
    if executor.kind == "slurm":
        return _slurm(work, left, executor, folder, name, after)
    if not left:
        return None
    workers = min(workers_here(executor), len(left)) if len(left) > 1 else 1
    if executor.kind == "local" and workers > 1:
        run_in_processes(work, left, workers=workers, name=name, progress=_shown(progress))
        return None
    with _shown(progress):
        if executor.kind == "ray":
            _ray(work, left, executor, name)
        else:
            for i in left:
                work(i)
    return None


def workers_here(executor: Executor) -> int:
    """Tasks at a time on this machine: as asked, or one for each core that this process may use."""
    if executor.workers is not None:
        return executor.workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def submit(
    steps: Iterable[tuple[str, Work, int]], *, executor: Executor, folder: str | Path, after: Submitted | None
) -> Submitted | None:
    """Submits jobs to Slurm, each of which waits for the one before. steps: (name, work, tasks)."""
    for name, work, tasks in steps:
        after = run_tasks(
            work, tasks=tasks, executor=executor, folder=folder, is_done=lambda _: False, name=name, after=after
        )
    return after


# Progress.


@contextlib.contextmanager
def _shown(bar: Bar | None) -> Iterator[None]:
    """Shows a bar on a terminal, and a line now and then elsewhere, from a thread."""
    if bar is None:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_show, args=(bar, ended), daemon=True, name="the display of progress")
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


# Ray.


def _ray(work: Work, left: list[int], executor: Executor, name: str) -> None:
    try:
        import ray
    except ImportError as error:
        raise import_failed(error, "--executor ray needs the package ray: pip install ray") from error
    if not ray.is_initialized():
        environment = {"env_vars": {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}}
        address = os.environ.get("RAY_ADDRESS") or "local"
        _require_cluster(address)
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address == "local":
            options |= {"num_cpus": workers_here(executor), "include_dashboard": False}
        try:
            ray.init(address, runtime_env=environment, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"Ray ({address}) does not answer: {error}") from None
    remote = ray.remote(max_retries=RETRIES)(attempt)
    at_a_time = executor.workers or int(ray.cluster_resources().get("CPU", 1))
    waiting, running = deque(left), {}
    try:
        while waiting or running:
            while waiting and len(running) < at_a_time:
                task = waiting.popleft()
                running[remote.remote(work, task)] = task
            for result in ray.wait(list(running))[0]:
                task = running.pop(result)
                try:
                    failure = ray.get(result)
                except ray.exceptions.RayTaskError:
                    raise
                except ray.exceptions.RayError as error:
                    raise UserError(
                        f"task {task} of {name} was lost on Ray {1 + RETRIES} times ({type(error).__name__}); run the "
                        "same command again to continue, with fewer workers if memory ran out"
                    ) from None
                if failure is not None:
                    raise UserError(failure)
    finally:
        for result in running:
            ray.cancel(result, force=True)


def _require_cluster(address: str) -> None:
    """Raises UserError if nothing listens at ray://HOST:PORT or HOST:PORT, for which Ray itself waits for minutes."""
    host, colon, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if not colon or not port.isdecimal():  # auto, local, or the name of a service
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"RAY_ADDRESS={address}: no cluster of Ray answers ({error}); start it with `ray start --head`, correct "
            "RAY_ADDRESS, or unset it to use this machine"
        ) from None


# datatrove, for Slurm.


class _Step:
    """The callable that datatrove runs for each rank: the task of that number among those that were left."""

    def __init__(self, work: Work, left: list[int]):
        self._work, self._left = work, left

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        if (failure := attempt(self._work, self._left[rank])) is not None:
            raise UserError(failure)


def _datatrove() -> Any:
    try:
        import datatrove.executor
        import loguru
    except ImportError as error:
        raise import_failed(
            error, f"Slurm needs the package datatrove: {INSTALL}; --executor local does not"
        ) from error
    loguru.logger.disable("datatrove")
    return datatrove.executor


def _fresh(folder: Path) -> None:
    """Removes the files of earlier attempts; finished tasks are known by their results."""
    storage.remove(str(folder))
    folder.mkdir(parents=True)


def _slurm(
    work: Work, left: list[int], executor: Executor, folder: Path, name: str, after: Submitted | None
) -> Submitted | None:
    if not left:
        return after
    module = _datatrove()
    _fresh(folder)
    made = module.SlurmPipelineExecutor(
        [_Step(work, left)],
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
