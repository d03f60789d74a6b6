"""Prepares each host: code, environment, JSON file, and a working directory that all hosts see.

This machine uses the launcher's own; others get theirs before the first attempt.
"""

import os
import secrets
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from estimator import storage
from estimator.errors import UserError
from estimator.launch import ship_code
from estimator.launch.console import Console
from estimator.launch.interfaces import Workers
from estimator.launch.job import quoted
from estimator.launch.job_group import JobGroup
from estimator.quantities import numbered
from estimator.storage import retry


class HostPaths(NamedTuple):
    """Paths of a run on a host. folder: the working directory, from which relative paths start."""

    code: str
    python: str
    folder: str


class HostSetup:
    """clean: the run's folder is emptied before the first attempt. values: the keys of the run."""

    def __init__(
        self,
        workers: Workers,
        console: Console,
        *,
        model: Path,
        arguments: Sequence[str],
        values: dict[str, Any],
        clean: bool,
    ):
        self._workers = workers
        self._console = console
        self._model = model
        self._arguments = list(arguments)
        self._values = values
        self._clean = clean
        self._places: dict[str, HostPaths] = {}

    def prepare(self, team: JobGroup, attempt: int) -> None:
        """All that the first process finds when it starts."""
        away = [host for host in team.hosts if not host.here]
        packed = ship_code.pack() if away else b""

        def prepare(index: int) -> HostPaths:
            host = team.hosts[index]
            if host.here:
                return HostPaths(str(ship_code.ROOT), sys.executable, os.getcwd())
            code = ship_code.send_code(host, packed)
            place = HostPaths(code, ship_code.make_environment(host, code, extras=self._extras()), host.folder)
            job = team.jobs[index].folder
            sent = host.run(f"mkdir -p {quoted(job)} && cat > {quoted(job)}/model.json", stdin=self._model.read_bytes())
            if sent.code:
                raise UserError(f"{host.name}: the JSON file could not be sent: {sent.error.strip()}")
            return place

        if away:
            self._console.note(f"preparing {numbered(len(away), 'host')} (the first time takes minutes)")
        found = team.each(prepare)
        self._places = {host.name: place for host, place in zip(team.hosts, found, strict=True)}
        if len(away) > 1:
            self._check_shared(team)
        if self._clean and attempt == 0:
            self._ask(team, "clean")

    def start(self, team: JobGroup, attempt: int) -> None:
        environments = self._workers.environments(team.hosts)
        patience = os.environ.get(retry.SECONDS, str(retry.DEFAULT_SECONDS))

        def start(index: int) -> None:
            host = team.hosts[index]
            place = self._places[host.name]
            model = str(self._model) if host.here else f"{team.jobs[index].folder}/model.json"
            team.jobs[index].start(
                [place.python, f"{place.code}/main.py", "--model", model, *self._arguments],
                attempt=attempt,
                folder=place.folder,
                # Nobody waits for it: a job that is restarted in an outage waits for the storage.
                environment={"PYTHONUNBUFFERED": "1", retry.SECONDS: patience, **environments[index]},
                index=index,
            )

        team.each(start)

    def newest_step(self, team: JobGroup) -> int | None:
        step = self._ask(team, "newest")
        return int(step) if step else None

    def _ask(self, team: JobGroup, order: str) -> str:
        """What estimator/launch/query_run_dir.py on worker 0 answers."""
        host = team.hosts[0]
        place = self._places.get(host.name)
        if not place:  # this launcher has come to a run that another one started
            self.prepare(team, attempt=1)
            place = self._places[host.name]
        command = f"cd {quoted(place.folder)} && PYTHONPATH={quoted(place.code)} {quoted(place.python)}"
        path = shlex.quote(self._values["model_path"])
        output = host.run(f"{command} -m estimator.launch.query_run_dir {order} {path}", timeout=300)
        if output.code:
            raise UserError(f"{host.name}: {output.error.strip().removeprefix('error: ')}")
        return output.out.decode().strip()

    def _extras(self) -> list[str]:
        """Requirements beyond the core, by the storage of the run and its data."""
        paths = [self._values.get(key) for key in ("model_path", "data_path", "encoder_path")]
        text = " ".join(str(path) for path in paths)
        names = [f"requirements-{name}.txt" for name, scheme in (("gcs", "gs://"), ("s3", "s3://")) if scheme in text]
        return [name for name in names if (ship_code.ROOT / name).exists()]

    def _check_shared(self, team: JobGroup) -> None:
        """Raises UserError unless all hosts see the same run folder: each writes its part of a checkpoint to it."""
        path = self._values["model_path"]
        if path.startswith("gs://"):
            return
        if not storage.is_remote(path):
            name = f".seen-by-all-{secrets.token_hex(4)}"
            folders = [f"cd {quoted(self._places[host.name].folder)} && cd {quoted(path)}" for host in team.hosts]
            first = team.hosts[0]
            made = first.run(
                f"cd {quoted(self._places[first.name].folder)} && mkdir -p {quoted(path)} && : > {quoted(path)}/{name}"
            )
            if made.code:
                raise UserError(f"{first.name}: model_path: {path} cannot be written: {made.error.strip()}")
            seen = team.each(lambda index: team.hosts[index].run(f"{folders[index]} && [ -e {name} ]").code == 0)
            first.run(f"{folders[0]} && rm -f {name}")
            if all(seen):
                return
        raise UserError(
            f"model_path: {path} is not one folder that all {len(team.hosts)} hosts see, and each of them writes its "
            "part of a checkpoint there; write a gs:// path, or a folder of a file system that they share"
        )
