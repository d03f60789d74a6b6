"""Connects the processes of a multi-host run.

Every process runs the same program with the same file; JAX's runtime connects them. They differ only in the rows of the
batch that they read; process 0 alone prints, writes metrics and locks the run's folder.
"""

import contextlib
import os
import re
import signal
import socket
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from estimator.errors import EXIT_APART, EXIT_INTERRUPTED, UserError, hide_native_output
from estimator.parallel import rendezvous
from estimator.parallel.rendezvous import Rendezvous, apart

PORT = 8476  # default port
KUBERNETES_INDEX = "JOB_COMPLETION_INDEX"
ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
WAIT_SECONDS = 300  # for the other processes
LATER_SECONDS = 60  # after which JAX gives up, which ends this process with a stack of native code
HEARTBEAT_SECONDS = 30  # a process that is silent for this long counts as dead, and the others exit
MPI_COUNT = "OMPI_COMM_WORLD_SIZE"
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")  # in a step


class RendezvousError(UserError):
    """The processes could not connect; the JSON file is not at fault."""

    code = EXIT_APART


class ProcessGroup(NamedTuple):
    """Process `index` of `count`, connecting to `address` (host:port). devices: local device ids; None for all."""

    address: str
    index: int
    count: int
    devices: list[int] | None = None


def connect() -> None:
    """Connects the processes of this run, if there are several; must precede any use of JAX.

    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID name them, or Slurm's or torchrun's variables; under
    MPI and on TPU pods JAX finds them. Raises UserError naming the missing processes.
    """
    group = from_environment(os.environ) or from_slurm(os.environ) or from_torchrun(os.environ)
    if group:
        # All arguments are given; otherwise JAX detects Slurm too and limits each process to one device.
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


def expected(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `connect` will connect this process with others."""
    group = from_environment(environment) or from_slurm(environment) or from_torchrun(environment)
    return bool(group) or int(environment.get(MPI_COUNT) or 1) > 1 or on_tpu_pod(environment)


def from_environment(environment: Mapping[str, str]) -> ProcessGroup | None:
    """Process group named by the three variables; None without them or for a single process.

    In a pod of an indexed Kubernetes job, JOB_COMPLETION_INDEX stands in for JAX_PROCESS_ID.
    """
    if environment.get(COUNT) and environment.get(KUBERNETES_INDEX):
        environment = {INDEX: environment[KUBERNETES_INDEX], **environment}
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
    return ProcessGroup(with_port(environment[ADDRESS]), index, count) if count > 1 else None


def with_port(address: str) -> str:
    """Adds the default port to an address without one; an IPv6 address with a port needs brackets."""
    if address.count(":") > 1 and not re.search(r"[\[/]", address):
        return f"[{address}]:{PORT}"
    try:
        parts = urllib.parse.urlsplit(f"//{address}")
        if parts.hostname and parts.netloc == address and parts.port != 0:
            return address if parts.port else f"{address.rstrip(':')}:{PORT}"
    except ValueError:
        pass
    raise UserError(f"{ADDRESS} is {address!r}; write HOST:PORT, such as 10.0.0.1:{PORT}")


def from_torchrun(environment: Mapping[str, str]) -> ProcessGroup | None:
    """Process group started by torchrun or a Kubernetes PyTorchJob; None otherwise.

    torchrun's store occupies MASTER_PORT, so the port is 16 above it, or below if that exceeds the range.
    """
    if not all(environment.get(name, "").isdigit() for name in ("RANK", "WORLD_SIZE", "MASTER_PORT")):
        return None
    index, count, port = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    if count < 2 or not environment.get("MASTER_ADDR"):
        return None
    port += 16 if port < 65000 else -16
    several = int(environment.get("LOCAL_WORLD_SIZE") or 1) > 1
    devices = [int(environment["LOCAL_RANK"])] if several and environment.get("LOCAL_RANK", "").isdigit() else None
    return ProcessGroup(with_port(f"{environment['MASTER_ADDR']}:{port}"), index, count, devices)


def from_slurm(environment: Mapping[str, str]) -> ProcessGroup | None:
    """Process group of this Slurm step (`srun`); None outside of one or for a single task."""
    if not all(environment.get(name) for name in SLURM):
        return None
    count, index = (int(environment[name]) for name in ("SLURM_NTASKS", "SLURM_PROCID"))
    # Equal on all tasks, different for each step; the next port is for `rendezvous`.
    step = int(environment["SLURM_JOB_ID"]) + int(environment.get("SLURM_STEP_ID") or 0)
    port = environment.get("JAX_COORDINATOR_PORT") or 61440 + 2 * (step % 2000)
    address = f"{first_host(environment['SLURM_STEP_NODELIST'])}:{port}"
    return ProcessGroup(address, index, count, _slurm_devices(environment)) if count > 1 else None


def first_host(nodes: str) -> str:
    """First host of a Slurm node list: node007 of "node[007-012,020],other"."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    if not first:
        raise UserError(f"SLURM_STEP_NODELIST is {nodes!r}, which names no host")
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0])


