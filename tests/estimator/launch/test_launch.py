"""`--tpu NAME`: the supervisor, first with small programs instead of main.py, then with main.py."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import QUICK_COMPILE, ROOT
from helpers import ssh_servers
from helpers.launching import Scripts, alive, arguments, wait_for

from benchmarks import survival
from estimator.errors import EXIT_DIVERGED, EXIT_STOPPED, UserError
from estimator.interrupts import EXIT_ERROR
from estimator.launch import arguments as launch_arguments
from estimator.launch import cli, local_hosts, run_store, ship_code, status, supervisor
from estimator.launch.console import Console
from estimator.launch.interfaces import HostLost, State
from estimator.launch.job import Job
from estimator.launch.local_hosts import LocalHost, LocalProvider
from estimator.launch.run_store import StoredRun
from estimator.launch.ssh_hosts import SshProvider
from estimator.launch.supervisor import Detached, Supervisor
from estimator.parallel import distributed
from estimator.training import metrics_log


@pytest.fixture(autouse=True)
def _own_state(monkeypatch, tmp_path):
    """Isolates the records of launched runs, and stops these runs after the test."""
    jax.devices()  # of this process, for the tests that follow: JAX reads XLA_FLAGS once
    monkeypatch.setenv("GPT2_CLUSTER", str(tmp_path / "cluster"))
    monkeypatch.setenv("XLA_FLAGS", QUICK_COMPILE)
    for name in launch_arguments.STARTED_BY_OTHERS:
        monkeypatch.delenv(name, raising=False)
    yield
    for run in run_store.known():
        run.stop_file.touch()
        for index in range(run.workers):
            Job(LocalHost(index), run.id).kill()


# Supervisor, with shell scripts.


@pytest.fixture
def supervised(tmp_path, monkeypatch):
    """Returns go(scripts...) -> (exit code, run, output), which runs the supervisor with short delays."""
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(supervisor, "SETTLING_SECONDS", 0.3)

    def go(*scripts: str, run: StoredRun | None = None, shown: list[str] | None = None, local: bool = True):
        run = run or new_run(tmp_path)
        shown = [] if shown is None else shown
        workers = LocalProvider().find(f"local:{len(scripts)}")
        console = Console(run.place, shown.append)
        code = Supervisor(run, workers, Scripts(tmp_path, *scripts), console, local=local, period=0.05).supervise()
        return code, run, shown

    return go


def new_run(folder: Path) -> StoredRun:
    return StoredRun(place="local:2", model=str(folder / "x.json"), model_path=str(folder / "run"))


def test_a_run_whose_workers_all_end_well_is_finished(supervised):
    code, run, shown = supervised("echo one; echo two", "echo 'also one'; printf 'no line end'")
    assert (code, run.status, run.attempt) == (0, "finished", 1)
    assert sorted(shown) == ["[1] also one", "[1] no line end", "one", "two"]
    assert run_store.read(run.folder / "run.json") == run


@pytest.mark.parametrize("text", ["", "[]", "[" * 3000, '{"place": 1', "null"])
def test_a_record_of_a_run_that_is_damaged_is_named(text, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        run_store.read(path)


def test_when_a_worker_dies_the_others_are_killed_and_all_start_again(supervised, tmp_path, capfd):
    dies = "if [ $ATTEMPT -lt 3 ]; then echo $ATTEMPT > step; kill -KILL $$; fi; echo done"
    waits = "echo $$ >> pids; if [ $ATTEMPT -lt 3 ]; then sleep 1000 & echo $! >> pids; wait; fi"
    code, run, shown = supervised(dies, waits)
    assert (code, run.attempt, run.step, run.failures) == (0, 3, 2, 0)
    assert shown == ["done"]
    for number in (tmp_path / "pids").read_text().split():
        assert not alive(number)
    notes = capfd.readouterr().err
    assert "local:2: worker 0 was killed (SIGKILL); all start again from step 1 in" in notes


def test_a_worker_whose_every_process_is_gone_counts_as_dead(supervised, tmp_path):
    vanishes = "if [ $ATTEMPT = 1 ]; then kill -KILL -$(cat {0}/wrapper); sleep 1000; fi"
    folder = Job(LocalHost(0), new_run(tmp_path).id).folder
    code, run, _ = supervised(vanishes.format(folder), "if [ $ATTEMPT = 1 ]; then sleep 1000; fi")
    assert (code, run.attempt) == (0, 2)


def test_an_error_of_the_user_ends_the_run_at_once(supervised):
    code, run, shown = supervised("sleep 1000", "echo 'error: no such file'; exit 2")
    assert (code, run.status, run.attempt) == (2, "failed", 1)
    assert shown == ["[1] error: no such file"]


def test_an_error_of_one_worker_after_which_jax_aborts_the_others_ends_the_run(supervised, tmp_path):
    """As when the run's folder is removed, which worker 0 alone notices."""
    aborts = "until [ -e failed ]; do sleep 0.02; done; kill -ABRT $$"
    code, run, _ = supervised("touch failed; exit 2", aborts)
    assert (code, run.status, run.attempt) == (2, "failed", 1)
    code, run, _ = supervised("[ $ATTEMPT = 2 ] || kill -ABRT $$", "[ $ATTEMPT = 2 ] || sleep 1000")
    assert (code, run.attempt) == (0, 2)


