"""A fake Google Cloud: stateful REST APIs of Compute Engine and Cloud TPU with fault injection.

Written from Google's API reference, independently of our client. State changes only on requests: an operation completes
when it is polled for the second time, machines become ready then, and tests preempt them with `take`.
"""

import contextlib
import http.server
import json
import re
import sys
import threading
import traceback
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

PROJECT, ZONE, REGION = "a-project", "us-east5-b", "us-east5"
COMPUTE, TPU = "/compute/v1/", "/v2/"
HOSTS = {"v4-8": 1, "v4-16": 2, "v5litepod-4": 1, "v5litepod-16": 4, "v6e-16": 4, "v5p-8": 1}
CHIPS = {"ct6e-standard-4t": 4, "ct5p-hightpu-4t": 4, "tpu7x-standard-4t": 4, "ct6e-standard-1t": 1}


class Error(Exception):
    """An HTTP error response."""

    def __init__(self, status: int, message: str, reason: str = "", *, after: int | None = None):
        self.status, self.message, self.reason, self.after = status, message, reason, after


@dataclass
class Fault:
    """A fault in the next `times` matching calls. answer: the error response. lost: the connection breaks, after the
    call has taken effect if `done`. operation: the call succeeds, but its operation fails.
    """

    match: str
    times: int = 1
    answer: Error | None = None
    lost: bool = False
    done: bool = False
    operation: tuple[str, str] | None = None


