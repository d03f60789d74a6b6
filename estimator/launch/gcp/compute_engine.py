"""`--tpu NAME` in Compute Engine: an instance, or a managed instance group of the machines of one slice.

A slice of one machine is an instance. A larger one is a group whose template says what each machine is, and whose
workload policy says how their chips are wired; all three are made and removed together. The group leaves a
machine that failed as it is: the launcher replaces a slice as a whole.
"""

from typing import Any

from estimator.launch.gcp import slices
from estimator.launch.gcp.interface import Found, Machine
from estimator.launch.gcp.ledger import LABEL, Creation
from estimator.launch.gcp.rest import SCOPE, Refused, Service, Time
from estimator.launch.gcp.settings import Cloud
from estimator.launch.interfaces import State
from estimator.launch.ssh_hosts import SshHost

BASE, EMULATOR = "https://compute.googleapis.com/compute/v1", "COMPUTE_EMULATOR_HOST"
DISK_GB = 100
INSTANCES, GROUPS, TEMPLATES, POLICIES = "instances", "instanceGroupManagers", "instanceTemplates", "resourcePolicies"
STATES = {
    "PROVISIONING": State.CREATING,
    "STAGING": State.CREATING,
    "PENDING": State.CREATING,
    "REPAIRING": State.CREATING,
    "RUNNING": State.READY,
    "SUSPENDED": State.STOPPED,
    "TERMINATED": State.STOPPED,
    "STOPPED": State.STOPPED,
}  # all others are on their way to another one
# How a machine of a group knows which of the slice's it is.
NUMBER = """curl -sf -m 5 -H 'Metadata-Flavor: Google' \
"http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1/instance/attributes/agent-worker-number\""""


