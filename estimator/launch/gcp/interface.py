"""The interface of the two Google APIs that manage TPUs: compute_engine.py and tpu_api.py implement it.

Each finds the resources of a name, and creates and deletes them one by one. When and whether is decided
in google_workers.py.
"""

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from estimator.launch.gcp import slices
from estimator.launch.gcp.ledger import Creation
from estimator.launch.gcp.rest import Service
from estimator.launch.gcp.settings import Cloud
from estimator.launch.interfaces import State
from estimator.launch.ssh_hosts import SshHost

NAME = re.compile(r"[a-z]([-a-z0-9]{0,48}[a-z0-9])?")  # Google's names, with room for a token


@dataclass(frozen=True)
class Order:
    """What the person wants to be created. kind: such as v6e-16. replace: also in the place of what somebody else has
    created, when that is taken away. api, image, network: "" for the usual."""

    kind: str
    spot: bool = False
    api: slices.Api | Literal[""] = ""
    image: str = ""
    network: str = ""
    replace: bool = False


class Machine(NamedTuple):
    """A machine of a name. id: its own among all that ever were."""

    name: str
    id: str
    internal: str
    external: str


class Found(NamedTuple):
    """State of the resource of a name. ours: it carries the token. said: why it is not ready, in Google's words; error:
    why it could not be made. failed: it will not get ready without help."""

    state: State
    ours: bool = False
    machines: tuple[Machine, ...] = ()
    said: str = ""
    error: str = ""
    failed: bool = False


class Interface(Protocol):
    """One of Google's two. `cloud.named` holds."""

    api: slices.Api
    service: Service

    def look(self, name: str, cloud: Cloud, token: str) -> Found: ...

    def planned(self, creation: Creation) -> tuple[str, ...]:
        """The paths of all resources, in the order in which they are made."""
        ...

    def make(self, resource: str, creation: Creation) -> None:
        """Creates one, or finds that the same call has done so before. Refused."""
        ...

    def remove(self, resource: str, token: str) -> bool:
        """Deletes one that carries the token, and returns when it is gone; False where there was none. token "": who
        else has created it."""
        ...

    def main(self, name: str, cloud: Cloud) -> tuple[str, ...]:
        """The paths that somebody else's workers of a name may have."""
        ...

    def names(self, cloud: Cloud) -> list[str]: ...

    def ordered(self, hosts: list[SshHost]) -> list[SshHost]:
        """In the order in which the TPU itself counts them."""
        ...
