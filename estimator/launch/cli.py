"""The part of main.py's command line that is about `--tpu NAME`: launching a run, and asking after one."""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from estimator import storage
from estimator.config import did_you_mean
from estimator.errors import UserError
from estimator.generation import arguments as generation_arguments
from estimator.launch import arguments as launch_arguments
from estimator.launch import run_store
from estimator.launch.console import Console
from estimator.launch.gcp import ledger, slices
from estimator.launch.gcp.compute_engine import ComputeEngine
from estimator.launch.gcp.interface import NAME, Order
from estimator.launch.gcp.provider import GoogleProvider
from estimator.launch.gcp.settings import HOW, Cloud, configured
from estimator.launch.gcp.tpu_api import TpuApi
from estimator.launch.gcp.workers import GoogleWorkers
from estimator.launch.host_setup import HostSetup
from estimator.launch.interfaces import Gone, Provider, Workers
from estimator.launch.local_hosts import LocalProvider
from estimator.launch.run_store import ENDED, StoredRun
from estimator.launch.ssh_hosts import SshProvider
from estimator.launch.status import logs, status, stop
from estimator.launch.supervisor import Detached, Supervisor

PROVIDERS: tuple[Provider, ...] = (LocalProvider(), SshProvider())


def command(arguments: argparse.Namespace, read: Callable[[], dict[str, Any]]) -> int:
    """Runs the command that the flags ask for; returns its exit code. read: checks and returns the keys of the JSON."""
    if arguments.tpu_status:
        return status(_runs(arguments.tpu_status), workers_of)
    if arguments.tpu_logs:
        return logs(_one(arguments.tpu_logs, arguments.model), workers_of)
    if arguments.tpu_stop:
        return stop(_one(arguments.tpu_stop, arguments.model), workers_of)
    if arguments.tpu_delete:
        return delete(arguments.tpu_delete)
    return launch(arguments, read())


def launch(arguments: argparse.Namespace, values: dict[str, Any]) -> int:
    name = arguments.tpu
    if generation_arguments.asked(arguments):
        raise UserError("--tpu trains and evaluates; to predict, run this command without it where the checkpoints are")
    if arguments.dry_run:
        raise UserError("--dry_run looks at this machine alone; leave --tpu out")
    cloud, order = _ordered(arguments)
    workers = find(name, cloud=cloud, order=order)
    local = name.partition(":")[0] == "local"
    path = values["model_path"]
    if local and not storage.is_remote(path):
        path = os.path.abspath(path)
    options, clean = _of_workers(sys.argv[1:])
    run = StoredRun(place=name, model=str(Path(arguments.model).absolute()), model_path=path)
    console = Console(name)
    with run.lock():
        run = _continued(run, options, console)
        _refuse_two(run, local)
        if run.status in ENDED or run.attempt == 0:
            run.stop_file.unlink(missing_ok=True)
        if isinstance(workers, GoogleWorkers):
            _check_order(values, order, workers, console)
            run.cloud = cloud.stored() | ({"order": asdict(order)} if order else {})
            run.created = order.kind if order and workers.replaceable else ""
        ground = HostSetup(
            workers, console, model=Path(run.model), arguments=run.arguments, values=values | {"model_path": path},
            clean=clean,
        )  # fmt: skip
        supervisor = Supervisor(run, workers, ground, console, local=local, period=0.4 if local else 1.0)
        try:
            return supervisor.supervise()
        except Detached:
            return _detached(run, console)


def find(name: str, *, cloud: Cloud | None = None, order: Order | None = None) -> Workers:
    """The workers of a name; raises UserError that lists the known names."""
    for provider in PROVIDERS:
        if (workers := provider.find(name)) is not None:
            if order:
                raise UserError(f"--tpu_create: {name} is not in Google Cloud; leave --tpu_create out")
            return workers
    cloud = cloud or configured()
    google = _google(cloud, order)
    for provider in google:
        if (workers := provider.find(name)) is not None:
            return workers
    if order:
        for provider in google:
            if (workers := provider.create(name)) is not None:
                return workers
    listed = {each for provider in (*PROVIDERS, *google) for each in provider.names()}
    there = sorted(listed | {run.place for run in run_store.known()})
    nowhere = "" if cloud.named else f"; Google Cloud was not asked, because project and zone are unknown: {HOW}"
    raise UserError(
        f"--tpu {name}: no such workers{did_you_mean(name, there)}; available: {', '.join(there)}; also local:N for N "
        f"processes on this machine, ssh:HOST,HOST and HOSTS.json (docs/pods.md){nowhere}"
    )


def workers_of(run: StoredRun) -> Workers:
    """The workers of a run that was launched, also where they are gone."""
    if not run.cloud:
        return find(run.place)
    cloud, _ = _remembered(run)
    found = (provider.find(run.place) for provider in _google(cloud, None))
    return next((workers for workers in found if workers is not None), None) or Gone(run.place)


def delete(name: str) -> int:
    """Deletes the resources that this machine created under a name, and nothing else."""
    if ledger.recorded(name) is None:
        names = ledger.names()
        there = f"created from here: {', '.join(names)}" if names else "nothing was"
        raise UserError(f"{name} was not created from this machine{did_you_mean(name, names)}; {there}")
    runs = run_store.known(name)
    if going := [run for run in runs if run.status not in ENDED]:
        raise UserError(f"the run in {going[0].model_path} is in progress there; end it first: --tpu_stop {name}")
    for provider in _google(configured(), None):
        if (workers := provider.recorded(name)) is not None:
            workers.delete()
    for run in runs:
        run.created = ""
        run.save()
    Console(name).note("deleted: nothing of it is left")
    return 0


