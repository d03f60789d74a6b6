"""Cloud TPU runs: the real supervisor and real SSH, with workers of a fake Google Cloud on this machine."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import QUICK_COMPILE, ROOT
from helpers import ssh_servers
from helpers.google_cloud import PROJECT, ZONE, Error
from helpers.launching import Scripts, alive, arguments, wait_for

from benchmarks import survival
from estimator.errors import UserError
from estimator.launch import arguments as launch_arguments
from estimator.launch import cli, run_store, ship_code, supervisor
from estimator.launch.console import Console
from estimator.launch.gcp import ledger
from estimator.launch.gcp.interface import Order
from estimator.launch.gcp.provider import GoogleProvider
from estimator.launch.gcp.rest import Time
from estimator.launch.gcp.settings import Cloud
from estimator.launch.gcp.tpu_api import TpuApi
from estimator.launch.interfaces import State
from estimator.launch.job import MARK
from estimator.launch.run_store import StoredRun
from estimator.launch.supervisor import Supervisor

QUICK = Time(time.monotonic, lambda seconds: time.sleep(min(seconds, 0.02)))
BUCKET = {"max_steps": 3, "model_path": "gs://b/run", "data_path": "gs://b/text", "encoder_path": "gs://b/vocabulary"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(supervisor, "SETTLING_SECONDS", 0.3)
    for name in launch_arguments.STARTED_BY_OTHERS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def machines(google, tmp_path):
    """Starts SSH servers on two local addresses, each with its own home directory, and returns the options for them."""
    keys = ssh_servers.make_keys(tmp_path)
    addresses = ["127.0.0.1", "127.0.0.2"]
    try:
        with socket.create_server((addresses[1], 0)) as server:
            port = server.getsockname()[1]
    except OSError:
        pytest.skip(f"this machine has no {addresses[1]}")
    servers = []
    for index, address in enumerate(addresses):
        home = tmp_path / f"machine{index}"
        home.mkdir()
        settings = f"HOME={home} JAX_PLATFORMS=cpu XLA_FLAGS='{QUICK_COMPILE}' GCE_METADATA_HOST=127.0.0.1:9"
        command = f'ForceCommand env {settings} sh -c "$SSH_ORIGINAL_COMMAND"'
        servers.append(ssh_servers.start(keys, address, port, command))
    google.addresses = addresses
    yield f"-p {port} -i {keys}/user -oIdentitiesOnly=yes -F/dev/null"
    for path in tmp_path.glob("machine*/.cache/gpt2/cluster/jobs/*/pid"):
        end(path.read_text())
    for server in servers:
        server.terminate()
        server.wait()


def end(number: str) -> None:
    """Sends SIGKILL to a process if it still belongs to the job, because its process ID may have been reused."""
    environment = Path("/proc", number.strip() or "none", "environ")
    with contextlib.suppress(OSError):
        if f"{MARK}=pod-".encode() in environment.read_bytes():
            os.kill(int(number), signal.SIGKILL)


def pod(ssh: str, kind: str = "v4-16", **options):
    one = GoogleProvider(TpuApi(at=QUICK), Cloud(PROJECT, ZONE, ssh), Order(kind, **options))
    return one.find("pod") or one.create("pod")


def test_a_pod_that_is_preempted_is_replaced_and_the_run_goes_on(google, machines, tmp_path, capfd):
    """Creates a pod, starts both workers, preempts it together with all its processes, and deletes it at the end."""
    script = (
        "echo attempt $ATTEMPT; echo $$ > pid$INDEX; [ $ATTEMPT = 2 ] || { echo $ATTEMPT > step; exec sleep 1000; }"
    )
    run = StoredRun(place="pod", model="x.json", model_path=str(tmp_path / "run"), created="v4-16")
    tokens = []

    def preempt() -> None:
        both = [tmp_path / "pid0", tmp_path / "pid1"]
        numbers = wait_for(lambda: all(path.exists() for path in both) and [path.read_text() for path in both])
        tokens.append(ledger.recorded("pod").token)
        google.take("nodes/pod", "PREEMPTED")
        for number in numbers:
            end(number)

    thread = threading.Thread(target=preempt)
    thread.start()
    shown: list[str] = []
    workers = pod(machines, spot=True)
    one = Supervisor(
        run, workers, Scripts(tmp_path, script, script), Console("pod", shown.append), local=False, period=0.02
    )
    assert one.supervise() == 0
    thread.join()
    assert (run.status, run.attempt, run.step) == ("finished", 2, 1)
    assert {"attempt 2", "[1] attempt 2"} <= set(shown)
    bodies = [body["tpu"]["nodeSpec"][0]["node"] for body in google.bodies if body]
    first, second = [body["labels"][ledger.LABEL] for body in bodies]
    assert tokens == [first] != [second]
    assert google.alive == set()
    assert ledger.names() == []
    notes = capfd.readouterr().err
    assert notes.count("PREEMPTED: creating it") == 1
    assert "the run is finished: deleting" in notes


# A fake interpreter that prints its arguments.
ECHO = """#!/bin/sh
echo "process $JAX_PROCESS_ID of $JAX_NUM_PROCESSES meets at $JAX_COORDINATOR_ADDRESS"
[ -e "$1" ] && [ -e "$3" ] && shift 3 && echo "started with $*"
"""


def test_a_pod_that_somebody_else_has_created_is_used_and_left(google, machines, tmp_path, monkeypatch, capfd):
    """The code and the file are sent, both workers get the coordinator's address, and nothing is deleted.

    Training on such workers is tested with ssh:HOST,HOST.
    """
    wait_for_ready(pod(machines))
    ledger.recorded("pod").forget()
    python = tmp_path / "python"
    python.write_text(ECHO)
    python.chmod(0o755)
    monkeypatch.setattr(ship_code, "make_environment", lambda host, code, **_: str(python))
    path = survival.written(tmp_path, "run", max_steps=3)
    command = ["--model", str(path), "--tpu", "pod", "--tpu_ssh", machines, "--set", "lr=0.1", "--tpu_create", "v4-16"]
    assert started(command, monkeypatch) == 0
    shown, notes = capfd.readouterr()
    lines = sorted(shown.splitlines())
    assert [line.rpartition(":")[0] for line in lines[:1]] == ["[1] process 1 of 2 meets at 127.0.0.1"]
    assert lines[1:] == ["[1] started with --set lr=0.1", lines[0][4:].replace("process 1", "process 0"),
                         "started with --set lr=0.1"]  # fmt: skip
    assert "pod: exists already, and was not created here: nothing is created, replaced or deleted" in notes
    for machine in tmp_path.glob("machine?"):
        assert len(list(machine.glob(".cache/gpt2/cluster/code/*/main.py"))) == 1
    assert google.alive == {"queuedResources/pod", "nodes/pod"}
    assert cli.command(arguments(["--tpu_status", "pod"]), dict) == 0
    assert "pod (READY): finished" in capfd.readouterr().out
    with pytest.raises(UserError, match="pod was not created from this machine; nothing was"):
        cli.command(arguments(["--tpu_delete", "pod"]), dict)


def wait_for_ready(workers) -> None:
    while (state := workers.state()) != State.READY:
        if state == State.GONE:
            workers.create()


def started(command: list[str], monkeypatch) -> int:
    """Runs main.py in this process."""
    import main

    monkeypatch.setattr(sys, "argv", ["main.py", *command])
    given = main.parse_arguments()
    assert launch_arguments.asked(given)
    return cli.command(given, lambda: main.read_setup(given).values())


# Kills, and commands given after them.


@pytest.mark.slow
def test_a_launcher_that_is_killed_while_it_waits_for_machines_leaves_nothing_that_is_forgotten(
    google, tmp_path, monkeypatch, capfd
):
    google.machines_ready = False
    path = survival.written(tmp_path, "run", **BUCKET)
    process = survival.launched(path, "pod", "--tpu_create", "v5e-16", "--spot")
    wait_for(lambda: google.alive)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert google.alive == {"queuedResources/pod"}
    with pytest.raises(UserError, match="is in progress there; end it first: --tpu_stop pod"):
        cli.command(arguments(["--tpu_delete", "pod"]), dict)
    assert cli.command(arguments(["--tpu_status", "pod"]), dict) == 0
    shown = capfd.readouterr().out
    assert "pod (CREATING): starting" in shown
    assert "nobody looks after it" in shown
    assert "created from here: v5e-16, spot; it may cost money until --tpu_delete pod" in shown
    assert cli.command(arguments(["--tpu_stop", "pod"]), dict) == 0
    assert "pod was created from here and may cost money: --tpu_delete pod" in capfd.readouterr().err
    assert cli.command(arguments(["--tpu_delete", "pod"]), dict) == 0
    assert google.alive == set()
    assert cli.command(arguments(["--tpu_status", "pod"]), dict) == 0
    assert "pod (GONE): stopped" in capfd.readouterr().out
    with pytest.raises(UserError, match="no such workers"):
        started(["--model", str(path), "--tpu", "pod"], monkeypatch)
    assert google.alive == set()


# Runs the supervisor with shell scripts in a separate process that does not import JAX.
SUPERVISE = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from estimator.launch import run_store
from estimator.launch.console import Console
from estimator.launch.local_hosts import LocalProvider
from estimator.launch.run_store import StoredRun
from estimator.launch.supervisor import Supervisor

folder = {folder!r}
SCRIPT = "echo from $ATTEMPT; touch ready$INDEX; while [ ! -e go ]; do sleep 0.05; done; echo went on"

class Ground:
    def prepare(self, team, attempt):
        pass
    def start(self, team, attempt):
        for index, job in enumerate(team.jobs):
            given = dict(ATTEMPT=str(attempt), INDEX=str(index))
            job.start(["sh", "-c", SCRIPT], attempt=attempt, folder=folder, environment=given, index=index)
    def newest_step(self, team):
        return None

run = StoredRun(place="local:2", model="x.json", model_path=folder)
path = run.folder / "run.json"
run = run_store.read(path) if path.exists() else run
with run.lock():
    workers = LocalProvider().find("local:2")
    sys.exit(Supervisor(run, workers, Ground(), Console("local:2"), local=True, period=0.05).supervise())
"""


