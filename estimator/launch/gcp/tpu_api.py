"""`--tpu NAME` in the older TPU API: a node, or a queued resource, which is a place in a queue that becomes a node.

Only this API has v4 and v5e. It creates a queued resource, which waits for free machines at Google even after this
launcher has ended, and then becomes the node of the same name.
"""

from typing import Any

from estimator.errors import UserError
from estimator.launch.gcp import slices
from estimator.launch.gcp.interface import Found, Machine
from estimator.launch.gcp.ledger import LABEL, Creation
from estimator.launch.gcp.rest import SCOPE, Refused, Service, Time
from estimator.launch.gcp.settings import Cloud
from estimator.launch.interfaces import State
from estimator.launch.ssh_hosts import SshHost

BASE, EMULATOR = "https://tpu.googleapis.com/v2", "TPU_EMULATOR_HOST"
NODES, QUEUED = "nodes", "queuedResources"
NODE_STATES = {
    "CREATING": State.CREATING,
    "STARTING": State.CREATING,
    "RESTARTING": State.CREATING,
    "REIMAGING": State.CREATING,
    "REPAIRING": State.CREATING,
    "UNHIDING": State.CREATING,
    "STATE_UNSPECIFIED": State.CREATING,
    "READY": State.READY,
    "STOPPING": State.STOPPED,
    "STOPPED": State.STOPPED,
    "DELETING": State.DELETING,
    "PREEMPTED": State.PREEMPTED,
    "TERMINATED": State.PREEMPTED,
    "HIDING": State.PREEMPTED,
    "HIDDEN": State.PREEMPTED,
    "UNKNOWN": State.PREEMPTED,  # "after a failed repair"
}
QUEUED_STATES = {
    "STATE_UNSPECIFIED": State.CREATING,
    "CREATING": State.CREATING,
    "ACCEPTED": State.CREATING,
    "WAITING_FOR_RESOURCES": State.CREATING,
    "PROVISIONING": State.CREATING,
    "ACTIVE": State.READY,  # as far as the queue is concerned: then its node tells
    "FAILED": State.PREEMPTED,
    "DELETING": State.DELETING,
    "SUSPENDING": State.DELETING,
    "SUSPENDED": State.PREEMPTED,
}


class TpuApi:
    """The TPU API's REST interface, version 2."""

    api: slices.Api = "tpu"

    def __init__(self, *, base: str = BASE, at: Time | None = None):
        self.service = Service(base, emulator=EMULATOR, at=at)

    # Existing nodes.

    def look(self, name: str, cloud: Cloud, token: str) -> Found:
        queued_path, node_path = self.main(name, cloud)
        queued = self.service.find(queued_path)
        if queued is not None:
            return self._queued(queued, cloud, token)
        node = self.service.find(node_path)
        return _node(node, token) if node is not None else Found(State.GONE)

    def main(self, name: str, cloud: Cloud) -> tuple[str, ...]:
        zone = f"projects/{cloud.project}/locations/{cloud.zone}"
        return f"{zone}/{QUEUED}/{name}", f"{zone}/{NODES}/{name}"

    def names(self, cloud: Cloud) -> list[str]:
        zone = f"projects/{cloud.project}/locations/{cloud.zone}"
        found = self.service.all(f"{zone}/{NODES}", "nodes") + self.service.all(f"{zone}/{QUEUED}", "queuedResources")
        return sorted({each["name"].rpartition("/")[2] for each in found})

    def ordered(self, hosts: list[SshHost]) -> list[SshHost]:
        """The endpoints of a node are in the order of its workers."""
        return hosts

    def _queued(self, queued: dict[str, Any], cloud: Cloud, token: str) -> Found:
        state = queued.get("state", {})
        stage = state.get("state", "STATE_UNSPECIFIED")
        ours = bool(token) and _token(queued) == token
        specifications = queued.get("tpu", {}).get("nodeSpec", [])
        if len(specifications) > 1 or "multisliceParams" in (specifications or [{}])[0]:
            raise UserError(
                f"{queued['name'].rpartition('/')[2]} is of several slices, which this program does not train on; name "
                "one of its nodes"
            )
        found = Found(QUEUED_STATES.get(stage, State.CREATING), ours, said=_reason(state, stage))
        if stage == "FAILED":
            return found._replace(failed=True, error=found.said)
        if stage != "ACTIVE":
            return found
        node_id = specifications[0].get("nodeId", "") if specifications else ""
        node = self.service.find(f"projects/{cloud.project}/locations/{cloud.zone}/{NODES}/{node_id}")
        if node is None:
            return Found(State.PREEMPTED, ours, said="its node is gone")
        return _node(node, token)._replace(ours=ours)

    # Creation and deletion.

    def planned(self, creation: Creation) -> tuple[str, ...]:
        return (f"projects/{creation.project}/locations/{creation.zone}/{QUEUED}/{creation.name}",)

    def make(self, resource: str, creation: Creation) -> None:
        collection, _, name = resource.rpartition("/")
        parameters = {"queuedResourceId": name, "requestId": creation.request(resource)}
        try:
            operation = self.service.call("POST", collection, parameters=parameters, body=_body(creation))
        except Refused as error:
            if error.status == 409 and self._ours(resource, creation.token):
                return
            raise
        self._wait(operation)

    def remove(self, resource: str, token: str) -> bool:
        """With a queued resource goes its node."""
        removed = False
        if self._ours(resource, token):
            self._delete(resource, force="true" if f"/{QUEUED}/" in resource else "")
            removed = True
        node = resource.replace(f"/{QUEUED}/", f"/{NODES}/")
        if node != resource and token and self._ours(node, token):
            self._delete(node)
            removed = True
        return removed

    def _delete(self, resource: str, *, force: str = "") -> None:
        try:
            self._wait(self.service.call("DELETE", resource, parameters={"force": force} if force else None))
        except Refused as error:
            if error.status != 404:
                raise

    def _ours(self, resource: str, token: str) -> bool:
        found = self.service.find(resource)
        return found is not None and (not token or _token(found) == token)

    def _wait(self, operation: dict[str, Any]) -> None:
        self.service.wait(operation, operation.get("name", ""))


