"""A signal to one of two processes stops both after the same number of looks, whatever else Orbax does meanwhile."""

import os
import signal
import socket
import subprocess
import sys

import pytest
from conftest import ROOT

PROGRAM = """
import sys, time
from orbax.checkpoint import utils
from estimator.parallel import distributed, stop_together
distributed.connect()
looks, pace = 0, float(sys.argv[1])
with stop_together.stop_request() as stop:
    while not stop.requested and looks < 4000:
        looks += 1
        utils.reached_preemption(3)  # as its manager does when it saves a step
        if looks == 50:
            print("ready", flush=True)
        time.sleep(pace)
print(looks, stop.name, flush=True)
"""


@pytest.mark.parametrize(("signaled", "number"), [(0, signal.SIGINT), (1, signal.SIGTERM)])
def test_one_signal_stops_all_at_the_same_look(signaled, number):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    common = os.environ | {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, pace], cwd=ROOT, text=True, stdout=subprocess.PIPE,
            env=common | {"JAX_PROCESS_ID": str(index), "PYTHONPATH": str(ROOT)},
        )
        for index, pace in enumerate(("0.002", "0.005"))
    ]  # fmt: skip
    try:
        for process in processes:
            assert "ready\n" in iter(process.stdout.readline, "")
        processes[signaled].send_signal(number)
        ends = [process.communicate(timeout=300)[0].split()[-2:] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert ends[0] == ends[1]
    assert (int(ends[0][0]) < 4000, ends[0][1]) == (True, number.name)
