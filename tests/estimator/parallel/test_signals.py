"""The first Ctrl-C requests a clean stop, the second one stops immediately."""

import signal
import subprocess
import sys

from conftest import ROOT

PROGRAM = """
import sys, time
sys.path.insert(0, {root!r})
from estimator.parallel.signals import StopRequest
with StopRequest() as stop:
    print("ready", flush=True)
    while True:
        if stop.signal:
            print("asked", flush=True)
        time.sleep(0.01)
"""


def test_a_second_interrupt_leaves_at_once():
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(root=str(ROOT))], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "asked\n"
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=600) == 130
    process.stdout.close()
