"""The search for cycles of references is left out where modules load and where a program ends, and nowhere else."""

import subprocess
import sys

from conftest import ROOT

PROGRAM = """
import gc
from estimator.errors import run_program
from estimator.system import collector

class Cycle:
    def __init__(self, name):
        self.name, self.me = name, self

    def __del__(self):
        print("found", self.name, flush=True)

def main():
    with collector.paused():
        assert not gc.isenabled()
    assert gc.isenabled() and gc.get_freeze_count() > 1000
    with collector.paused():  # what a later call would freeze may be garbage
        assert gc.isenabled()
    Cycle("while it runs")
    gc.collect()
    Cycle("at the end")
    print("end", flush=True)

run_program(main)
"""


def test_cycles_are_found_while_a_program_runs_and_not_at_its_end():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "found while it runs\nend\n"), done.stderr
