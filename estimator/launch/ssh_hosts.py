"""`ssh:HOST,HOST` or an inventory HOSTS.json: machines that are reached by OpenSSH's program, with its own settings.

The first host is worker 0. A host is [USER@]NAME[:PORT]; NAME may be one of ~/.ssh/config. One connection per host is
kept open and shared by all commands of a launcher.
"""

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from estimator import config
from estimator.config import Section
from estimator.errors import UserError
from estimator.launch.interfaces import Host, HostLost, Output, State, told

# Cloud networks open these for JAX's coordinator by default; 8476 is the one of TPU pods.
PORTS = (8476, 8470, 8474)
FOLDER = "~/.cache/gpt2/cluster"
LOST = 255  # ssh's own exit code
# Prints the first free port of those given, with the one after it, or else any.
FREE_PORT = """import random, socket, sys
def free(port):
    try:
        socket.create_server(("", port)).close()
        return True
    except OSError:
        return False
ports = [port for port in map(int, sys.argv[1:]) if free(port) and free(port + 1)]
while not ports:
    port = random.randrange(20000, 32000)  # systems give higher ones to connections
    ports = [port] if free(port) and free(port + 1) else []
print(ports[0])"""


class HostKeys(Section):
    """A host of an inventory."""

    host: str = Field(description="name or address, as for ssh")
    user: str | None = None
    port: int | None = Field(None, gt=0, lt=65536)
    key: str | None = Field(None, description="file of the private key")
    python: str | None = Field(None, description="interpreter that has all packages; null makes an environment")
    folder: str = Field(FOLDER, description="where this program keeps its things on the host")
    address: str | None = Field(None, description="by which the other hosts reach it; null is its host")
    environment: dict[str, str] = Field({}, description="variables for its process")
    options: list[str] = Field([], description="further arguments of ssh, such as -oProxyJump=gate")


class Inventory(Section):
    """All hosts; keys of hosts next to `hosts` are the defaults of all."""

    hosts: list[dict[str, Any]]


class SshHost:
    """A machine that ssh reaches."""

    here = False

    def __init__(self, keys: HostKeys, *, name: str = ""):
        self.keys = keys
        self.name = name or (keys.host if keys.port is None else f"{keys.host}:{keys.port}")
        self.folder = keys.folder
        self.address = keys.address or ""
        self.python = keys.python or ""

    def run(self, script: str, *, stdin: bytes = b"", timeout: float = 60) -> Output:
        command = [*self._ssh(), "--", self.keys.host, f"exec sh -c {shlex.quote(script)}"]
        try:
            done = subprocess.run(
                command, input=stdin, capture_output=True, timeout=timeout, check=False, start_new_session=True
            )
        except FileNotFoundError:
            raise UserError("no ssh program on this machine; install OpenSSH's client") from None
        except subprocess.TimeoutExpired:
            raise HostLost(f"{self.name}: no end of a command within {timeout:.0f} s") from None
        error = done.stderr.decode(errors="replace")
        if done.returncode == LOST:
            cause = error.strip().splitlines()[-1:] or ["no answer"]
            raise HostLost(f"{self.name} cannot be reached: {cause[0]}; try: {self._by_hand()}")
        return Output(done.returncode, done.stdout, error)

    def close(self) -> None:
        subprocess.run([*self._ssh(), "-O", "exit", "--", self.keys.host], capture_output=True, check=False)

    def _by_hand(self) -> str:
        """The command of a person who wants to see whether ssh works."""
        keys = self.keys
        where = [*(["-p", str(keys.port)] if keys.port else []), f"{keys.user}@{keys.host}" if keys.user else keys.host]
        return shlex.join(["ssh", *keys.options, *where])

    def _ssh(self) -> list[str]:
        keys = self.keys
        shared = ["ControlMaster=auto", f"ControlPath={_sockets()}/{os.getpid()}-%C", "ControlPersist=60"]
        settings = ["BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=15", "ServerAliveCountMax=3"]
        command = ["ssh", *(f"-o{each}" for each in [*settings, *shared, "StrictHostKeyChecking=accept-new"])]
        command += [f"-p{keys.port}"] if keys.port else []
        command += ["-l", keys.user] if keys.user else []
        command += ["-i", os.path.expanduser(keys.key)] if keys.key else []
        return [*command, *keys.options]