def test_a_supervisor_that_is_killed_and_started_again_goes_on_with_the_same_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("GPT2_CLUSTER", str(tmp_path / "cluster"))
    code = SUPERVISE.format(root=str(ROOT), folder=str(tmp_path))
    command = [sys.executable, "-c", code]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    wait_for(lambda: (tmp_path / "ready0").exists() and (tmp_path / "ready1").exists())
    first.kill()
    first.communicate()
    (run,) = run_store.known()
    assert (run.status, run.attempt) == ("running", 1)
    wait_for(lambda: not run.looked_after())  # a process that it had just forked holds its lock until it is another
    numbers = [path.read_text().strip() for path in (tmp_path / "cluster").glob("worker-*/jobs/*/pid")]
    assert len(numbers) == 2
    assert all(alive(number) for number in numbers)
    second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    wait_for(run.looked_after)
    (tmp_path / "go").touch()
    shown, _ = second.communicate(timeout=600)
    assert second.returncode == 0
    assert sorted(shown.splitlines()) == ["[1] from 1", "[1] went on", "from 1", "went on"]
    (run,) = run_store.known()
    assert (run.status, run.attempt) == ("finished", 1)


# Command line.


@pytest.mark.parametrize(("command", "words"), [
    ("--tpu pod --tpu_create v4-16 --predict_text Hello", "--tpu trains and evaluates; to predict, run this command"),
    ("--tpu pod --tpu_create v4-16 --predict_lines README.md", "--tpu trains and evaluates; to predict, run this"),
    ("--tpu pod --tpu_create v4-16 --set model_path=runs/a", "model_path: runs/a is not in a bucket"),
    ("--tpu pod --tpu_create v4-16 --set data_path=text", "data_path: text is not in a bucket"),
    ("--tpu pod --tpu_create v4-15", "--tpu_create v4-15: no such size"),
    ("--tpu pod --tpu_create v4-16 --tpu_api compute", "Compute Engine has no v4-16"),
    ("--tpu Pod_1 --tpu_create v4-16", "Google takes names of at most 50 small letters"),
    ("--tpu local:2 --tpu_create v4-16", "local:2 is not in Google Cloud"),
    ("--tpu pod", "no such workers"),
])  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_created(google, tmp_path, monkeypatch, command, words):
    path = survival.written(tmp_path, "run", **BUCKET)
    with pytest.raises(UserError, match=words) as caught:
        started(["--model", str(path), *command.split()], monkeypatch)
    assert "\n" not in str(caught.value)
    assert google.made() == []
    assert google.alive == set()


