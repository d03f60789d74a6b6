"""Processes that do not find each other say who is missing, and end with the documented code."""

import os
import socket
import subprocess
import sys
import threading

import pytest
from conftest import ROOT

from estimator.launch.local_hosts import free_port
from estimator.parallel import rendezvous
from estimator.parallel.rendezvous import Rendezvous

PROGRAM = """
import sys
from estimator.errors import run_program
from estimator.parallel import distributed, rendezvous
distributed.WAIT_SECONDS, rendezvous.REPORT_SECONDS = int(sys.argv[1]), 2
run_program(distributed.connect)
"""


def _start(index: int, *, port: int, seconds: int) -> subprocess.Popen[str]:
    variables = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": str(index)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(seconds)],
        cwd=ROOT,
        env=os.environ | variables | {"PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


@pytest.fixture
def port() -> int:
    """A free port whose next one, where process 0 listens, is free too."""
    return free_port()


def _ended(process: subprocess.Popen[str]) -> str:
    try:
        _, output = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 75, output
    assert "client.h" not in output, output  # JAX's end
    return output


def test_one_without_process_0_says_so_and_ends(port):
    output = _ended(_start(1, port=port, seconds=8))
    missing = f"no process 0 at 127.0.0.1:{port}"
    assert f"waiting: {missing}\n" in output
    assert f"error: the processes of this run did not find each other within 8 s ({missing}); start " in output


def test_process_0_names_the_missing_ones_and_all_end(port):
    first, second = _start(0, port=port, seconds=20), _start(1, port=port, seconds=25)
    here = f"0 on {socket.gethostname()}, 1 on {socket.gethostname()}"
    assert f"(process 2 of 3 is missing; here: {here}); start the same command" in _ended(first)
    assert f"(no process 0 at 127.0.0.1:{port}); start the same command" in _ended(second)


def test_a_number_that_is_used_twice_is_named(port):
    first, *others = _start(0, port=port, seconds=20), *(_start(1, port=port, seconds=40) for _ in range(2))
    try:
        assert "process 1 was here already" in _ended(first)
    finally:
        for process in others:
            process.kill()


def test_a_second_start_at_the_address_of_a_running_group_does_not_end_it(port):
    then = "lambda: (distributed.connect(), print('met', flush=True), sys.stdin.read())"
    code = PROGRAM.replace("run_program(distributed.connect)", f"run_program({then})")
    variables = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2", "PYTHONPATH": str(ROOT)}

    def start(index: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, "100"],
            cwd=ROOT,
            env=os.environ | variables | {"JAX_PROCESS_ID": str(index), "JAX_PLATFORMS": "cpu"},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    running = [start(index) for index in (1, 0)]
    try:
        for process in running:
            assert process.stdout
            assert process.stdout.readline() == "met\n"
        for index in (1, 0):
            assert f"port {port} of 127.0.0.1, where the processes of this run would meet, " in _ended(start(index))
        assert [process.poll() for process in running] == [None, None]
    finally:
        for process in running:
            process.kill()
    assert [process.communicate()[0] for process in running] == ["", ""]  # and nothing of Gloo


def test_an_address_is_taken_where_jax_listens_and_process_0_does_not_wait(port):
    address = f"127.0.0.1:{port}"
    assert not rendezvous.is_taken(address)
    with socket.create_server(("127.0.0.1", port)):
        assert rendezvous.is_taken(address)
        with socket.create_server(("127.0.0.1", port + 1)):
            assert not rendezvous.is_taken(address)
        with socket.socket() as other:  # a connection of another program: process 0 cannot listen, and may wait
            other.bind(("127.0.0.1", port + 1))
            assert rendezvous._server(port + 1) is None
            assert not rendezvous.is_taken(address)
        with socket.socket() as asking:  # another process that asks at the same time
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            asking.bind(("", port + 1))
            assert rendezvous.is_taken(address)
    assert not rendezvous.is_taken("192.0.2.1:8476")  # of no machine
    assert not rendezvous.is_taken("no-such-host.invalid:8476")


def test_processes_that_find_each_other_at_the_last_moment_are_not_ended(port, monkeypatch):
    done = threading.Event()
    monkeypatch.setattr(Rendezvous, "_accept", lambda *_: done.set())
    monkeypatch.setattr(os, "_exit", lambda code: pytest.fail(f"ended with code {code}"))
    server = socket.create_server(("127.0.0.1", 0))  # that of the port may be taken by another test meanwhile
    monkeypatch.setattr(rendezvous, "_server", lambda _: server)
    Rendezvous(f"127.0.0.1:{port}", 0, 2).watch(done, seconds=0)
