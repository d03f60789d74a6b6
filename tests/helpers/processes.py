"""Runs one program in two processes connected by JAX."""

import os
import socket
import sys

from conftest import QUICK_COMPILE, ROOT

from benchmarks._workers import Recorded


def start_two(arguments: list[str]) -> list[Recorded]:
    """Starts main.py in two processes with one device each."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    common = os.environ | {"XLA_FLAGS": QUICK_COMPILE, "JAX_NUM_PROCESSES": "2"}
    common["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{port}"
    command = [sys.executable, str(ROOT / "main.py"), *arguments]
    return [Recorded(command, env=common | {"JAX_PROCESS_ID": str(index)}) for index in range(2)]


def finish(processes: list[Recorded], *, code: int = 0) -> list[str]:
    """Waits for the processes and returns their outputs."""
    outputs = [output for process in processes for output in process.outputs(300)]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == code, output
        assert "Traceback" not in output, output
    return outputs