class ComputeEngine:
    """Compute Engine's REST interface, version 1."""

    api: slices.Api = "compute"

    def __init__(self, *, base: str = BASE, at: Time | None = None):
        self.service = Service(base, emulator=EMULATOR, at=at)

    # Existing machines.

    def look(self, name: str, cloud: Cloud, token: str) -> Found:
        for path in self.main(name, cloud):
            if resource := self.service.find(path):
                return (self._group if GROUPS in path else _instance)(resource, path, token)
        return Found(State.GONE)

    def main(self, name: str, cloud: Cloud) -> tuple[str, ...]:
        zone = f"projects/{cloud.project}/zones/{cloud.zone}"
        region = f"projects/{cloud.project}/regions/{cloud.region}"
        return f"{zone}/{GROUPS}/{name}", f"{zone}/{INSTANCES}/{name}", f"{region}/{GROUPS}/{name}"

    def names(self, cloud: Cloud) -> list[str]:
        zone = f"projects/{cloud.project}/zones/{cloud.zone}"
        groups = self.service.all(f"{zone}/{GROUPS}", "items")
        instances = self.service.all(f"{zone}/{INSTANCES}", "items")
        tpus = [each for each in instances if _last(each.get("machineType", "")).startswith(("ct", "tpu"))]
        alone = [each for each in tpus if not _metadata(each, "created-by")]  # a group's machines have its name there
        return [each["name"] for each in [*groups, *alone]]

    def _group(self, group: dict[str, Any], path: str, token: str) -> Found:
        listed = self.service.call("POST", f"{path}/listManagedInstances").get("managedInstances", [])
        template = _last(group.get("instanceTemplate", ""))
        ours = bool(token) and template.endswith(f"-{token}")
        said = _errors(listed)
        target = int(group.get("targetSize", 0))
        if any(each.get("currentAction", "NONE") != "NONE" for each in listed):
            return Found(State.CREATING, ours, said=said, error=said)
        if target == 0:
            return Found(State.STOPPED, ours, said="the group has no machines; resize it")
        if len(listed) < target:
            steady = group.get("status", {}).get("isStable", False)
            return Found(State.PREEMPTED if steady else State.CREATING, ours, said=said, error=said)
        looks = []
        for each in listed:
            where = _path(each["instance"])
            machine = self.service.find(where)
            if machine is None:  # since the list was made
                return Found(State.CREATING, ours)
            looks.append(_instance(machine, where, token))
        # The slice is as its worst machine is.
        for state in (State.PREEMPTED, State.STOPPED, State.DELETING, State.CREATING):
            if any(look.state == state for look in looks):
                return Found(state, ours, said=said)
        machines = sorted((machine for look in looks for machine in look.machines), key=_natural)
        return Found(State.READY, ours, tuple(machines))

    def ordered(self, hosts: list[SshHost]) -> list[SshHost]:
        """Sorts hosts by their numbers in the slice, or leaves them in the order of names where these are unknown."""
        if len(hosts) == 1:
            return hosts
        told = [host.run(NUMBER) for host in hosts]
        numbers = [int(each.out) if each.code == 0 and each.out.strip().isdigit() else -1 for each in told]
        if sorted(numbers) != list(range(len(hosts))):
            return hosts
        return [host for _, host in sorted(zip(numbers, hosts, strict=True), key=lambda pair: pair[0])]

    # Creation and deletion.

    def planned(self, creation: Creation) -> tuple[str, ...]:
        project = f"projects/{creation.project}"
        zone, region = f"{project}/zones/{creation.zone}", f"{project}/regions/{creation.zone.rpartition('-')[0]}"
        if slices.find(creation.kind).hosts == 1:
            return (f"{zone}/{INSTANCES}/{creation.name}",)
        part = f"{creation.name}-{creation.token}"
        return (
            f"{region}/{POLICIES}/{part}",
            f"{project}/global/{TEMPLATES}/{part}",
            f"{zone}/{GROUPS}/{creation.name}",
        )

    def make(self, resource: str, creation: Creation) -> None:
        collection, _, name = resource.rpartition("/")
        body = {"name": name, **_BODIES[_last(collection)](creation)}
        try:
            operation = self.service.call(
                "POST", collection, parameters={"requestId": creation.request(resource)}, body=body
            )
        except Refused as error:
            if error.status == 409 and self._ours(resource, creation.token):
                return
            raise
        self._wait(operation, collection)

    def remove(self, resource: str, token: str) -> bool:
        if not self._ours(resource, token):
            return False
        try:
            self._wait(self.service.call("DELETE", resource), resource.rpartition("/")[0])
        except Refused as error:
            if error.status != 404:
                raise
        return True

    def _ours(self, resource: str, token: str) -> bool:
        found = self.service.find(resource)
        if found is None or not token:
            return found is not None
        if f"/{INSTANCES}/" in resource:
            return found.get("labels", {}).get(LABEL) == token
        named = found.get("instanceTemplate", "") if f"/{GROUPS}/" in resource else found["name"]
        return named.endswith(f"-{token}")

    def _wait(self, operation: dict[str, Any], collection: str) -> None:
        scope = collection.rpartition("/")[0]
        self.service.wait(operation, f"{scope}/operations/{operation.get('name', '')}")


def _instance(instance: dict[str, Any], path: str, token: str) -> Found:
    status = instance.get("status", "")
    state = STATES.get(status, State.DELETING)
    scheduling = instance.get("scheduling", {})
    spot = scheduling.get("provisioningModel") == "SPOT" or scheduling.get("preemptible", False)
    if state == State.STOPPED and spot:
        state = State.PREEMPTED  # it cannot be started again
    ours = bool(token) and instance.get("labels", {}).get(LABEL) == token
    if state != State.READY:
        return Found(state, ours, said=instance.get("statusMessage", ""))
    interface = (instance.get("networkInterfaces") or [{}])[0]
    external = next((each["natIP"] for each in interface.get("accessConfigs", []) if each.get("natIP")), "")
    machine = Machine(instance["name"], f"compute.{instance['id']}", interface.get("networkIP", ""), external)
    return Found(state, ours, (machine,))