def test_what_was_created_from_here_as_something_else_is_not_taken_for_what_is_ordered(google, tmp_path, monkeypatch):
    pod("", "v4-16").create()
    before = google.alive
    path = survival.written(tmp_path, "run", **BUCKET)
    for order in ("v4-8", "v4-16 --spot"):
        with pytest.raises(UserError, match=r"pod exists, created from here as v4-16; take it as it is, or begin with"):
            started(["--model", str(path), "--tpu", "pod", "--tpu_create", *order.split()], monkeypatch)
    assert google.alive == before


def test_a_quota_that_is_too_small_ends_the_run_with_words_and_nothing_is_left(google, tmp_path, monkeypatch):
    google.fail(
        "POST", answer=Error(429, "Quota limit 'TPUV4PerProjectPerZone' has been exceeded.", "RESOURCE_EXHAUSTED")
    )
    path = survival.written(tmp_path, "run", **BUCKET)
    with pytest.raises(UserError, match=r"pod could not be created, and nothing of it is left: .*ask for more"):
        started(["--model", str(path), "--tpu", "pod", "--tpu_create", "v4-16"], monkeypatch)
    assert google.alive == set()
    (run,) = run_store.known()
    assert run.status == "failed"


@pytest.mark.parametrize("command", ["--tpu pod --spot", "--tpu pod --tpu_api tpu", "--tpu_create v4-8"])
def test_flags_that_go_with_others_say_so(command, capfd):
    with pytest.raises(SystemExit):
        arguments(["--model", "x.json", *command.split()])
    assert "goes with --tpu NAME" in capfd.readouterr().err


def test_names_that_there_are_in_google_cloud_are_suggested(google, tmp_path, monkeypatch):
    workers = pod("", "v4-8")
    workers.create()
    for _ in range(6):
        workers._look()
    with pytest.raises(UserError, match=r"--tpu pot: no such workers; did you mean pod\?"):
        cli.find("pot")
    monkeypatch.delenv("CLOUDSDK_COMPUTE_ZONE")
    with pytest.raises(
        UserError, match=r"Google Cloud was not asked, because project and zone are unknown: --tpu_proj"
    ):
        cli.find("pot")
