"""A process that fails alone leaves immediately, so that the others, which wait for it, notice."""

import os
import signal
import subprocess
import sys
import time

import jax
import pytest
from conftest import ROOT
from helpers.processes import start_two_of

from estimator import errors
from estimator.errors import EXIT_APART
from estimator.launch.local_hosts import free_port

PROGRAM = """
import os, signal, sys
from estimator.errors import UserError, run_program
from estimator.parallel import agreement, distributed
distributed.HEARTBEAT_SECONDS = 5
error = {"user": UserError("no data"), "interrupt": KeyboardInterrupt()}.get(sys.argv[1])
def main():
    distributed.connect()
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if error:
        raise error
    agreement.from_first(lambda: 1)
run_program(main)
"""
WAITING = """
import signal
from estimator.errors import run_program
from estimator.parallel import distributed
signal.signal(signal.SIGINT, signal.default_int_handler)
def main():
    print("waits", flush=True)
    distributed.connect()
run_program(main)
"""
LOST = {EXIT_APART, -signal.SIGABRT}  # JAX aborts a process that it tells first


@pytest.mark.parametrize(
    ("faults", "codes"),
    [
        (("", "user"), [LOST, {2}]),
        (("", "killed"), [LOST, {-signal.SIGKILL}]),
        (("interrupt", ""), [{130}, LOST]),
        (("user", "user"), [{2}, {2}]),
    ],
)
def test_one_that_fails_alone_takes_the_others_along_and_all_keep_their_codes_where_all_fail(faults, codes):
    processes = start_two_of(PROGRAM, faults, stdout=subprocess.DEVNULL)
    try:  # JAX itself waits for 300 s
        ends = [process.wait(timeout=200) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(end in expected for end, expected in zip(ends, codes, strict=True)), ends


@pytest.mark.parametrize("kind", [jax.errors.JaxRuntimeError, ValueError])
def test_one_that_lost_another_says_so_in_one_line(kind, capfd, monkeypatch):
    ended: list[int] = []

    def leave(code: int) -> None:
        ended.append(code)
        raise SystemExit(code)

    def fail() -> None:
        raise kind("UNKNOWN: Gloo AllGather failed: Read error\n: Connection reset by peer")

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit):
        errors.run_program(fail)
    assert ended == [EXIT_APART]
    line = capfd.readouterr().err
    assert "another process of this run has ended" in line
    assert "Connection reset by peer" in line
    assert line.count("\n") == 1


@pytest.mark.parametrize("index", [0, 1])
def test_ctrl_c_ends_one_that_waits_for_the_others(index):
    port = free_port()
    names = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(index)}
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING],
        env=os.environ | names | {"PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout.readline() == "waits\n"
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert "interrupted\n" in process.communicate(timeout=60)[1]
        assert process.returncode == 130
    finally:
        process.kill()
