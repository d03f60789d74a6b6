"""Workers in Google Cloud: what Compute Engine (compute_engine.py) and the TPU API (tpu_api.py) have in common.

Each of the two says what there is under a name and how it is made and removed, resource by resource. Here is the rest:
what is created is written down first (creations.py), taken back when it cannot be completed, tried again while there
are no free machines, waited for until ssh answers, and deleted only where it carries our token.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol

from cluster import slices
from cluster.cloud import HOW, Cloud, public_key, ssh_arguments
from cluster.console import Console
from cluster.creations import Creation, recorded
from cluster.google_rest import QUOTA_FIX, Refused, Service, is_quota
from cluster.records import root
from cluster.ssh import HostKeys, SshHost, SshWorkers
from cluster.team import AT_ONCE
from cluster.workers import Host, HostLost, State
from runtime.errors import UserError

NAME = re.compile(r"[a-z]([-a-z0-9]{0,48}[a-z0-9])?")  # Google's names, with room for a token
FIRST_PAUSE, LONGEST_PAUSE = 20.0, 300.0  # between attempts to create where there are no free machines
LONGEST_WAIT = 7 * 24 * 3600.0  # for machines
BOOT_SECONDS = 900.0  # from what Google calls ready to an answer of ssh
DEAD_SECONDS = 300.0  # without an answer of a machine that Google calls ready, while others answer
RESTART_SECONDS = 600.0  # in which a machine that Google has stopped for maintenance is started by Google
SETTLING_SECONDS = 10.0  # after which a call that was sent right before a kill has had its effect


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
    """What there is under a name. ours: it carries the token. said: why it is not ready, in Google's words. failed: it
    will not get ready by itself."""

    state: State
    ours: bool = False
    machines: tuple[Machine, ...] = ()
    said: str = ""
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


class GoogleWorkers:
    """The machines of one name. creation: ours, where it is recorded. order: says that they may be created (again)."""

    def __init__(
        self, interface: Interface, name: str, cloud: Cloud, *, creation: Creation | None, order: Order | None
    ):
        self.name = name
        self.replaceable = order is not None
        self._interface = interface
        self._cloud = cloud
        self._creation = creation
        self._order = order
        self._at = interface.service.at
        self._console = Console(name)
        self._found: Found | None = None
        self._due: float | None = None  # when to create the next time
        self._failures = 0
        self._waiting_since = self._at.now()
        self._booting_since: float | None = None
        self._stopped_since: float | None = None
        self._silent_since: float | None = None
        self._said = ""

    @property
    def created(self) -> bool:
        return self._creation is not None

    def state(self) -> State:
        if self._due is not None and (self._at.now() < self._due or not self._begin()):
            return State.CREATING
        found = self._found = self._look()
        if found.state == State.READY:
            return self._answering(found)
        if found.state == State.CREATING and self._booting_since is None:
            self._booting_since = self._at.now()
        if self._creation is not None and found.ours:
            self._watch_creation(found)
            if found.state == State.STOPPED:
                self._stopped_since = self._at.now() if self._stopped_since is None else self._stopped_since
                waited = self._at.now() - self._stopped_since
                return State.STOPPED if waited > RESTART_SECONDS else State.CREATING
        self._stopped_since = None
        return found.state

    def hosts(self) -> Sequence[Host]:
        return self._interface.ordered(self._reached(self._found or self._look()))

    def environments(self, hosts: Sequence[Host]) -> list[dict[str, str]]:
        return SshWorkers(self.name, [host for host in hosts if isinstance(host, SshHost)]).environments(hosts)

    def create(self) -> None:
        if self._order is None:
            raise UserError(f"{self.name} is not created without --tpu_create TYPE")
        self._waiting_since = self._at.now()
        self._due = self._at.now() + self._pause()
        if not self._failures:
            self._begin()

    def delete(self) -> None:
        """What we have created; where we were told to replace it, what somebody else has."""
        self._due = self._booting_since = self._silent_since = None
        try:
            if self._creation is not None:
                remove(self._interface, self._creation, answered=self._creation.complete)
                self._creation = None
            elif self._order is not None and self._order.replace:
                _ = any(self._interface.remove(path, "") for path in self._interface.main(self.name, self._cloud))
        except UserError as error:
            kind = HostLost if isinstance(error, HostLost) else UserError
            raise kind(
                f"{self.name} could not be deleted, so it may cost money ({error}); try --tpu_delete {self.name}"
            ) from None

    # Creating.

    def _begin(self) -> bool:
        """Whether all that is planned could be asked for; if not, the next attempt is due later."""
        self._due = None
        creation = self._planned()
        try:
            for resource in creation.resources:
                self._interface.make(resource, creation)
        except Refused as error:
            remove(self._interface, creation, answered=True)
            self._creation = None
            if not error.is_capacity:
                raise UserError(f"{self.name} could not be created, and nothing of it is left: {error}") from None
            self._failures += 1
            self._due = self._at.now() + self._pause()
            self._console.note(f"no such machines now ({error.said}); next attempt in {self._pause():.0f} s")
            self._check_patience()
            return False
        self._completed(creation)
        self._booting_since = self._at.now()
        return True

    def _planned(self) -> Creation:
        """What is to be created, written down: again the same where an attempt was cut off, else new."""
        order = self._order
        assert order is not None
        before = self._creation
        if before is not None:
            same = (before.kind, before.spot, before.image, before.network) == (
                order.kind, order.spot, order.image, order.network
            )  # fmt: skip
            if same and not before.complete:
                return before
            remove(self._interface, before, answered=before.complete)
        user, key = public_key(self._cloud)
        cloud = self._cloud
        creation = Creation(
            self.name, self._interface.api, cloud.project, cloud.zone, order.kind, order.spot, order.image,
            order.network, cloud.internal, cloud.ssh, f"{user}:{key}",
        )  # fmt: skip
        creation = replace(creation, resources=self._interface.planned(creation))
        creation.save()
        self._creation = creation
        return creation

    def _completed(self, creation: Creation) -> None:
        self._creation = replace(creation, complete=True)
        self._creation.save()

    def _watch_creation(self, found: Found) -> None:
        """Says what keeps it from being ready, and takes it back where that will not change."""
        if found.said and found.said != self._said:
            self._console.note(f"{self.name} is {found.state}: {found.said}")
        self._said = found.said
        if found.said and is_quota(found.said):
            self.delete()
            raise UserError(f"{self.name} could not be created, and nothing of it is left: {found.said}; {QUOTA_FIX}")
        if found.failed:
            self._failures += 1
        if found.state == State.CREATING:
            self._check_patience()

    def _check_patience(self) -> None:
        if self._at.now() - self._waiting_since > LONGEST_WAIT:
            self.delete()
            raise UserError(
                f"{self.name}: no such machines within {LONGEST_WAIT / 86400:.0f} days; what was asked for is deleted; "
                "take another zone (--tpu_zone) or type"
            )

    def _pause(self) -> float:
        return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (self._failures - 1)) if self._failures else 0.0

    # Reaching.

    def _look(self) -> Found:
        token = self._creation.token if self._creation else ""
        return self._interface.look(self.name, self._cloud, token)

    def _reached(self, found: Found) -> list[SshHost]:
        """Replaced machines come back with the same address and another key, so each is known by its own number."""
        if not found.machines:
            raise UserError(f"{self.name} has no machines; see --tpu_status {self.name}")
        known = root() / "known_hosts"
        known.parent.mkdir(parents=True, exist_ok=True)
        hosts = []
        for machine in found.machines:
            address = machine.internal if self._cloud.internal else machine.external or machine.internal
            if not address:
                raise UserError(f"{machine.name} has no address yet; try again")
            options = [*ssh_arguments(self._cloud), f"-oHostKeyAlias={machine.id}", f'-oUserKnownHostsFile="{known}"']
            keys = HostKeys(host=address, address=machine.internal or None, options=options)
            hosts.append(SshHost(keys, name=machine.name))
        return hosts

    def _answering(self, found: Found) -> State:
        """READY, if a machine that has just been made can be reached."""
        if self._creation is not None and not self._creation.complete and found.ours:
            self._completed(self._creation)
        if self._booting_since is not None or (self.created and self.replaceable and len(found.machines) > 1):
            silent = self._silent(found)
            if self._booting_since is not None and silent:
                if self._at.now() - self._booting_since < BOOT_SECONDS:
                    return State.CREATING
                raise UserError(
                    f"{self.name} is ready, but not to ssh: {silent[0]}; see docs/pods.md about keys, --tpu_ssh, "
                    "firewalls and --tpu_internal"
                )
            if 0 < len(silent) < len(found.machines):  # were it all of them, the fault might be on this side
                self._silent_since = self._at.now() if self._silent_since is None else self._silent_since
                if self._at.now() - self._silent_since < DEAD_SECONDS:
                    return State.CREATING
                self._console.note(f"dead: {silent[0]}")
                return State.PREEMPTED
        self._failures = 0
        self._booting_since = self._stopped_since = self._silent_since = None
        return State.READY

    def _silent(self, found: Found) -> list[HostLost]:
        """Why machines cannot be reached; [] when all can."""

        def ask(host: SshHost) -> HostLost | None:
            try:
                host.run("exit 0", timeout=30)
            except HostLost as error:
                return error
            return None

        with ThreadPoolExecutor(AT_ONCE) as threads:
            return [error for error in threads.map(ask, self._reached(found)) if error is not None]


def remove(interface: Interface, creation: Creation, *, answered: bool) -> None:
    """Deletes all of a creation, and forgets it. answered: no call that creates may still be under way."""
    for _ in range(1 if answered else 2):
        removed = [interface.remove(resource, creation.token) for resource in reversed(creation.resources)]
        if any(removed):
            break
        if not answered:
            interface.service.at.sleep(SETTLING_SECONDS)
    creation.forget()


class GoogleProvider:
    """Names of one of Google's interfaces, in the project and the zone that `cloud` or our own record tells."""

    def __init__(self, kind: str, interface: Interface, cloud: Cloud, order: Order | None = None):
        self.kind = kind
        self._interface = interface
        self._cloud = cloud
        self._order = order

    def find(self, name: str) -> GoogleWorkers | None:
        record = self._record(name)
        cloud = self._cloud_of(record)
        if not NAME.fullmatch(name) or not cloud.named or (record is None and recorded(name) is not None):
            return None
        try:
            found = self._interface.look(name, cloud, record.token if record else "")
        except Refused as error:
            if error.is_disabled:
                return None
            raise
        if found.state == State.GONE:
            return None
        ours = record is not None and found.ours
        return self._workers(name, cloud, record if ours else None)

    def names(self) -> list[str]:
        try:
            return self._interface.names(self._cloud) if self._cloud.named else []
        except UserError:
            return []  # of what cannot be asked nothing can be told

    def create(self, name: str, *, kind: str, spot: bool) -> GoogleWorkers | None:
        order = self._order or Order(kind, spot)
        wanted = slices.find(kind)
        if slices.api_of(wanted, order.api or None) != self._interface.api:
            return None
        if not NAME.fullmatch(name):
            raise UserError(
                f"--tpu {name}: Google takes names of at most 50 small letters, digits and '-', the first a letter"
            )
        record = self._record(name)
        cloud = self._cloud_of(record)
        if not cloud.named:
            raise UserError(f"--tpu_create {kind}: in which project and zone? Say it by {HOW}")
        workers = self._workers(name, cloud, record)
        workers.replaceable = True
        return workers

    def recorded(self, name: str) -> GoogleWorkers | None:
        """What was created here under a name, whether or not it is still there."""
        record = self._record(name)
        return self._workers(name, self._cloud_of(record), record) if record else None

    def _record(self, name: str) -> Creation | None:
        record = recorded(name)
        return record if record is not None and record.api == self._interface.api else None

    def _cloud_of(self, record: Creation | None) -> Cloud:
        if record is None:
            return self._cloud
        ssh = self._cloud.ssh or record.ssh
        return Cloud(record.project, record.zone, ssh, self._cloud.internal or record.internal)

    def _workers(self, name: str, cloud: Cloud, record: Creation | None) -> GoogleWorkers:
        """What is ours, or was ordered to be replaced, may be created again."""
        order = self._order
        if order is None and record is not None:
            order = Order(record.kind, record.spot, self._interface.api, record.image, record.network)
        workers = GoogleWorkers(self._interface, name, cloud, creation=record, order=order)
        workers.replaceable = record is not None or bool(order and order.replace)
        return workers