@dataclass
class Cloud:
    """State of both APIs. resources: all existing resources by path. calls: METHOD PATH of all calls, in order."""

    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    operations: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    addresses: list[str] = field(default_factory=lambda: ["127.0.0.1"] * 64)
    machines_ready: bool = True  # false: groups and queued resources wait for machines
    capacity: int = 1000  # machines available to a group
    said: tuple[str, str] | None = None  # why a group or queued resource gets no machines
    on_call: Callable[[str], None] = lambda call: None
    lock: threading.RLock = field(default_factory=threading.RLock)
    count: int = 0

    # For tests.

    def fail(self, match: str, **what: Any) -> None:
        self.faults.append(Fault(match, **what))

    @property
    def alive(self) -> set[str]:
        """Returns KIND/NAME of all existing resources, including machines of groups."""
        return {"/".join(path.split("/")[-2:]) for path in self.resources}

    def made(self, method: str = "POST") -> list[str]:
        """Returns KIND or KIND/NAME of all calls with a mutating method, in order."""
        calls = [call.split(" ")[1] for call in self.calls if call.startswith(method)]
        return [re.sub(r".*/(zones|locations|regions|global)(/[^/]*-[^/]*)?/", "", call) for call in calls
                if "listManaged" not in call]  # fmt: skip

    def at(self, kind_and_name: str) -> dict[str, Any]:
        return next(value for path, value in self.resources.items() if path.endswith(f"/{kind_and_name}"))

    def take(self, kind_and_name: str, status: str) -> None:
        """Changes the state of a machine, node, or queued resource; "" deletes it."""
        with self.lock:
            path = next(path for path in self.resources if path.endswith(f"/{kind_and_name}"))
            if not status:
                del self.resources[path]
            elif "/queuedResources/" in path:
                self.resources[path]["state"] = {"state": status, "stateInitiator": "SERVICE"}
            elif "/nodes/" in path:
                self.resources[path]["state"] = status
            else:
                self.resources[path]["status"] = status

    # Both APIs.

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> dict[str, Any]:
        self.calls.append(f"{method} {path}")
        self.bodies.append(body)
        if path.startswith(COMPUTE):
            return self._compute(method, path.removeprefix(COMPUTE), query, body or {})
        return self._tpu(method, path.removeprefix(TPU), query, body or {})

    def _found(self, path: str) -> dict[str, Any]:
        if path not in self.resources:
            raise Error(404, f"The resource '{path}' was not found", "notFound")
        return self.resources[path]

    def _free(self, path: str) -> None:
        if path in self.resources:
            raise Error(409, f"The resource '{path}' already exists", "alreadyExists")

    def _number(self) -> str:
        self.count += 1
        return str(10**6 + self.count)

    def _operation(self, name: str, finish: Callable[[], None], request: str, fault: Fault | None) -> dict[str, Any]:
        """Starts an operation. finish: applies its effect, for operations that take effect only on completion."""
        operation = {"name": name, "looks": 0, "finish": finish, "fault": fault}
        self.operations[name] = operation
        if request:
            self.requests[request] = name
        return operation

    def _looked(self, name: str) -> dict[str, Any]:
        operation = self.operations.get(name)
        if operation is None:
            raise Error(404, f"no operation {name}", "notFound")
        operation["looks"] += 1
        if operation["looks"] == 2 and not operation["fault"]:
            operation["finish"]()
        return operation

    # Compute Engine.

    def _compute(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        parts = path.split("/")
        if "operations" in parts:
            operation = self._looked(path.rpartition("/")[2])
            return self._compute_operation(operation)
        if parts[-1] == "listManagedInstances":
            return {"managedInstances": self._managed(path.rpartition("/")[0])}
        is_list = parts[-1] in ("instances", "instanceGroupManagers")
        if method == "GET":
            if is_list:
                return {"items": [value for key, value in self.resources.items() if key.rpartition("/")[0] == path]}
            found = self._found(path)
            return self._group(path) if "instanceGroupManagers" in parts else found
        fault = self._operation_fault(f"{method} {path}")
        if method == "POST":
            request = query.get("requestId", "")
            if request in self.requests:
                return self._compute_operation(self.operations[self.requests[request]])
            target = f"{path}/{body['name']}"
            self._free(target)
            if not fault:
                self.resources[target] = self._inserted(target, body)
            return self._compute_operation(self._operation(f"operation-{self._number()}", lambda: None, request, fault))
        assert method == "DELETE"
        self._found(path)
        for other, value in self.resources.items():
            named = [value.get("instanceTemplate", ""), value.get("resourcePolicies", {}).get("workloadPolicy", "")]
            if other != path and any(path.endswith(each) for each in named if each):
                raise Error(400, f"'{path}' is already being used by '{other}'", "resourceInUseByAnotherResource")

        def finish() -> None:
            self.resources.pop(path, None)
            for machine in [key for key, value in self.resources.items() if value.get("group") == path]:
                del self.resources[machine]

        return self._compute_operation(self._operation(f"operation-{self._number()}", finish, "", fault))

    def _compute_operation(self, operation: dict[str, Any]) -> dict[str, Any]:
        done = operation["looks"] >= 2
        shown: dict[str, Any] = {"name": operation["name"], "status": "DONE" if done else "RUNNING"}
        if done and operation["fault"]:
            code, message = operation["fault"].operation
            shown["error"] = {"errors": [{"code": code, "message": message}]}
        return shown

    def _inserted(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        zone = path.split("/")[3]
        if "/instances/" in path:
            assert body["machineType"].startswith(f"projects/{PROJECT}/zones/{zone}/machineTypes/")
            return self._machine(body, body["name"])
        if "/instanceTemplates/" in path:
            assert "/" not in body["properties"]["machineType"]
        if "/instanceGroupManagers/" in path:
            self._found(body["instanceTemplate"])
            self._found(body["resourcePolicies"]["workloadPolicy"])
        return {**body, "id": self._number()}

    def _machine(self, properties: dict[str, Any], name: str) -> dict[str, Any]:
        number = self._number()
        address = self.addresses[len([key for key in self.resources if "/instances/" in key])]
        interface = properties["networkInterfaces"][0]
        given = [{**each, "natIP": address} for each in interface.get("accessConfigs", [])]
        status = "RUNNING" if self.machines_ready else "PROVISIONING"
        own = {"name": name, "id": number, "status": status}
        return {**properties, **own, "networkInterfaces": [{"networkIP": address, "accessConfigs": given}]}

    def _group(self, path: str) -> dict[str, Any]:
        listed = self._managed(path)
        stable = all(each["currentAction"] == "NONE" for each in listed)
        return {**self.resources[path], "status": {"isStable": stable}}

    def _managed(self, path: str) -> list[dict[str, Any]]:
        """Creates the missing machines of a group, once each; the group does not repair machines."""
        group = self._found(path)
        zone = path.partition("/instanceGroupManagers/")[0]
        group.setdefault("ever", 0)
        while self.machines_ready and group["ever"] < min(group["targetSize"], self.capacity):
            template = self._found(group["instanceTemplate"])["properties"]
            name = f"{group['baseInstanceName']}-{group['ever']:04d}"
            machine = self._machine(template, name) | {"group": path}
            machine["metadata"] = {"items": [*template["metadata"]["items"], {"key": "created-by", "value": path}]}
            self.resources[f"{zone}/instances/{name}"] = machine
            group["ever"] += 1
        listed = [
            {"instance": f"https://compute.googleapis.com/compute/v1/{key}", "instanceStatus": value["status"],
             "currentAction": "NONE"}
            for key, value in self.resources.items() if value.get("group") == path
        ]  # fmt: skip
        for index in range(group["ever"], group["targetSize"]):
            errors = (
                {"errors": {"errors": [dict(zip(("code", "message"), self.said, strict=True))]}} if self.said else {}
            )
            url = f"https://compute.googleapis.com/compute/v1/{zone}/instances/missing-{index}"
            listed.append({"instance": url, "currentAction": "CREATING", "lastAttempt": errors})
        return listed

    # Cloud TPU API.

    def _tpu(self, method: str, path: str, query: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
        if "/operations/" in path:
            return self._tpu_operation(self._looked(path))
        kind = next(each for each in ("queuedResources", "nodes") if f"/{each}" in path)
        zone = path.partition(f"/{kind}")[0]
        if method == "GET":
            if path.endswith(f"/{kind}"):
                return {kind: [value for key, value in self.resources.items() if key.startswith(f"{path}/")]}
            found = self._found(path)
            if kind == "queuedResources":
                self._advance(found, zone)
            return found
        fault = self._operation_fault(f"{method} {path}")
        if method == "POST":
            assert kind == "queuedResources"
            request = query.get("requestId", "")
            if request in self.requests:
                return self._tpu_operation(self.operations[self.requests[request]])
            target = f"{path}/{query['queuedResourceId']}"
            self._free(target)
            (specification,) = body["tpu"]["nodeSpec"]
            if specification["node"]["acceleratorType"] not in HOSTS:
                raise Error(
                    400, f"unknown accelerator type {specification['node']['acceleratorType']}", "INVALID_ARGUMENT"
                )
            if not fault:
                self.resources[target] = {**body, "name": target, "state": {"state": "ACCEPTED"}}
        else:
            assert method == "DELETE"
            found = self._found(path)
            if kind == "queuedResources" and found["state"]["state"] not in ("FAILED", "SUSPENDED", "ACCEPTED"):
                if query.get("force") != "true":
                    raise Error(400, "queued resource is ACTIVE; use force", "FAILED_PRECONDITION")
            elif kind == "nodes" and "queuedResource" in found and found["queuedResource"] in self.resources:
                raise Error(400, "the node belongs to a queued resource", "FAILED_PRECONDITION")
            target = path

        def finish() -> None:
            if method == "DELETE":
                gone = self.resources.pop(target, {})
                for each in gone.get("tpu", {}).get("nodeSpec", []):
                    self.resources.pop(f"{zone}/nodes/{each['nodeId']}", None)

        request = query.get("requestId", "")
        name = f"{zone}/operations/operation-{self._number()}"
        return self._tpu_operation(self._operation(name, finish, request, fault))

    def _tpu_operation(self, operation: dict[str, Any]) -> dict[str, Any]:
        done = operation["looks"] >= 2
        shown: dict[str, Any] = {"name": operation["name"], "done": done}
        if done and operation["fault"]:
            shown["error"] = {"code": 8, "message": operation["fault"].operation[1]}
        return shown

    def _advance(self, queued: dict[str, Any], zone: str) -> None:
        """Advances by one state: ACCEPTED, WAITING_FOR_RESOURCES, PROVISIONING, ACTIVE; the node is ready later."""
        state = queued["state"]["state"]
        if state == "ACCEPTED":
            following = "WAITING_FOR_RESOURCES"
        elif state == "WAITING_FOR_RESOURCES" and self.said:
            code, message = self.said
            queued["state"] = {"state": "FAILED", "failedData": {"error": {"code": code, "message": message}}}
            return
        elif state == "WAITING_FOR_RESOURCES" and self.machines_ready:
            following = "PROVISIONING"
        elif state == "PROVISIONING":
            (specification,) = queued["tpu"]["nodeSpec"]
            path = f"{zone}/nodes/{specification['nodeId']}"
            self.resources[path] = self._node(specification["node"], path) | {"queuedResource": queued["name"]}
            following = "ACTIVE"
        else:
            return
        queued["state"] = {"state": following}

    def _node(self, node: dict[str, Any], path: str) -> dict[str, Any]:
        count = HOSTS[node["acceleratorType"]]
        external = node.get("networkConfig", {}).get("enableExternalIps", True)
        endpoints = [
            {"ipAddress": address, "port": 8470, **({"accessConfig": {"externalIp": address}} if external else {})}
            for address in self.addresses[:count]
        ]
        return {**node, "name": path, "id": self._number(), "state": "READY", "networkEndpoints": endpoints}

    # Faults.

    def fault_for(self, call: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.operation is None and re.search(fault.match, call):
                fault.times -= 1
                return fault
        return None

    def _operation_fault(self, call: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.operation is not None and re.search(fault.match, call):
                fault.times -= 1
                return fault
        return None


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # send a response in one packet
    cloud: Cloud

    def log_message(self, *arguments: Any) -> None:
        pass

    def _serve(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        call = f"{self.command} {url.path}"
        cloud = self.cloud
        cloud.on_call(call)
        with cloud.lock:
            fault = cloud.fault_for(call)
            try:
                if fault and (fault.answer or not fault.done):
                    cloud.calls.append(call)
                    cloud.bodies.append(body)
                    if fault.answer:
                        raise fault.answer
                else:
                    answer = cloud.answer(self.command, url.path, query, body)
                if fault:
                    self.close_connection = True
                    return
                status, headers = 200, {}
            except Error as error:
                status = error.status
                reason = {"reason": error.reason, "message": error.message}
                answer = {
                    "error": {"code": status, "message": error.message, "status": error.reason, "errors": [reason]}
                }
                headers = {} if error.after is None else {"Retry-After": str(error.after)}
        data = json.dumps(answer, default=str).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = _serve


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    broken: list[str]

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), OSError):  # raised when clients disconnect
            self.broken.append(traceback.format_exc())


@contextlib.contextmanager
def serve() -> Iterator[tuple[Cloud, dict[str, str]]]:
    """Yields the cloud, and the environment variables that redirect clients to it."""
    cloud = Cloud()
    server = Server(("127.0.0.1", 0), type("CloudHandler", (Handler,), {"cloud": cloud}))
    server.broken = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield cloud, {
            "COMPUTE_EMULATOR_HOST": address + COMPUTE.rstrip("/"), "TPU_EMULATOR_HOST": address + TPU.rstrip("/")
        }  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()
    assert server.broken == []
