"""`local:N`: N processes on this machine, each with its share of the GPUs, if any."""

import contextlib
import importlib.util
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

from estimator.errors import UserError
from estimator.launch.interfaces import Host, HostLost, Output, State, told
from estimator.launch.run_store import root

MOST = 64
PORTS = range(20_000, 32_000)


class LocalHost:
    """A process of this machine; hosts of the same number are the same."""

    address = "127.0.0.1"
    here = True
    python = sys.executable

    def __init__(self, index: int):
        self.name = f"local process {index}"
        self.folder = str(root() / f"worker-{index}")

    def run(self, script: str, *, stdin: bytes = b"", timeout: float = 60) -> Output:
        try:
            done = subprocess.run(
                ["sh", "-c", script],
                input=stdin,
                capture_output=True,
                timeout=timeout,
                check=False,
                start_new_session=True,  # Ctrl-C is for the launcher
            )
        except subprocess.TimeoutExpired:
            raise HostLost(
                f"{self.name}: a command took more than {timeout:.0f} s; is this machine overloaded?"
            ) from None
        return Output(done.returncode, done.stdout, done.stderr.decode(errors="replace"))

    def close(self) -> None:
        pass


class LocalWorkers:
    """N processes here, which find each other on a free port of the loopback device."""

    created = replaceable = False

    def __init__(self, name: str, count: int):
        self.name = name
        self._hosts = [LocalHost(index) for index in range(count)]

    def state(self) -> State:
        return State.READY

    def hosts(self) -> Sequence[Host]:
        return self._hosts

    def environments(self, hosts: Sequence[Host]) -> list[dict[str, str]]:
        environments = told(hosts, address="127.0.0.1", port=free_port())
        shares = gpu_shares(os.environ, len(hosts))
        for index, environment in enumerate(environments):
            if shares:
                environment["CUDA_VISIBLE_DEVICES"] = shares[index]
        return environments

    def create(self) -> None:
        raise UserError(f"{self.name} is this machine; nothing is created for it")

    def delete(self) -> None:
        raise UserError(f"{self.name} is this machine; nothing of it can be deleted")


class LocalProvider:
    """Names local:N."""

    def find(self, name: str) -> LocalWorkers | None:
        if name.partition(":")[0] != "local":
            return None
        match = re.fullmatch(r"local(:(\d{1,4}))?", name)
        count = int(match[2] or 1) if match else 0
        if not 1 <= count <= MOST:
            raise UserError(f"--tpu {name}: write local:N, for N processes on this machine, 1 to {MOST}")
        return LocalWorkers(name, count)

    def names(self) -> list[str]:
        return ["local:2"]


def free_port() -> int:
    """A free port whose successor is free too: the processes register at the latter.

    Both are below the ports that systems give to connections, one of which would soon take the latter.
    """
    while True:
        port = secrets.choice(PORTS)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            socket.create_server(("", port + 1)).close()
            return port


def gpu_shares(environment: Mapping[str, str], count: int) -> list[str]:
    """CUDA_VISIBLE_DEVICES for each of `count` processes; [] where JAX would compute on the CPU."""
    if count == 1 or environment.get("JAX_PLATFORMS") == "cpu" or not shutil.which("nvidia-smi"):
        return []
    if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        return []
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, encoding="utf-8", check=False).stdout
        devices = [str(index) for index in range(len(re.findall(r"^GPU \d+", listed, re.MULTILINE)))]
    else:
        devices = [device for device in visible.split(",") if device]
    if not devices:
        return []
    if len(devices) % count:
        raise UserError(
            f"--tpu local:{count}: {len(devices)} GPUs do not divide among {count} processes; one process uses all of "
            "them, so leave --tpu out, or set JAX_PLATFORMS=cpu to compute on the CPU"
        )
    share = len(devices) // count
    return [",".join(devices[i * share : (i + 1) * share]) for i in range(count)]