def test_a_diverged_run_does_not_start_again(supervised):
    """The repeated steps would have the same bits."""
    code, run, shown = supervised("echo 'error: training has diverged'; exit 3", "sleep 1000")
    assert (code, run.status, run.attempt) == (3, "failed", 1)
    assert shown == ["error: training has diverged"]


@pytest.mark.parametrize("other", ["sleep 2; echo has ended, too; exit 4", "kill -KILL $$"])
def test_a_stop_command_ends_the_run_however_the_others_end(supervised, other):
    code, run, shown = supervised("exit 4", other)
    assert (code, run.status, run.attempt) == (130, "stopped", 1)
    assert shown == (["[1] has ended, too"] if "echo" in other else [])


def test_an_error_that_another_workers_death_has_caused_does_not(supervised, tmp_path):
    run = new_run(tmp_path)
    is_dead = f"[ -s {Job(LocalHost(0), run.id).folder}/exit ]"
    follows = f"[ $ATTEMPT = 2 ] || {{ until {is_dead}; do sleep 0.02; done; exit 2; }}"
    code, run, _ = supervised("[ $ATTEMPT = 2 ] || kill -KILL $$", follows, run=run)
    assert (code, run.attempt) == (0, 2)


def test_attempts_without_progress_have_a_limit_and_those_with_it_have_none(supervised, monkeypatch, tmp_path):
    monkeypatch.setattr(supervisor, "MOST_FAILURES", 3)
    code, run, _ = supervised("exit 1", "true")
    assert (code, run.status, run.attempt) == (1, "failed", 3)
    assert "no newer checkpoint" in run.message
    (tmp_path / "step").write_text("0")
    code, run, _ = supervised("echo $ATTEMPT > step; [ $ATTEMPT = 6 ]", "true")
    assert (code, run.attempt) == (0, 6)


def test_pauses_grow_until_there_is_progress(supervised, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE", 300.0)
    monkeypatch.setattr(supervisor.time, "sleep", lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.02)))
    clock = iter(range(0, 10**9, 7))
    real = time.monotonic
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: real() + next(clock))
    supervised("[ $ATTEMPT != 4 ] || echo 9 > step; [ $ATTEMPT = 5 ]", "true")
    seconds = [line.split(" in ")[1].split(" s ")[0] for line in capfd.readouterr().err.splitlines() if " in " in line]
    assert seconds == ["2", "4", "8", "1"]


