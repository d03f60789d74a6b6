"""A process that fails alone leaves immediately, so that the others, which wait for it, notice."""

import os
import signal
import socket
import subprocess
import sys

import pytest
from conftest import ROOT

PROGRAM = """
import sys, time
from estimator.errors import UserError, run_program
from estimator.parallel import agreement, distributed
distributed.HEARTBEAT_SECONDS = 5
error = {"user": UserError("no data"), "interrupt": KeyboardInterrupt(), "": None}[sys.argv[1]]
def main():
    distributed.connect()
    if error:
        raise error
    agreement.from_first(lambda: 1)
run_program(main)
"""


@pytest.mark.parametrize(
    ("errors", "codes"),
    [(("", "user"), [-signal.SIGABRT, 2]), (("interrupt", ""), [130, -signal.SIGABRT]), (("user", "user"), [2, 2])],
)
def test_one_that_fails_alone_takes_the_others_along_and_all_keep_their_codes_where_all_fail(errors, codes):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    common = os.environ | {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, error], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=common | {"JAX_PROCESS_ID": str(index), "PYTHONPATH": str(ROOT)},
        )
        for index, error in enumerate(errors)
    ]  # fmt: skip
    try:  # JAX itself waits for 300 s
        assert [process.wait(timeout=200) for process in processes] == codes
    finally:
        for process in processes:
            process.kill()