def _node(node: dict[str, Any], token: str) -> Found:
    state = NODE_STATES.get(node.get("state", ""), State.CREATING)
    ours = bool(token) and _token(node) == token
    if state != State.READY:
        return Found(state, ours, said=node.get("healthDescription", ""))
    name = node["name"].rpartition("/")[2]
    machines = [
        Machine(
            name if len(node["networkEndpoints"]) == 1 else f"{name}-{index}",
            f"tpu.{node.get('id', name)}-{index}",
            each.get("ipAddress", ""),
            each.get("accessConfig", {}).get("externalIp", ""),
        )
        for index, each in enumerate(node["networkEndpoints"])
    ]
    return Found(state, ours, tuple(machines))


def _token(resource: dict[str, Any]) -> str:
    """Of a node, or of the node that a queued resource is for."""
    specifications = resource.get("tpu", {}).get("nodeSpec", [])
    node = specifications[0].get("node", {}) if specifications else resource
    return node.get("labels", {}).get(LABEL, "")


def _reason(state: dict[str, Any], stage: str) -> str:
    """Google's words on why a queued resource failed or was taken away."""
    error = state.get("failedData", {}).get("error", {})
    if error:
        return f"{error.get('code', '')}: {error.get('message', '')}"
    by = state.get("stateInitiator", "")
    return "taken away by Google" if stage in ("SUSPENDING", "SUSPENDED") and by == "SERVICE" else ""


def _body(creation: Creation) -> dict[str, Any]:
    wanted = slices.find(creation.kind)
    network, _, subnetwork = (creation.network or "default").partition("/")
    node = {
        "acceleratorType": wanted.legacy_name,
        "runtimeVersion": creation.image or wanted.family.software,
        "networkConfig": {
            "network": network,
            "enableExternalIps": not creation.internal,
            **({"subnetwork": subnetwork} if subnetwork else {}),
        },
        "serviceAccount": {"scope": [SCOPE]},
        "labels": creation.label,
        "metadata": {"ssh-keys": creation.key},
    }
    parent = f"projects/{creation.project}/locations/{creation.zone}"
    specification = {"parent": parent, "nodeId": creation.name, "node": node}
    return {"tpu": {"nodeSpec": [specification]}, **({"spot": {}} if creation.spot else {})}
