"""One program in two processes that JAX connects."""

import os
import socket
import subprocess
import sys

from conftest import QUICK_COMPILE, ROOT


def start_two(arguments: list[str]) -> list[subprocess.Popen]:
    """main.py in two processes, one device each."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    common = os.environ | {"XLA_FLAGS": QUICK_COMPILE, "JAX_NUM_PROCESSES": "2"}
    common["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{port}"
    return [
        subprocess.Popen(
            [sys.executable, str(ROOT / "main.py"), *arguments],
            env=common | {"JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for index in range(2)
    ]  # fmt: skip


def finish(processes: list[subprocess.Popen], *, code: int = 0) -> list[str]:
    """The output of each process."""
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == code, output
        assert "Traceback" not in output, output
    return outputs