def test_stop_lets_workers_save_and_ends_the_run(supervised, tmp_path):
    saves = "trap 'echo saved; exit 130' TERM; touch ready$INDEX; while true; do sleep 0.05; done"
    run = new_run(tmp_path)

    def stop() -> None:
        wait_for(lambda: (tmp_path / "ready0").exists() and (tmp_path / "ready1").exists())
        status.stop(run, cli.workers_of)

    thread = threading.Thread(target=stop)
    thread.start()
    code, run, shown = supervised(saves, saves, run=run)
    thread.join()
    assert (code, run.status) == (130, "stopped")
    assert sorted(shown) == ["[1] saved", "saved"]


def test_what_does_not_end_when_asked_to_is_killed(supervised, tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "STOP_SECONDS", 0.5)
    run = new_run(tmp_path)
    threading.Thread(target=lambda: (wait_for((tmp_path / "ready").exists), run.stop_file.touch())).start()
    code, run, _ = supervised("trap '' TERM; touch ready; while true; do sleep 0.05; done", "sleep 1000", run=run)
    assert (code, run.status) == (130, "stopped")


def test_a_launcher_that_comes_back_goes_on_with_the_same_processes(supervised, tmp_path):
    """The first launcher detaches, and the next one reattaches to the workers, which are still running."""
    script = "echo from $ATTEMPT; touch ready$INDEX; while [ ! -e go ]; do sleep 0.05; done; echo went on"
    run = new_run(tmp_path)
    both = lambda: (tmp_path / "ready0").exists() and (tmp_path / "ready1").exists()  # noqa: E731
    threading.Thread(target=lambda: (wait_for(both), os.kill(os.getpid(), signal.SIGINT))).start()
    with pytest.raises(Detached):
        supervised(script, script, run=run)
    assert (run.status, run.attempt) == ("running", 1)
    (tmp_path / "go").touch()
    code, run, shown = supervised(script, script, run=run_store.read(run.folder / "run.json"))
    assert (code, run.attempt) == (0, 1)
    assert sorted(shown) == ["[1] from 1", "[1] went on", "from 1", "went on"]


def test_a_worker_that_died_while_no_launcher_was_there_is_found(supervised, tmp_path):
    script = "echo $$ > pid$INDEX; [ $ATTEMPT = 2 ] || sleep 1000"
    run = new_run(tmp_path)
    both = lambda: (tmp_path / "pid0").exists() and (tmp_path / "pid1").exists()  # noqa: E731
    threading.Thread(target=lambda: (wait_for(both), os.kill(os.getpid(), signal.SIGINT))).start()
    with pytest.raises(Detached):
        supervised(script, script, run=run)
    os.kill(int((tmp_path / "pid1").read_text()), signal.SIGKILL)
    code, run, _ = supervised(script, script, run=run)
    assert (code, run.attempt) == (0, 2)


class Pod:
    """Workers that are preempted after their first attempt and can be created again."""

    name, created, replaceable = "pod", True, True

    def __init__(self, folder: Path):
        self.folder, self.log = folder, []
        self._local = LocalProvider().find("local:1")

    def state(self):
        if self.log[-1:] == ["create"]:
            self.log.append("wait")
            return State.CREATING
        taken = (self.folder / "taken").exists() and "delete" not in self.log
        return State.PREEMPTED if taken else State.READY

    def hosts(self):
        return self._local.hosts()

    def environments(self, hosts):
        return [{}]

    def create(self):
        self.log.append("create")

    def delete(self):
        self.log.append("delete")


@pytest.mark.parametrize("created", [True, False])
def test_only_what_was_created_by_the_run_is_replaced(tmp_path, monkeypatch, created):
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE", 0.1)
    pod = Pod(tmp_path)
    pod.created = pod.replaceable = created
    ground = Scripts(tmp_path, "[ $ATTEMPT = 2 ] || { touch taken; kill -KILL $$; }")
    run = new_run(tmp_path)
    run.created = "a pod"
    one = Supervisor(run, pod, ground, Console("pod"), local=False, period=0.02)
    if created:
        assert one.supervise() == 0
        assert pod.log == ["delete", "create", "wait", "delete"]  # the last call happens after the run has finished
    else:
        with pytest.raises(UserError, match="not created by this run"):
            one.supervise()
        assert one.record.status == "failed"
        assert pod.log == []


