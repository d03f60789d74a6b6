"""The part of main.py's command line that is about `--tpu NAME`: launching a run, and asking after one."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cluster import records
from cluster.console import Console
from cluster.ground import Ground
from cluster.job import MARK
from cluster.local import LocalProvider
from cluster.records import ENDED, Run
from cluster.ssh import SshProvider
from cluster.supervisor import Detached, Supervisor
from cluster.visit import logs, status, stop
from cluster.workers import Provider, Workers
from runtime import storage
from runtime.config import did_you_mean
from runtime.errors import UserError

PROVIDERS: tuple[Provider, ...] = (LocalProvider(), SshProvider())
# On a machine where somebody else starts one process per worker: what says so.
STARTED_BY_OTHERS = ("JAX_NUM_PROCESSES", "SLURM_STEP_NODELIST", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("other machines", "see docs/pods.md")
    group.add_argument("--tpu", metavar="NAME", help="run on all workers of NAME: local:N, ssh:HOST,HOST, HOSTS.json")
    group.add_argument("--tpu_status", metavar="NAME", help="say how the runs on NAME are")
    group.add_argument("--tpu_logs", metavar="NAME", help="show the log of the run on NAME, until it ends")
    group.add_argument("--tpu_stop", metavar="NAME", help="let the run on NAME save and end")
    group.add_argument("--tpu_create", metavar="TYPE", help="with --tpu: create NAME, of this type, where it is not")
    group.add_argument("--spot", action="store_true", help="with --tpu_create: as one that may be taken away")


def with_model(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments; --model may be missing only where a run is asked after."""
    arguments = parser.parse_args()
    if not (arguments.model or arguments.tpu_status or arguments.tpu_logs or arguments.tpu_stop):
        parser.error("the following arguments are required: --model")
    return arguments


def asked(arguments: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is to launch, or to ask after, processes on other workers; on a worker it is not."""
    if arguments.tpu_status or arguments.tpu_logs or arguments.tpu_stop:
        return True
    return bool(arguments.tpu) and not any(environment.get(name) for name in (MARK, *STARTED_BY_OTHERS))


def command(arguments: argparse.Namespace, read: Callable[[], dict[str, Any]]) -> int:
    """Does what the flags ask for; returns the exit code. read: checks the JSON file and gives all its keys."""
    if arguments.tpu_status:
        return status(_runs(arguments.tpu_status), find)
    if arguments.tpu_logs:
        return logs(_one(arguments.tpu_logs, arguments.model), find)
    if arguments.tpu_stop:
        return stop(_one(arguments.tpu_stop, arguments.model), find)
    return launch(arguments, read())


def launch(arguments: argparse.Namespace, values: dict[str, Any]) -> int:
    name = arguments.tpu
    if arguments.interactive or arguments.predict_text is not None or arguments.predict_file is not None:
        raise UserError("--tpu trains and evaluates; to predict, run this command without it where the checkpoints are")
    if arguments.dry_run:
        raise UserError("--dry_run looks at this machine alone; leave --tpu out")
    before = next((run for run in records.known(name) if run.created), None)
    create, spot = (before.created, before.spot) if before else (arguments.tpu_create, arguments.spot)
    workers = find(name, create=create, spot=spot)
    workers.created = workers.created or before is not None
    local = name.partition(":")[0] == "local"
    path = values["model_path"]
    if local and not storage.is_remote(path):
        path = os.path.abspath(path)
    options, clean = _of_workers(sys.argv[1:])
    run = Run(place=name, model=str(Path(arguments.model).absolute()), model_path=path)
    console = Console(name)
    with run.lock():
        run = _continued(run, options, console)
        _refuse_two(run, local)
        if run.status in ENDED or run.attempt == 0:
            run.stop_file.unlink(missing_ok=True)
        if workers.created:
            run.created, run.spot = create or "", spot
        ground = Ground(
            workers, console, model=Path(run.model), arguments=run.arguments, values=values | {"model_path": path},
            clean=clean,
        )  # fmt: skip
        supervisor = Supervisor(run, workers, ground, console, local=local, period=0.4 if local else 1.0)
        try:
            return supervisor.supervise()
        except Detached:
            return _detached(run, console)


def find(name: str, *, create: str | None = None, spot: bool = False) -> Workers:
    """The workers of a name; UserError with what there is when nobody knows it."""
    for provider in PROVIDERS:
        if (workers := provider.find(name)) is not None:
            return workers
    if create:
        for provider in PROVIDERS:
            if (workers := provider.create(name, kind=create, spot=spot)) is not None:
                return workers
        raise UserError(f"--tpu_create {create}: {name} cannot be created here; see docs/pods.md")
    there = sorted(
        {each for provider in PROVIDERS for each in provider.names()} | {run.place for run in records.known()}
    )
    raise UserError(
        f"--tpu {name}: no such workers{did_you_mean(name, there)}; there are {', '.join(there)}; also local:N for N "
        "processes on this machine, ssh:HOST,HOST and HOSTS.json (docs/pods.md)"
    )


def _of_workers(given: list[str]) -> tuple[list[str], bool]:
    """The arguments of main.py that the workers get too, and whether the run is to be cleaned first."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_arguments(parser)
    parser.add_argument("--model")
    parser.add_argument("--clean", action="store_true")
    known, rest = parser.parse_known_args(given)
    return rest, known.clean


def _continued(run: Run, options: list[str], console: Console) -> Run:
    """The run as it is known, if it has not ended; else the new one. Its arguments are those given now."""
    path = run.folder / "run.json"
    before = records.read(path) if path.exists() else None
    if before and before.status not in ENDED:
        if before.arguments != options or before.model != run.model:
            console.note("the arguments are not those that the run was started with; they count from its next attempt")
        run = before
    run.arguments = options
    return run


def _refuse_two(run: Run, local: bool) -> None:
    others = [other for other in records.known(run.place) if other.id != run.id and other.status not in ENDED]
    if others and not local:
        raise UserError(
            f"{run.place} is in use by the run in {others[0].model_path}; end it first: --tpu_stop {run.place} "
            f"--model {others[0].model}"
        )


def _detached(run: Run, console: Console) -> int:
    if run.status == "starting":
        console.note("interrupted; nothing was started")
        return 130
    console.note(
        f"detached; the run goes on, and nobody starts it again if a worker dies. To come back, run the same command; "
        f"also --tpu_status {run.place}, --tpu_logs {run.place}, --tpu_stop {run.place}"
    )
    return 0


def _runs(place: str) -> list[Run]:
    runs = records.known(place)
    if not runs:
        places = sorted({run.place for run in records.known()})
        there = f"there are runs on {', '.join(places)}" if places else "no run was launched from this machine"
        raise UserError(f"no run on {place}{did_you_mean(place, places)}; {there}")
    return runs


def _one(place: str, model: str | None) -> Run:
    """The run on a place: the one of a JSON file if given, else the one that is going on, else the last one."""
    runs = _runs(place)
    if model:
        runs = [run for run in runs if run.model == str(Path(model).absolute())]
        if not runs:
            raise UserError(f"no run of {model} on {place}; --tpu_status {place} lists those that there are")
    going = [run for run in runs if run.status not in ENDED]
    if len(going) > 1:
        raise UserError(
            f"{len(going)} runs are going on {place}; say which: --model " + " or ".join(run.model for run in going)
        )
    return (going or runs)[0]
