"""The processes of a run on several hosts: how they find each other, and how they agree on when to stop.

Every process runs the same program with the same file. JAX's own runtime connects them; what differs between them is
only which rows of a batch they read, and that process 0 alone prints, writes metrics and holds the run's folder.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from runtime.errors import UserError
from runtime.interrupts import StopRequest

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
WAIT_SECONDS = 300
REPORT_SECONDS = 30  # of waiting, after which who is missing is said
HEARTBEAT_SECONDS = 30  # a process that is silent for so long counts as dead, and the others end
# Of these, JAX finds the processes itself. Each: what tells how many processes there are.
MANAGED = {"SLURM_STEP_NUM_TASKS": "Slurm", "OMPI_COMM_WORLD_SIZE": "MPI"}


class Group(NamedTuple):
    """Process `index` of `count`, which all connect to `address` (host:port)."""

    address: str
    index: int
    count: int


def connect() -> None:
    """Joins the processes of this run, where there are several; nothing of JAX may have been used before.

    They are told by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or found by JAX itself under Slurm,
    MPI, Kubernetes' indexed jobs and on TPU pods. Raises UserError naming the processes that do not come.
    """
    group = from_environment(os.environ)
    if group:
        _join(group, coordinator_address=group.address, num_processes=group.count, process_id=group.index)
    elif any(int(os.environ.get(name) or 1) > 1 for name in MANAGED) or on_tpu_pod(os.environ):
        _join(None)


def from_environment(environment: Mapping[str, str]) -> Group | None:
    """The group that the three variables tell of; None without them, or for a single process."""
    given = [name for name in (ADDRESS, COUNT, INDEX) if environment.get(name)]
    if not {COUNT, INDEX} & set(given):
        return None
    missing = [name for name in (ADDRESS, COUNT, INDEX) if name not in given]
    if missing:
        raise UserError(f"{', '.join(given)} is set, but not {', '.join(missing)}; set all three, or none")
    try:
        index, count = int(environment[INDEX]), int(environment[COUNT])
    except ValueError:
        raise UserError(f"{INDEX} and {COUNT} must be numbers") from None
    if not 0 <= index < count:
        raise UserError(f"{INDEX} is {index}, but must be one of 0 to {count - 1}, because {COUNT} is {count}")
    return Group(environment[ADDRESS], index, count) if count > 1 else None


def on_tpu_pod(environment: Mapping[str, str]) -> bool:
    """Whether this host is one of several of a TPU slice, as its image or Kubernetes tells in the environment."""
    hosts = environment.get("TPU_WORKER_HOSTNAMES") or environment.get("TPU_PROCESS_ADDRESSES") or ""
    return len(hosts.split(",")) > 1 or int(environment.get("MEGASCALE_NUM_SLICES") or 1) > 1


def _join(group: Group | None, **options: object) -> None:
    done = threading.Event()
    if group:
        threading.Thread(target=_watch, args=(group, done), name="rendezvous", daemon=True).start()
    try:
        jax.distributed.initialize(
            initialization_timeout=WAIT_SECONDS, heartbeat_timeout_seconds=HEARTBEAT_SECONDS, **options
        )
    except (RuntimeError, ValueError) as error:
        cause = str(error).strip().splitlines()[0]
        raise UserError(
            f"the processes of this run did not find each other within {WAIT_SECONDS} s ({cause}); start the same "
            "command on every host, and let the hosts reach each other's ports"
        ) from None
    finally:
        done.set()


def _watch(group: Group, done: threading.Event) -> None:
    """Says, while the group is not complete, who is missing: process 0 hears from all others on the port after its own.

    This is for the person who waits; the joining itself is JAX's.
    """
    host, _, port = group.address.rpartition(":")
    if group.index:
        while not done.wait(1):
            try:
                with socket.create_connection((host, int(port) + 1), timeout=5) as line:
                    line.sendall(f"{group.index} {socket.gethostname()}\n".encode())
                    return
            except OSError:
                continue
        return
    here = {0: socket.gethostname()}
    try:
        server = socket.create_server(("", int(port) + 1))
    except OSError:
        return  # another program has this port; JAX's own time limit remains
    last = time.monotonic()
    with server:
        server.settimeout(0.5)
        while not done.is_set():
            try:
                line, _ = server.accept()
                with line:
                    line.settimeout(5)
                    index, name = line.recv(300).decode(errors="replace").split()
                    here[int(index)] = name
            except (OSError, ValueError):
                pass
            if time.monotonic() - last > REPORT_SECONDS:
                last = time.monotonic()
                missing = [str(index) for index in range(group.count) if index not in here]
                found = ", ".join(f"{index} on {name}" for index, name in sorted(here.items()))
                print(f"waiting for process {', '.join(missing)} of {group.count}; here: {found}", file=sys.stderr)


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0


def agreed(value: float) -> float:
    """Process 0's value, on all."""
    if jax.process_count() == 1:
        return value
    return float(multihost_utils.broadcast_one_to_all(np.float32(value)))


class StopTogether(StopRequest):
    """A `StopRequest` that all processes see at the same step, whichever of them got the signal.

    SIGTERM is left to JAX, which passes it on to the others (its preemption notice); Ctrl-C becomes SIGTERM.
    """

    def __init__(self) -> None:
        super().__init__()
        self._looked = 0

    def __enter__(self) -> "StopTogether":
        self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        return self

    @property
    def requested(self) -> bool:
        self._looked += 1
        if self.signal is None and multihost_utils.reached_preemption_sync_point(self._looked):
            self.signal = signal.SIGTERM
        return self.signal is not None


def stop_request() -> StopRequest:
    return StopRequest() if jax.process_count() == 1 else StopTogether()