class Flaky(LocalHost):
    """A host that does not respond while a file exists."""

    lost: Path

    def run(self, script, **options):
        if self.lost.exists():
            raise HostLost(f"{self.name} cannot be reached")
        return super().run(script, **options)


def test_a_host_that_does_not_answer_is_waited_for_and_then_all_start_again(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE", 0.3)
    monkeypatch.setattr(supervisor, "LOST_SECONDS", 0.5)
    workers = LocalProvider().find("local:2")
    Flaky.lost = tmp_path / "lost"
    workers._hosts[1] = Flaky(1)
    script = "[ $ATTEMPT != 1 ] || { touch ready$INDEX; sleep 1000; }"
    both = lambda: (tmp_path / "ready0").exists() and (tmp_path / "ready1").exists()  # noqa: E731

    ground = Scripts(tmp_path, script, script)
    one = Supervisor(new_run(tmp_path), workers, ground, Console("local:2"), local=True, period=0.05)

    def interrupt() -> None:
        wait_for(both)
        Flaky.lost.touch()
        wait_for(lambda: one.record.status == "waiting")  # considered lost after LOST_SECONDS
        Flaky.lost.unlink()

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert one.supervise() == 0
    thread.join()
    assert one.record.attempt >= 2


def test_two_launchers_of_one_run_are_refused(tmp_path):
    run = new_run(tmp_path)
    refused = pytest.raises(UserError, match=rf"already looks after .*process {os.getpid()} on")
    with run.lock(), refused, run.lock():
        pass
    with run.lock():
        pass


# Names of workers.


@pytest.mark.parametrize("name", ["local:0", "local:x", "local:1000", "ssh:", "ssh:a b", "ssh:a,,b", "ssh:a,a"])
def test_names_that_are_wrong_in_themselves_are_explained(name):
    with pytest.raises(UserError, match=r"write|is not|named twice"):
        cli.find(name)


def test_a_name_that_nobody_knows_lists_what_there_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpu-hosts.json").write_text('{"hosts": [{"host": "a"}]}')
    with pytest.raises(
        UserError, match=r"gpu-host: no such workers; did you mean gpu-hosts.json\?; available: .*local:2"
    ):
        cli.find("gpu-host")
    with pytest.raises(UserError, match="no run was launched"):
        cli.command(arguments(["--tpu_status", "local:2"]), dict)
    new_run(tmp_path).save()
    with pytest.raises(UserError, match=r"no run on local:3; did you mean local:2\?; there are runs on local:2"):
        cli.command(arguments(["--tpu_stop", "local:3"]), dict)


def test_an_inventory_is_checked_whole(tmp_path):
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps({"user": "me", "port": 2, "hosts": [{"host": "a"}, {"host": "b", "port": 3}]}))
    found = [(host.keys.user, host.name) for host in SshProvider().find(str(path)).hosts()]
    assert found == [("me", "a:2"), ("me", "b:3")]
    path.write_text(json.dumps({"hosts": [{"host": "a", "prot": 3}]}))
    with pytest.raises(UserError, match=r"host 0.*\n  prot: no such key; did you mean port\?"):
        SshProvider().find(str(path))
    path.write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        SshProvider().find(str(path))


def test_a_worker_and_a_managed_host_do_not_launch_again():
    asks = arguments(["--model", "x.json", "--tpu", "anything"])
    assert launch_arguments.asked(asks, {})
    for name in ("GPT2_WORKER", "JAX_NUM_PROCESSES", "SLURM_STEP_NODELIST", "TPU_WORKER_HOSTNAMES"):
        assert not launch_arguments.asked(asks, {name: "1"})
    assert not launch_arguments.asked(arguments(["--model", "x.json"]), {})