def _google(cloud: Cloud, order: Order | None) -> tuple[GoogleProvider, ...]:
    return GoogleProvider(ComputeEngine(), cloud, order), GoogleProvider(TpuApi(), cloud, order)


def _ordered(arguments: argparse.Namespace) -> tuple[Cloud, Order | None]:
    """The place and the order: from the flags, else those of the run in progress."""
    name = arguments.tpu
    if not NAME.fullmatch(name) and not arguments.tpu_create:
        return Cloud(), None
    runs = run_store.known(name)
    before, order = _remembered(runs[0]) if runs and runs[0].cloud else (Cloud(), None)
    if runs and runs[0].status in ENDED:
        order = None  # nothing is created again without being asked for again
    cloud = configured(
        project=arguments.tpu_project or before.project, zone=arguments.tpu_zone or before.zone,
        ssh=arguments.tpu_ssh or before.ssh, internal=arguments.tpu_internal or before.internal,
    )  # fmt: skip
    if arguments.tpu_create:
        order = Order(
            arguments.tpu_create, arguments.spot, arguments.tpu_api or "", arguments.tpu_image or "",
            arguments.tpu_network or "", arguments.tpu_replace,
        )  # fmt: skip
        slices.api_of(slices.find(order.kind), arguments.tpu_api)
    return cloud, order


def _remembered(run: StoredRun) -> tuple[Cloud, Order | None]:
    values = dict(run.cloud)
    order = values.pop("order", None)
    return Cloud(**values), Order(**order) if order else None


def _check_order(values: dict[str, Any], order: Order | None, workers: GoogleWorkers, console: Console) -> None:
    """Checks, before anything is created, that the order fits existing machines and that new ones reach their files."""
    if order is None:
        return
    if not workers.replaceable:
        console.note("exists already, and was not created here: nothing is created, replaced or deleted")
        return
    if (ours := workers.kind) and ours != (slices.find(order.kind).name, order.spot):
        kind = f"{ours[0]} --spot" if ours[1] else ours[0]
        raise UserError(
            f"--tpu_create: {workers.name} exists, created from here as {kind}; take it as it is, or begin with "
            f"--tpu_delete {workers.name}"
        )
    for key in ("model_path", "data_path", "encoder_path"):
        paths = values.get(key) or []
        for path in [paths] if isinstance(paths, str) else paths:
            if not storage.is_remote(path):
                raise UserError(
                    f"{key}: {path} is not in a bucket, but a machine that is created has an empty disk, which goes "
                    "with it; write a gs:// path"
                )


def _of_workers(given: list[str]) -> tuple[list[str], bool]:
    """The arguments of main.py that the workers get too, and whether the run is to be cleaned first."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    launch_arguments.add_arguments(parser)
    parser.add_argument("--model")
    parser.add_argument("--clean", action="store_true")
    known, rest = parser.parse_known_args(given)
    return rest, known.clean


def _continued(run: StoredRun, options: list[str], console: Console) -> StoredRun:
    """The run as it is known, if it has not ended; else the new one. Its arguments are those given now."""
    path = run.folder / "run.json"
    before = run_store.read(path) if path.exists() else None
    if before and before.status not in ENDED:
        if before.arguments != options or before.model != run.model:
            console.note("the arguments are not those that the run was started with; they count from its next attempt")
        run = before
    run.arguments = options
    return run


def _refuse_two(run: StoredRun, local: bool) -> None:
    others = [other for other in run_store.known(run.place) if other.id != run.id and other.status not in ENDED]
    if others and not local:
        raise UserError(
            f"{run.place} is in use by the run in {others[0].model_path}; end it first: --tpu_stop {run.place} "
            f"--model {others[0].model}"
        )


def _detached(run: StoredRun, console: Console) -> int:
    if run.status == "starting":
        console.note("interrupted; nothing was started")
        if ledger.recorded(run.place):
            console.note(f"but {run.place} was created, or asked for: --tpu_stop and then --tpu_delete {run.place}")
        return 130
    console.note(
        f"detached; the run continues, but is not restarted if a worker dies. To come back, run the same command; "
        f"also --tpu_status {run.place}, --tpu_logs {run.place}, --tpu_stop {run.place}"
    )
    return 0


def _runs(place: str) -> list[StoredRun]:
    runs = run_store.known(place)
    if not runs:
        places = sorted({run.place for run in run_store.known()})
        there = f"there are runs on {', '.join(places)}" if places else "no run was launched from this machine"
        raise UserError(f"no run on {place}{did_you_mean(place, places)}; {there}")
    return runs


def _one(place: str, model: str | None) -> StoredRun:
    """The run on a place: the one of a JSON file if given, else the one in progress, else the last one."""
    runs = _runs(place)
    if model:
        runs = [run for run in runs if run.model == str(Path(model).absolute())]
        if not runs:
            raise UserError(f"no run of {model} on {place}; --tpu_status {place} lists those that there are")
    going = [run for run in runs if run.status not in ENDED]
    if len(going) > 1:
        raise UserError(
            f"{len(going)} runs on {place} are in progress; name one: --model "
            + " or ".join(run.model for run in going)
        )
    return (going or runs)[0]