def _slurm_devices(environment: Mapping[str, str]) -> list[int] | None:
    """Local ids of this task's GPUs; None for all visible ones, as when Slurm assigns each task its own."""
    visible = [device for device in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    own = environment.get("SLURM_GPUS_PER_TASK") or "gpu" in environment.get("SLURM_TRES_PER_TASK", "")
    counts = []  # tasks per host: "2(x3),1" means 2, 2, 2, 1
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
    """Whether this host belongs to a multi-host TPU slice, according to the environment."""
    hosts = environment.get("TPU_WORKER_HOSTNAMES") or environment.get("TPU_PROCESS_ADDRESSES") or ""
    return len(hosts.split(",")) > 1 or int(environment.get("MEGASCALE_NUM_SLICES") or 1) > 1


def _join(group: ProcessGroup | None, **options: Any) -> None:
    done = threading.Event()
    if group:
        _require_free_port(group)
        watch = partial(Rendezvous(group.address, group.index, group.count).watch, done, seconds=WAIT_SECONDS)
        threading.Thread(target=watch, name="rendezvous", daemon=True).start()
    # Instead of JAX's handler of SIGTERM, the system's is in force, and in training that of `stop_together`.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        with _interruptible():
            jax.distributed.initialize(
                initialization_timeout=WAIT_SECONDS + LATER_SECONDS,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
                **options,
            )
    except (RuntimeError, ValueError) as error:
        cause = str(error).strip().splitlines()[0]
        raise RendezvousError(apart(WAIT_SECONDS + LATER_SECONDS, cause)) from None
    finally:
        done.set()
    if jax.default_backend() == "cpu":
        hide_native_output()  # Gloo reports each connection, in several threads and whenever there is a new one
        multihost_utils.sync_global_devices("here")


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Lets Ctrl-C end the program while native code waits: Python would call its handler only afterwards."""
    end, start = os.pipe()
    os.set_blocking(start, False)

    def watch() -> None:
        while numbers := os.read(end, 64):
            if signal.SIGINT in numbers:
                os.write(2, b"interrupted\n")
                os._exit(EXIT_INTERRUPTED)
        os.close(end)

    threading.Thread(target=watch, name="interrupts", daemon=True).start()
    before = signal.set_wakeup_fd(start, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(start)


def _require_free_port(group: ProcessGroup) -> None:
    """Process 0 listens: RendezvousError if another program, perhaps another run, has its port.

    The others would connect to that run, and JAX would end all of its processes.
    """
    host, _, port = group.address.rpartition(":")
    if group.index:
        if rendezvous.is_taken(group.address):
            raise RendezvousError(
                f"port {port} of {host}, where the processes of this run would meet, is used by another run or "
                f"program; end it, or give {ADDRESS} another port on every host"
            )
        return
    try:
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("", int(port)))  # without listening, by which the others would take the port for another run's
    except OSError as error:
        raise RendezvousError(
            f"port {port} of {host}, where the processes of this run would meet, cannot be used: {error.strerror}; "
            f"end the program that uses it, or give {ADDRESS} another port on every host"
        ) from None


def is_first() -> bool:
    """Whether this process prints and writes."""
    return jax.process_index() == 0


def agreed(value: float) -> float:
    """Broadcasts process 0's value."""
    if jax.process_count() == 1:
        return value
    return float(multihost_utils.broadcast_one_to_all(np.float32(value)))
