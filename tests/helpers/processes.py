"""Runs one program in two processes connected by JAX."""

import os
import subprocess
import sys
from collections.abc import Sequence

from conftest import QUICK_COMPILE, ROOT

from benchmarks._workers import Recorded
from estimator.launch.local_hosts import free_port


def start_two(arguments: list[str]) -> list[Recorded]:
    """Starts main.py in two processes with one device each."""
    command = [sys.executable, str(ROOT / "main.py"), *arguments]
    return [Recorded(command, env=environment | {"XLA_FLAGS": QUICK_COMPILE}) for environment in _environments()]


def start_two_of(program: str, arguments: Sequence[str], *, stdout: int) -> list[subprocess.Popen[str]]:
    """Starts the text of a program in two processes, each with an argument of its own."""
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, argument],
            cwd=ROOT,
            env=environment | {"PYTHONPATH": str(ROOT)},
            text=True,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
        )
        for argument, environment in zip(arguments, _environments(), strict=True)
    ]


def _environments() -> list[dict[str, str]]:
    common = os.environ | {"JAX_NUM_PROCESSES": "2", "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}"}
    return [common | {"JAX_PROCESS_ID": str(index)} for index in range(2)]


def finish(processes: list[Recorded], *, code: int = 0) -> list[str]:
    """Waits for the processes and returns their outputs."""
    outputs = [output for process in processes for output in process.outputs(300)]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == code, output
        assert "Traceback" not in output, output
    return outputs
