"""A signal to one of two processes stops both after the same number of looks, whatever else Orbax does meanwhile."""

import signal
import subprocess

import pytest
from helpers.processes import start_two_of

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
    processes = start_two_of(PROGRAM, ("0.002", "0.005"), stdout=subprocess.PIPE)
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