class SshWorkers:
    """Existing hosts, which the launcher neither creates nor deletes."""

    created = replaceable = False

    def __init__(self, name: str, hosts: Sequence[SshHost]):
        self.name = name
        self._hosts = list(hosts)

    def state(self) -> State:
        return State.READY  # a host that does not answer says so itself

    def hosts(self) -> Sequence[Host]:
        return self._hosts

    def environments(self, hosts: Sequence[Host]) -> list[dict[str, str]]:
        environments = [dict(host.keys.environment) for host in self._hosts]
        if len(hosts) == 1:
            return environments
        given = told(hosts, address=_address(hosts), port=_free_port(hosts[0]))
        return [{**own, **common} for own, common in zip(environments, given, strict=True)]

    def create(self) -> None:
        raise UserError(f"{self.name}: hosts that are reached by ssh are not created by this program")

    def delete(self) -> None:
        raise UserError(f"{self.name}: hosts that are reached by ssh are not deleted by this program")


class SshProvider:
    """Names ssh:HOST,HOST and files of hosts."""

    def find(self, name: str) -> SshWorkers | None:
        scheme, _, rest = name.partition(":")
        if scheme == "ssh" and rest and not rest.endswith(".json"):
            hosts = [_parsed(part, name) for part in rest.split(",")]
        elif name.endswith(".json"):
            hosts = read_inventory(rest if scheme == "ssh" else name)
        elif scheme == "ssh":
            raise UserError(f"--tpu {name}: write ssh:HOST,HOST with [USER@]NAME[:PORT] for each, or a file HOSTS.json")
        else:
            return None
        names = [f"{keys.user}@{keys.host}:{keys.port} {keys.folder}" for keys in hosts]
        if twice := {each for each in names if names.count(each) > 1}:
            raise UserError(
                f"--tpu {name}: {sorted(twice)[0]} is named twice; give each its own `folder` in a HOSTS.json to "
                "run two processes there"
            )
        return SshWorkers(name, [SshHost(keys) for keys in hosts])

    def names(self) -> list[str]:
        return [str(path) for path in sorted(Path().glob("*hosts*.json"))]


def read_inventory(path: str) -> list[HostKeys]:
    values = config.read(path)
    common = {key: values.pop(key) for key in list(values) if key in HostKeys.model_fields and key != "host"}
    (inventory,) = config.parse_sections(values, [Inventory], source=path)
    if not inventory.hosts:
        raise UserError(f"{path}: hosts is empty; name at least one")
    return [
        config.parse_sections({**common, **host}, [HostKeys], source=f"{path}: host {index}")[0]
        for index, host in enumerate(inventory.hosts)
    ]


def _parsed(text: str, name: str) -> HostKeys:
    match = re.fullmatch(r"(?:([^@\s]+)@)?(\[[0-9a-fA-F:]+\]|[A-Za-z0-9][^\s:@]*)(?::(\d{1,5}))?", text)
    if not match:
        raise UserError(f"--tpu {name}: {text!r} is not [USER@]NAME[:PORT]")
    user, host, port = match.groups()
    return HostKeys(host=host.strip("[]"), user=user, port=int(port) if port else None)


def _address(hosts: Sequence[Host]) -> str:
    """The address at which the others reach worker 0: as configured, else its name if they resolve it."""
    first = hosts[0]
    assert isinstance(first, SshHost)
    if first.address:
        return first.address
    name = first.keys.host
    loopback = name in ("localhost", "::1") or name.startswith("127.")
    if loopback and all(isinstance(host, SshHost) and host.keys.host == name for host in hosts):
        return name
    if not loopback and hosts[1].run(f"getent hosts {shlex.quote(name)}").code == 0:
        return name
    found = first.run("hostname -I").out.decode().split()
    if not found:
        raise UserError(f"{first.name}: the others do not know this name; give it an `address` in a HOSTS.json")
    return found[0]


def _free_port(host: Host) -> int:
    ports = " ".join(map(str, PORTS))
    output = host.run(f"{shlex.quote(host.python or 'python3')} -c {shlex.quote(FREE_PORT)} {ports}")
    if output.code:
        raise UserError(f"{host.name}: no port for the processes to meet at: {output.error.strip()}")
    return int(output.out)


def _sockets() -> str:
    """A folder of this user for the sockets of ssh, whose paths must be short."""
    folder = Path(tempfile.gettempdir()) / f"gpt2-ssh-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder} belongs to another user; set TMPDIR to a folder of yours")
    return str(folder)
