"""Workers in Google Cloud, whichever of its interfaces has them.

A creation is recorded first (ledger.py), undone when it cannot be completed, retried while no machines are free, waited
for until ssh answers, and deleted only where it carries our token.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from estimator.errors import UserError
from estimator.launch.console import Console
from estimator.launch.gcp import slices
from estimator.launch.gcp.interface import Found, Interface, Order
from estimator.launch.gcp.ledger import Creation
from estimator.launch.gcp.rest import QUOTA_FIX, Refused, is_quota
from estimator.launch.gcp.settings import Cloud, public_key, ssh_arguments
from estimator.launch.interfaces import Host, HostLost, State
from estimator.launch.job_group import AT_ONCE
from estimator.launch.run_store import root
from estimator.launch.ssh_hosts import HostKeys, SshHost, SshWorkers

FIRST_PAUSE, LONGEST_PAUSE = 20.0, 300.0  # between attempts to create where there are no free machines
LONGEST_WAIT = 7 * 24 * 3600.0  # for machines
BOOT_SECONDS = 900.0  # from what Google calls ready to an answer of ssh
DEAD_SECONDS = 300.0  # without an answer of a machine that Google calls ready, while others answer
RESTART_SECONDS = 600.0  # in which a machine that Google has stopped for maintenance is started by Google
SETTLING_SECONDS = 10.0  # after which a call that was sent right before a kill has had its effect


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
        self._waiting_since = self._at.now()  # or since it was ready
        self._booting_since: float | None = None
        self._stopped_since: float | None = None
        self._silent_since: float | None = None
        self._said = ""

    @property
    def created(self) -> bool:
        return self._creation is not None

    @property
    def kind(self) -> tuple[str, bool] | None:
        """Which slice we have created, and whether as Spot."""
        return (slices.find(self._creation.kind).name, self._creation.spot) if self._creation else None

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
        self._due = self._at.now() + self._pause()
        if not self._failures:
            self._begin()

    def delete(self) -> None:
        """The launcher's own machines or, with an order to replace them, those of others."""
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
            self._take_back(creation, error)
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

    def _take_back(self, creation: Creation, cause: Refused) -> None:
        try:
            remove(self._interface, creation, answered=True)
        except UserError as error:
            raise UserError(
                f"{self.name} could not be created ({cause}), and what there is of it could not be deleted ({error}), "
                f"so it may cost money; try --tpu_delete {self.name}"
            ) from None
        self._creation = None

    def _planned(self) -> Creation:
        """Records the next creation: the same again where an attempt was cut off, else a new one."""
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
        if is_quota(found.error):
            self.delete()
            raise UserError(f"{self.name} could not be created, and nothing of it is left: {found.error}; {QUOTA_FIX}")
        if found.failed:
            self._failures += 1
        if found.failed or found.state == State.CREATING:
            self._check_patience()

    def _check_patience(self) -> None:
        if self._at.now() - self._waiting_since > LONGEST_WAIT:
            self.delete()
            raise UserError(
                f"{self.name}: no such machines within {LONGEST_WAIT / 86400:.0f} days; the request is deleted; "
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
        self._failures, self._waiting_since = 0, self._at.now()
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
