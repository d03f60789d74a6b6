"""Finds workers by name in Google's APIs, and orders new ones."""

from estimator.errors import UserError
from estimator.launch.gcp import slices
from estimator.launch.gcp.interface import NAME, Interface, Order
from estimator.launch.gcp.ledger import Creation, recorded
from estimator.launch.gcp.rest import Refused
from estimator.launch.gcp.settings import HOW, Cloud
from estimator.launch.gcp.workers import GoogleWorkers
from estimator.launch.interfaces import State


class GoogleProvider:
    """Names of one of Google's interfaces, in the project and the zone that `cloud` or our own record tells."""

    def __init__(self, interface: Interface, cloud: Cloud, order: Order | None = None):
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

    def create(self, name: str) -> GoogleWorkers | None:
        """New workers as ordered, not begun yet; None where this interface has no such machines."""
        order = self._order
        assert order
        if slices.api_of(slices.find(order.kind), order.api or None) != self._interface.api:
            return None
        if not NAME.fullmatch(name):
            raise UserError(
                f"--tpu {name}: Google takes names of at most 50 small letters, digits and '-', the first a letter"
            )
        record = self._record(name)
        cloud = self._cloud_of(record)
        if not cloud.named:
            raise UserError(f"--tpu_create {order.kind}: in which project and zone? Say it by {HOW}")
        workers = self._workers(name, cloud, record)
        workers.replaceable = True
        return workers

    def recorded(self, name: str) -> GoogleWorkers | None:
        """The creation of this machine under a name, whether or not it still exists."""
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
        """Our machines, and those that were ordered to be replaced, may be created again."""
        order = self._order
        if order is None and record is not None:
            order = Order(record.kind, record.spot, self._interface.api, record.image, record.network)
        workers = GoogleWorkers(self._interface, name, cloud, creation=record, order=order)
        workers.replaceable = record is not None or bool(order and order.replace)
        return workers