def test_the_launcher_takes_hold_of_no_device():
    """JAX has no such platform, so any attempt to use a device would fail."""
    command = [sys.executable, "main.py", "--model", "configs/tiny.json", "--tpu", "nowhere"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "none-such"}, check=False
    )
    assert done.returncode == 2
    assert "no such workers" in done.stderr
    assert "Traceback" not in done.stderr


def test_gpus_are_shared_out(monkeypatch):
    monkeypatch.setattr(local_hosts.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(local_hosts.importlib.util, "find_spec", lambda name: name)
    assert local_hosts.gpu_shares({"CUDA_VISIBLE_DEVICES": "4,5,6,7"}, 2) == ["4,5", "6,7"]
    assert local_hosts.gpu_shares({"CUDA_VISIBLE_DEVICES": "4,5", "JAX_PLATFORMS": "cpu"}, 2) == []
    with pytest.raises(UserError, match="3 GPUs do not divide among 2 processes"):
        local_hosts.gpu_shares({"CUDA_VISIBLE_DEVICES": "4,5,6"}, 2)


# Copying code and environment to another host.


def test_the_code_that_is_sent_is_what_git_tracks_and_has_one_name(tmp_path):
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "big").write_text("2")
    assert ship_code.tracked_files(tmp_path) == ["a.py"]
    first = ship_code.pack(tmp_path)
    os.utime(tmp_path / "a.py", (1, 1))
    assert ship_code.pack(tmp_path) == first
    subprocess.run("git init -q . && echo 3 > b.py && git add b.py", shell=True, cwd=tmp_path, check=True)
    assert ship_code.tracked_files(tmp_path) == ["b.py"]
    host = LocalHost(0)
    folder = ship_code.send_code(host, first)
    assert Path(folder, "a.py").read_text() == "1"
    Path(folder, "a.py").write_text("is not sent again")
    assert ship_code.send_code(host, first) == folder
    assert Path(folder, "a.py").read_text() == "is not sent again"


