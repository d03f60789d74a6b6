"""The processes of a run on several hosts: how they find each other, and how they agree on when to stop.

Every process runs the same program with the same file. JAX's own runtime connects them; what differs between them is
only which rows of a batch they read, and that process 0 alone prints, writes metrics and holds the run's folder.
"""

import contextlib
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from runtime.errors import UserError
from runtime.interrupts import StopRequest

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
WAIT_SECONDS = 300
REPORT_SECONDS = 30  # of waiting, after which who is missing is said
HEARTBEAT_SECONDS = 30  # a process that is silent for so long counts as dead, and the others end
MPI_COUNT = "OMPI_COMM_WORLD_SIZE"
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")  # in a step
EXIT_APART = 75  # the system's code for what may succeed when it is tried again


class Apart(UserError):
    """The processes did not find each other: not a fault of the JSON file."""

    code = EXIT_APART


class Group(NamedTuple):
    """Process `index` of `count`, which all connect to `address` (host:port); devices: those it uses, None for all."""

    address: str
    index: int
    count: int
    devices: list[int] | None = None


def connect() -> None:
    """Joins the processes of this run, where there are several; nothing of JAX may have been used before.

    They are told by JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or by Slurm, or found by JAX itself
    under MPI, Kubernetes' indexed jobs and on TPU pods. Raises UserError naming the processes that do not come.
    """
    group = from_environment(os.environ) or from_slurm(os.environ)
    if group:
        # Told whole: JAX would else look around too, and under Slurm leave a process only one of its host's devices.
        _join(
            group,
            coordinator_address=group.address,
            num_processes=group.count,
            process_id=group.index,
            local_device_ids=group.devices,
            cluster_detection_method="deactivate",
        )
    elif int(os.environ.get(MPI_COUNT) or 1) > 1 or on_tpu_pod(os.environ):
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


def from_slurm(environment: Mapping[str, str]) -> Group | None:
    """The group of this step of a Slurm job (`srun`); None outside of one, or in one of a single task."""
    if not all(environment.get(name) for name in SLURM):
        return None
    count, index = (int(environment[name]) for name in ("SLURM_NTASKS", "SLURM_PROCID"))
    # The same on all tasks, another for each step, and with the one after it for `_watch`.
    step = int(environment["SLURM_JOB_ID"]) + int(environment.get("SLURM_STEP_ID") or 0)
    port = environment.get("JAX_COORDINATOR_PORT") or 61440 + 2 * (step % 2000)
    address = f"{first_host(environment['SLURM_STEP_NODELIST'])}:{port}"
    return Group(address, index, count, _slurm_devices(environment)) if count > 1 else None


def first_host(nodes: str) -> str:
    """The first of Slurm's list of hosts: node007 of "node[007-012,020],other"."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    if not first:
        raise UserError(f"SLURM_STEP_NODELIST is {nodes!r}, which names no host")
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0])


def _slurm_devices(environment: Mapping[str, str]) -> list[int] | None:
    """Which of the GPUs that it sees are this task's; None for all, also where Slurm gives each task its own."""
    visible = [device for device in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    own = environment.get("SLURM_GPUS_PER_TASK") or "gpu" in environment.get("SLURM_TRES_PER_TASK", "")
    counts = []  # of the tasks on each host: "2(x3),1" is 2, 2, 2, 1
    for part in (environment.get("SLURM_STEP_TASKS_PER_NODE") or "1").split(","):
        tasks, _, hosts = part.rstrip(")").partition("(x")
        counts += [int(tasks)] * int(hosts or 1)
    host = int(environment.get("SLURM_NODEID") or 0)
    tasks = counts[host] if host < len(counts) else 1
    if own or tasks == 1 or len(visible) < tasks or len(visible) % tasks:
        return None
    share, first = len(visible) // tasks, int(environment["SLURM_LOCALID"])
    return list(range(first * share, (first + 1) * share))


def on_tpu_pod(environment: Mapping[str, str]) -> bool:
    """Whether this host is one of several of a TPU slice, as its image or Kubernetes tells in the environment."""
    hosts = environment.get("TPU_WORKER_HOSTNAMES") or environment.get("TPU_PROCESS_ADDRESSES") or ""
    return len(hosts.split(",")) > 1 or int(environment.get("MEGASCALE_NUM_SLICES") or 1) > 1


def _join(group: Group | None, **options: Any) -> None:
    done = threading.Event()
    if group:
        threading.Thread(target=_watch, args=(group, done), name="rendezvous", daemon=True).start()
    try:
        jax.distributed.initialize(
            initialization_timeout=WAIT_SECONDS, heartbeat_timeout_seconds=HEARTBEAT_SECONDS, **options
        )
    except (RuntimeError, ValueError) as error:
        cause = str(error).strip().splitlines()[0]
        raise Apart(
            f"the processes of this run did not find each other within {WAIT_SECONDS} s ({cause}); start the same "
            "command on every host, and let the hosts reach each other's ports"
        ) from None
    finally:
        done.set()
    if jax.default_backend() == "cpu":
        with _silence():
            multihost_utils.sync_global_devices("here")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Hides what is printed, also by native code: the library that connects CPUs reports its first connection."""
    sys.stdout.flush()
    kept = os.dup(1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)


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
