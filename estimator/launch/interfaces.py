"""The interface of providers of machines for `--tpu NAME`; a new provider implements these three classes.

A `Provider` finds `Workers` by name. `Workers` are the hosts of one run, in the order of their process numbers. A
`Host` runs shell commands, and nothing else: sending files, starting, watching and killing are made of that.
"""

import enum
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from estimator.errors import UserError


class State(enum.StrEnum):
    """Of all workers of a name together."""

    READY = "READY"  # commands can be run on all
    CREATING = "CREATING"  # will be ready without being asked again
    PREEMPTED = "PREEMPTED"  # taken away: our own machines are deleted and created again
    STOPPED = "STOPPED"  # a person has to start them
    DELETING = "DELETING"  # on its way out: what follows tells more
    GONE = "GONE"  # there is nothing of this name any more


class HostLost(UserError):
    """A host does not answer; it may do so later."""


class Output(NamedTuple):
    """Exit code and output of a command."""

    code: int
    out: bytes
    error: str


class Host(Protocol):
    """One machine, or one place on it, that runs a process of the run.

    name: unique among the workers; for people. folder: where this program keeps its own things there; one that begins
    with ~/ is in the home of the user there. address: by which the other workers reach it; "" asks the host itself.
    here: is this machine; code and environment are those of the launcher, nothing is sent. python: an interpreter that
    has all that is needed; "" makes an environment.
    """

    name: str
    folder: str
    address: str
    here: bool
    python: str

    def run(self, script: str, *, stdin: bytes = b"", timeout: float = 60) -> Output:
        """Runs a POSIX shell script, waits for its end. Raises HostLost when the host cannot be reached, or is late."""
        ...

    def close(self) -> None:
        """Gives back what reaching the host holds, such as a connection; it can be used again afterwards."""
        ...


class Workers(Protocol):
    """The hosts of one name. created: by us, so that `delete` is ours to call. replaceable: when they are taken away,
    or not there yet, they may be created."""

    name: str
    replaceable: bool

    @property
    def created(self) -> bool: ...

    def state(self) -> State: ...

    def hosts(self) -> Sequence[Host]:
        """In the order of the processes, the first is worker 0. Only when READY; may change when created again."""
        ...

    def environments(self, hosts: Sequence[Host]) -> list[dict[str, str]]:
        """Variables for the process of each host, by which the processes find each other; asked before each start."""
        ...

    def create(self) -> None:
        """Begins to create the workers (again); `state` tells when they are ready. UserError where that cannot be."""
        ...

    def delete(self) -> None: ...


class Gone:
    """Raised where workers of a run no longer exist."""

    created = replaceable = False

    def __init__(self, name: str):
        self.name = name

    def state(self) -> State:
        return State.GONE

    def hosts(self) -> Sequence[Host]:
        return []

    def environments(self, hosts: Sequence[Host]) -> list[dict[str, str]]:
        return []

    def create(self) -> None:
        raise UserError(f"{self.name} is gone")

    def delete(self) -> None:
        raise UserError(f"{self.name} is gone")


class Provider(Protocol):
    """Finds workers by their name."""

    def find(self, name: str) -> Workers | None:
        """None where the name is not one of this provider; UserError where it is one, but wrong in itself."""
        ...

    def names(self) -> list[str]:
        """The known names, for the message about a wrong one."""
        ...


def told(hosts: Sequence[Host], *, address: str, port: int) -> list[dict[str, str]]:
    """The variables that `estimator.parallel.distributed.connect` reads; none are needed for a single process."""
    if len(hosts) == 1:
        return [{}]
    return [
        {
            "JAX_COORDINATOR_ADDRESS": f"{address}:{port}",
            "JAX_NUM_PROCESSES": str(len(hosts)),
            "JAX_PROCESS_ID": str(index),
        }
        for index in range(len(hosts))
    ]