@pytest.mark.slow
def test_an_environment_is_made_once(tmp_path):
    for name in ("requirements.txt", "constraints.txt"):
        (tmp_path / name).write_text("")
    host = LocalHost(0)
    host.python = ""
    python = ship_code.make_environment(host, str(tmp_path), root=tmp_path)
    prefix = subprocess.run([python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True)
    assert prefix.stdout.strip() == str(Path(python).parents[1])
    made = Path(python).stat().st_ctime_ns
    assert ship_code.make_environment(host, str(tmp_path), root=tmp_path) == python
    assert Path(python).stat().st_ctime_ns == made


# A fake Python that is too old: its pip installs a fake uv, which creates the environment with the current Python.
OLD_PYTHON = """#!/bin/sh
[ "$1 $2" = "-m pip" ] || exit 1
mkdir -p "$6/bin"
printf '#!/bin/sh\\nwhile [ $# -gt 1 ]; do shift; done\\n{python} -m venv --clear "$1"\\n' > "$6/bin/uv"
chmod +x "$6/bin/uv"
"""


@pytest.mark.slow
def test_where_there_is_no_such_python_uv_brings_one(tmp_path, monkeypatch):
    for name in ("requirements.txt", "constraints.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "bin").mkdir()
    for version in ("", ".11", ".12", ".13", ".14"):
        path = tmp_path / "bin" / f"python3{version}"
        path.write_text(OLD_PYTHON.format(python=sys.executable) if not version else "#!/bin/sh\nexit 1\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    host = LocalHost(0)
    host.python = ""
    python = ship_code.make_environment(host, str(tmp_path), root=tmp_path)
    assert subprocess.run([python, "-c", ""], check=True).returncode == 0
    assert Path(python).parents[1].with_name(Path(python).parents[1].name + ".uv").exists()


# main.py.


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """Returns the directory of a single-process run, next to the files that other runs on the same text need."""
    folder = tmp_path_factory.mktemp("alone")
    path = survival.written(folder, "alone", max_steps=STEPS, log_steps=1)
    environment = {**os.environ, "XLA_FLAGS": QUICK_COMPILE}
    subprocess.run([sys.executable, "main.py", "--model", str(path)], cwd=ROOT, env=environment, check=True)
    return folder


STEPS = 20


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in metrics_log.read(folder / "metrics.jsonl") if "loss" in record]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
def test_several_processes_have_the_losses_of_one(alone, workers):
    path = survival.written(alone, f"local-{workers}", max_steps=STEPS, log_steps=1)
    output = survival.finished(survival.launched(path, f"local:{workers}"))
    assert f"devices: {workers} x cpu" in output
    assert "Gloo" not in output
    np.testing.assert_allclose(losses(alone / f"local-{workers}"), losses(alone / "alone"), rtol=1e-5)


@pytest.mark.slow
def test_killed_at_random_the_run_ends_with_the_bits_of_one_that_was_not(tmp_path):
    assert survival.survive(tmp_path, kills=KILLS, workers=2, seed=1)["ours"] == 1


KILLS = 1  # the benchmark uses 20


@pytest.mark.slow
def test_detached_asked_after_and_stopped(alone, capfd):
    """The launcher detaches on Ctrl-C; SIGTERM then makes all workers save immediately; the same command resumes."""
    path = survival.written(alone, "stopped", max_steps=10**6, log_steps=1)
    process = survival.launched(path, "local:2")
    run = survival.known("local:2", path)
    wait_for(lambda: survival.newest(run) >= 10)
    process.send_signal(signal.SIGINT)
    assert "detached; the run continues" in survival.finished(process)
    assert cli.command(arguments(["--tpu_status", "local:2"]), dict) == 0
    shown = capfd.readouterr().out
    assert "local:2 (READY): running, attempt 1" in shown
    assert "nobody looks after it" in shown
    assert "worker 1 on local process 1: alive" in shown
    assert cli.command(arguments(["--tpu_stop", "local:2"]), dict) == 0
    capfd.readouterr()
    assert cli.command(arguments(["--tpu_status", "local:2"]), dict) == 0
    assert "local:2 (READY): stopped, attempt 1\n" in capfd.readouterr().out
    assert cli.command(arguments(["--tpu_logs", "local:2", "--model", str(path)]), dict) == 0
    assert "SIGTERM: saved at step" in capfd.readouterr().out
    stopped = survival.newest(run)
    assert stopped > 10
    assert run_store.read(run.folder / "run.json").status == "stopped"
    output = survival.finished(survival.launched(path, "local:2", "--set", f"max_steps={stopped + 1}"))
    assert f"continuing from step {stopped}" in output


@pytest.fixture
def hosts(tmp_path):
    """Returns an inventory of two hosts, which are two temporary SSH servers on this machine."""
    keys = ssh_servers.make_keys(tmp_path)
    servers, listed = [], []
    for index in range(2):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        servers.append(ssh_servers.start(keys, "127.0.0.1", port))
        listed.append({"port": port, "folder": str(tmp_path / f"host{index}")})
    path = tmp_path / "hosts.json"
    known = [f"-oUserKnownHostsFile={keys}/known", "-oIdentitiesOnly=yes", "-F/dev/null"]
    common = {"host": "127.0.0.1", "key": str(keys / "user"), "python": sys.executable, "options": known}
    environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK_COMPILE}
    path.write_text(json.dumps({"hosts": [{**common, **each} for each in listed], "environment": environment}))
    found = SshProvider().find(str(path)).hosts()
    wait_for(lambda: all(_answers(host) for host in found))
    yield path
    for host in found:
        host.close()
    for server in servers:
        server.terminate()
        server.wait()


def _answers(host) -> bool:
    try:
        return host.run("exit 0").code == 0
    except HostLost:
        return False


def test_a_host_that_cannot_be_reached_is_named_with_the_command_to_try():
    (host,) = SshProvider().find("ssh:127.0.0.1:9").hosts()
    with pytest.raises(HostLost, match=r"127.0.0.1:9 cannot be reached: .*refused"):
        host.run("true")


@pytest.mark.slow
def test_hosts_reached_by_ssh_train_together(alone, hosts):
    path = survival.written(alone, "ssh", max_steps=STEPS, log_steps=1)
    output = survival.finished(survival.launched(path, str(hosts)))
    assert "preparing 2 hosts" in output
    np.testing.assert_allclose(losses(alone / "ssh"), losses(alone / "alone"), rtol=1e-5)
    assert len(list(hosts.parent.glob("host?/code/*/main.py"))) == 2


def test_a_folder_of_each_host_is_refused_for_the_run(tmp_path, hosts):
    """Relative paths are resolved in each host's own directory, so the run would have two directories."""
    path = survival.written(tmp_path, "apart", model_path="runs/apart", max_steps=STEPS)
    output = survival.finished(survival.launched(path, str(hosts)), code=2)
    assert "error: model_path: runs/apart is not one folder that all 2 hosts see" in output
    assert "Traceback" not in output


# Jobs started by other launchers.


def test_a_step_of_slurm_is_told_whole():
    step = {
        "SLURM_JOB_ID": "1234", "SLURM_STEP_ID": "1", "SLURM_STEP_NODELIST": "gpu[03-04,07]-a,login1",
        "SLURM_NTASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NODEID": "1",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7",
    }  # fmt: skip
    assert distributed.from_slurm(step) == distributed.ProcessGroup("gpu03-a:63910", 3, 4, [4, 5, 6, 7])
    one_each = step | {"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "SLURM_LOCALID": "0"}
    assert distributed.from_slurm(one_each).devices is None
    assert (
        distributed.from_slurm(step | {"SLURM_GPUS_PER_TASK": "4", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}).devices is None
    )
    assert distributed.from_slurm(step | {"SLURM_NTASKS": "1"}) is None
    assert distributed.from_slurm({"SLURM_JOB_ID": "1234", "SLURM_NTASKS": "4"}) is None  # in sbatch, outside of srun
    firsts = [distributed.first_host(nodes) for nodes in ("a", "a1,a2", "a[1-2]", "r[1-2]n[03,5]x", "b,a[1-2]")]
    assert firsts == ["a", "a1", "a1", "r1n03x", "b"]


SRUN = """#!/bin/sh
# Of srun: each task of the step with its variables; the worst of their codes.
while [ "${1#--}" != "$1" ]; do shift; done
export SLURM_STEP_ID=0 SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_STEP_TASKS_PER_NODE=2 SLURM_NODEID=0
for task in 0 1; do
  SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & eval "task$task=$!"
done
code=0
wait $task0 || code=$?
wait $task1 || code=$?
exit $code
"""


@pytest.mark.slow
def test_the_slurm_script_trains(alone, tmp_path):
    script = ROOT / "examples" / "train.slurm"
    subprocess.run(["bash", "-n", script], check=True)
    srun = tmp_path / "srun"
    srun.write_text(SRUN)
    srun.chmod(0o755)
    path = survival.written(alone, "slurm", max_steps=STEPS, log_steps=1)
    environment = {
        **os.environ, "XLA_FLAGS": QUICK_COMPILE, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": sys.executable,
        "SLURM_JOB_ID": str(os.getpid()), "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_NTASKS": "2",
    }  # fmt: skip
    subprocess.run(["bash", script, path, "--tpu", "whatever"], env=environment, check=True)
    np.testing.assert_allclose(losses(alone / "slurm"), losses(alone / "alone"), rtol=1e-5)
    wrong = subprocess.run(["bash", script, tmp_path / "none.json"], env=environment, check=False)
    assert wrong.returncode == 2


@pytest.mark.parametrize(("code", "attempts"), [(0, 1), (1, 10), (2, 1), (3, 1), (4, 1), (75, 10)])
def test_the_slurm_script_starts_a_run_again_only_where_that_may_help(tmp_path, code, attempts):
    srun = tmp_path / "srun"
    srun.write_text(f"#!/bin/sh\necho started >> {tmp_path}/attempts\nexit {code}\n")
    srun.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PAUSE_SECONDS": "0"}
    script = ROOT / "examples" / "train.slurm"
    done = subprocess.run(["bash", script, "x.json"], env=environment, cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, len((tmp_path / "attempts").read_text().split())) == (code, attempts)


def test_pods_of_the_kubernetes_example_find_each_other():
    yaml = pytest.importorskip("yaml", reason="no PyYAML")
    job_set = yaml.safe_load((ROOT / "examples" / "jobset.yaml").read_text())
    (job,) = job_set["spec"]["replicatedJobs"]
    job_spec = job["template"]["spec"]
    (rule,) = job_spec["podFailurePolicy"]["rules"]
    assert set(rule["onExitCodes"]["values"]) == {EXIT_ERROR, EXIT_DIVERGED, EXIT_STOPPED}
    (container,) = job_spec["template"]["spec"]["containers"]
    given = {each["name"]: each.get("value", "3") for each in container["env"]}
    group = distributed.from_environment(given)
    assert group.count == job_spec["completions"] == job_spec["parallelism"]
    assert group.address == f"{job_set['metadata']['name']}-{job['name']}-0-0.{job_set['metadata']['name']}:8476"
    assert (ROOT / container["command"][3]).exists()
    (memory,) = [volume["name"] for volume in job_spec["template"]["spec"]["volumes"] if "emptyDir" in volume]
    assert {"name": memory, "mountPath": "/dev/shm"} in container["volumeMounts"]  # the default is too small for NCCL


TORCHRUN = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "RANK": "3", "WORLD_SIZE": "4"}


def test_processes_of_torchrun_form_a_run():
    assert distributed.from_torchrun(TORCHRUN) == distributed.ProcessGroup("10.0.0.1:29516", 3, 4)
    local = TORCHRUN | {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert distributed.from_torchrun(local) == distributed.ProcessGroup("10.0.0.1:29516", 3, 4, [1])
    assert distributed.from_torchrun(TORCHRUN | {"WORLD_SIZE": "1", "RANK": "0"}) is None
    assert distributed.from_torchrun({}) is None


def test_pods_of_an_indexed_job_need_no_process_id():
    given = {"JAX_COORDINATOR_ADDRESS": "job-0.svc", "JAX_NUM_PROCESSES": "4", "JOB_COMPLETION_INDEX": "2"}
    assert distributed.from_environment(given) == distributed.ProcessGroup("job-0.svc:8476", 2, 4)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("host", "host:8476"),
        ("host:", "host:8476"),
        ("host:99", "host:99"),
        ("10.0.0.1", "10.0.0.1:8476"),
        ("::1", "[::1]:8476"),
        ("[::1]", "[::1]:8476"),
        ("[::1]:99", "[::1]:99"),
    ],
)
def test_an_address_without_a_port_gets_one(address, expected):
    assert distributed.with_port(address) == expected


@pytest.mark.parametrize("address", ["host:port", "host:0", "host:99999", ":80", "http://host:80", "host/x"])
def test_an_address_that_is_none_is_refused_with_the_form(address):
    with pytest.raises(UserError, match=r"JAX_COORDINATOR_ADDRESS is '.*'; write HOST:PORT"):
        distributed.with_port(address)


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(distributed.RendezvousError, match=f"port {port} of 127.0.0.1.*Address already in use"):
            distributed._require_free_port(distributed.ProcessGroup(f"127.0.0.1:{port}", 0, 2))
        with pytest.raises(distributed.RendezvousError, match=f"port {port} of 127.0.0.1.* is used by another run"):
            distributed._require_free_port(distributed.ProcessGroup(f"127.0.0.1:{port}", 1, 2))
    distributed._require_free_port(distributed.ProcessGroup(f"127.0.0.1:{port}", 0, 2))
    distributed._require_free_port(distributed.ProcessGroup(f"127.0.0.1:{port}", 1, 2))