def _machine(creation: Creation, *, within: str) -> dict[str, Any]:
    """The common part of instances and templates. within: "" or the zone, by which an instance names its types."""
    wanted = slices.find(creation.kind)
    network, _, subnetwork = (creation.network or "default").partition("/")
    interface: dict[str, Any] = {"network": f"projects/{creation.project}/global/networks/{network}"}
    if subnetwork:
        region = creation.zone.rpartition("-")[0]
        interface["subnetwork"] = f"projects/{creation.project}/regions/{region}/subnetworks/{subnetwork}"
    if not creation.internal:
        interface["accessConfigs"] = [{"name": "External NAT", "type": "ONE_TO_ONE_NAT"}]
    image = creation.image or wanted.family.image
    disk = {"sourceImage": image, "diskSizeGb": str(DISK_GB), "diskType": f"{within}{wanted.family.disk}"}
    scheduling: dict[str, Any] = {"onHostMaintenance": "TERMINATE"}
    if creation.spot:
        scheduling |= {"provisioningModel": "SPOT", "instanceTerminationAction": "STOP", "automaticRestart": False}
    return {
        "labels": creation.label,
        "disks": [{"boot": True, "autoDelete": True, "initializeParams": disk}],
        "networkInterfaces": [interface],
        "scheduling": scheduling,
        "serviceAccounts": [{"email": "default", "scopes": [SCOPE]}],
        "metadata": {"items": [{"key": "ssh-keys", "value": creation.key}]},
    }


def _instance_body(creation: Creation) -> dict[str, Any]:
    within = f"projects/{creation.project}/zones/{creation.zone}"
    machine = slices.find(creation.kind).machine
    return {"machineType": f"{within}/machineTypes/{machine}", **_machine(creation, within=f"{within}/diskTypes/")}


def _template_body(creation: Creation) -> dict[str, Any]:
    return {"properties": {"machineType": slices.find(creation.kind).machine, **_machine(creation, within="")}}


def _policy_body(creation: Creation) -> dict[str, Any]:
    return {"workloadPolicy": {"type": "HIGH_THROUGHPUT", "acceleratorTopology": slices.find(creation.kind).shape}}


def _group_body(creation: Creation) -> dict[str, Any]:
    part = f"{creation.name}-{creation.token}"
    region = creation.zone.rpartition("-")[0]
    return {
        "baseInstanceName": creation.name,
        "instanceTemplate": f"projects/{creation.project}/global/{TEMPLATES}/{part}",
        "targetSize": slices.find(creation.kind).hosts,
        "resourcePolicies": {"workloadPolicy": f"projects/{creation.project}/regions/{region}/{POLICIES}/{part}"},
        "instanceLifecyclePolicy": {"defaultActionOnFailure": "DO_NOTHING"},
    }


_BODIES = {INSTANCES: _instance_body, TEMPLATES: _template_body, POLICIES: _policy_body, GROUPS: _group_body}


def _errors(listed: list[dict[str, Any]]) -> str:
    """Reasons why a group made no machines, each once."""
    found = {}
    for each in listed:
        for error in each.get("lastAttempt", {}).get("errors", {}).get("errors", []):
            found[f"{error.get('code', '')}: {error.get('message', '')}"] = None
    return "; ".join(found)


def _metadata(instance: dict[str, Any], key: str) -> str:
    items = instance.get("metadata", {}).get("items", [])
    return next((each.get("value", "") for each in items if each.get("key") == key), "")


def _natural(machine: Machine) -> list[tuple[int, str]]:
    return [(len(part), part) for part in machine.name.split("-")]


def _path(url: str) -> str:
    """projects/... of a resource that is named by its whole URL."""
    return url[url.index("projects/") :]


def _last(url: str) -> str:
    return url.rpartition("/")[2]
