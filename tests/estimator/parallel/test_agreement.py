"""Processes started with different settings all exit, and each one reports the difference."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from estimator.launch.local_hosts import free_port
from estimator.parallel import agreement

PROGRAM = """
import sys
from estimator.errors import run_program
from estimator.parallel import agreement, distributed

def main():
    distributed.connect()
    agreement.require_equal(lambda: {"lr": float(sys.argv[1]), "max_steps": 4, **agreement.environment()})
    print("alike")

run_program(main)
"""


def run_two(*rates: str, environments: tuple[dict, dict] = ({}, {})) -> list[tuple[int, str]]:
    """Returns the (exit code, output) of each process."""
    port = free_port()
    common = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "JAX_NUM_PROCESSES": "2"}
    common |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, rate],
            cwd=ROOT,
            env=common | {"JAX_PROCESS_ID": str(index)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index, (rate, environment) in enumerate(zip(rates, environments, strict=True))
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    return [(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]


def test_equal_processes_start():
    assert [(code, output.splitlines()[-1]) for code, output in run_two("0.1", "0.1")] == [(0, "alike")] * 2


def test_each_process_names_the_settings_and_flags_that_differ():
    flag = {"XLA_FLAGS": "--xla_cpu_enable_fast_math=false"}
    for code, output in run_two("0.1", "0.5", environments=({}, flag)):
        assert code == 2
        assert "lr: 0.1 on process 0, 0.5 on process 1" in output
        assert "XLA_FLAGS: '' on process 0, '--xla_cpu_enable_fast_math=false' on process 1" in output
        assert "max_steps" not in output
        assert "Traceback" not in output


def test_one_process_compares_nothing():
    agreement.require_equal(lambda: pytest.fail("called"))
