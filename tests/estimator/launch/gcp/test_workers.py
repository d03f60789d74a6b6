"""TPU workers through the Compute Engine and TPU APIs: correct calls under all failures, and no leaked resources."""

import json
import re
from pathlib import Path

import pytest
from helpers.google_cloud import PROJECT, REGION, ZONE, Error

from estimator.errors import UserError
from estimator.launch.gcp import ledger
from estimator.launch.gcp import workers as google_workers
from estimator.launch.gcp.compute_engine import ComputeEngine
from estimator.launch.gcp.interface import Order
from estimator.launch.gcp.provider import GoogleProvider
from estimator.launch.gcp.rest import Service, Time, Unavailable
from estimator.launch.gcp.settings import Cloud
from estimator.launch.gcp.tpu_api import TpuApi
from estimator.launch.interfaces import HostLost, Output, State
from estimator.launch.ssh_hosts import SshHost

WHERE = Cloud(PROJECT, ZONE)
# A single-host and a multi-host slice for each API.
KINDS = [("compute", "v5p-8"), ("compute", "v6e-16"), ("tpu", "v4-8"), ("tpu", "v5e-16")]
INTERFACES = {"compute": ComputeEngine, "tpu": TpuApi}


class Clock:
    """A fake clock that advances only when something sleeps."""

    def __init__(self):
        self.seconds = 1000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        self.slept.append(seconds)

    @property
    def time(self) -> Time:
        return Time(lambda: self.seconds, self.sleep)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(autouse=True)
def _reachable(monkeypatch):
    """Makes every host reachable over SSH; commands succeed without running anything."""
    monkeypatch.setattr(SshHost, "run", lambda self, script, **options: Output(0, b"", ""))


def provider(api: str, clock: Clock, order: Order | None = None) -> GoogleProvider:
    return GoogleProvider(INTERFACES[api](at=clock.time), WHERE, order)


def ordered(api: str, kind: str, clock: Clock, **options):
    """Finds or creates the workers `pod` as a launcher does, both at first and after a restart."""
    one = provider(api, clock, Order(kind, **options))
    return one.find("pod") or one.create("pod")


def bring_up(workers, clock: Clock, looks: int = 200) -> list[State]:
    """Polls as the supervisor does until the workers are ready, and returns the states without repetitions."""
    seen: list[State] = []
    for _ in range(looks):
        state = workers.state()
        if state not in seen[-1:]:
            seen.append(state)
        if state == State.READY:
            return seen
        if state in (State.PREEMPTED, State.GONE):
            assert workers.replaceable
            if state == State.PREEMPTED:
                workers.delete()
            workers.create()
        clock.sleep(10)
    raise AssertionError(f"not ready: {seen}")


def token() -> str:
    return ledger.recorded("pod").token


def all_of(kind: str) -> set[str]:
    """Returns the resources of a complete creation."""
    machines = {f"instances/pod-{index:04d}" for index in range(4)}
    group = {f"instanceTemplates/pod-{token()}", f"resourcePolicies/pod-{token()}", "instanceGroupManagers/pod"}
    queued = {"queuedResources/pod", "nodes/pod"}
    return {"v5p-8": {"instances/pod"}, "v6e-16": group | machines, "v4-8": queued, "v5e-16": queued}[kind]


# Creation and deletion.


@pytest.mark.parametrize("spot", [False, True])
@pytest.mark.parametrize(("api", "kind"), KINDS)
def test_a_slice_is_created_and_deleted_whole(google, clock, api, kind, spot):
    workers = ordered(api, kind, clock, spot=spot)
    assert not workers.created
    assert bring_up(workers, clock)[-1] == State.READY
    assert google.alive == all_of(kind)
    assert workers.created
    hosts = workers.hosts()
    assert len(hosts) == {"v6e-16": 4, "v5e-16": 4}.get(kind, 1)
    assert len({host.name for host in hosts}) == len(hosts)
    body = next(
        body for call, body in zip(google.calls, google.bodies, strict=True) if call.startswith("POST") and body
    )
    text = json.dumps(google.bodies)
    assert body
    assert "me:ssh-ed25519 AAAA" in text
    assert ('"SPOT"' in text or '"spot": {}' in text) == spot
    workers.delete()
    assert google.alive == set()
    assert ledger.names() == []


def test_the_calls_for_a_group_are_these(google, clock):
    workers = ordered("compute", "v6e-16", clock)
    bring_up(workers, clock)
    part = f"pod-{token()}"
    assert google.made() == ["resourcePolicies", "instanceTemplates", "instanceGroupManagers"]
    policy, template, group = [body for call, body in zip(google.calls, google.bodies, strict=True)
                               if call.startswith("POST") and "listManaged" not in call]  # fmt: skip
    assert policy == {"name": part, "workloadPolicy": {"type": "HIGH_THROUGHPUT", "acceleratorTopology": "4x4"}}
    properties = template["properties"]
    assert properties["machineType"] == "ct6e-standard-4t"
    assert properties["scheduling"] == {"onHostMaintenance": "TERMINATE"}
    assert properties["labels"] == {ledger.LABEL: token()}
    assert properties["disks"][0]["autoDelete"]
    assert group == {
        "name": "pod",
        "baseInstanceName": "pod",
        "instanceTemplate": f"projects/{PROJECT}/global/instanceTemplates/{part}",
        "targetSize": 4,
        "resourcePolicies": {"workloadPolicy": f"projects/{PROJECT}/regions/{REGION}/resourcePolicies/{part}"},
        "instanceLifecyclePolicy": {"defaultActionOnFailure": "DO_NOTHING"},
    }
    workers.delete()
    assert google.made("DELETE") == [
        "instanceGroupManagers/pod", f"instanceTemplates/{part}", f"resourcePolicies/{part}"
    ]  # fmt: skip


def test_the_call_for_a_queued_resource_is_this(google, clock):
    bring_up(ordered("tpu", "v5e-16", clock, spot=True, network="net/sub"), clock)
    assert google.made() == ["queuedResources"]
    body = next(body for body in google.bodies if body)
    assert body["spot"] == {}
    (specification,) = body["tpu"]["nodeSpec"]
    assert (specification["parent"], specification["nodeId"]) == (f"projects/{PROJECT}/locations/{ZONE}", "pod")
    node = specification["node"]
    assert (node["acceleratorType"], node["runtimeVersion"]) == ("v5litepod-16", "v2-alpha-tpuv5-lite")
    assert node["networkConfig"] == {"network": "net", "subnetwork": "sub", "enableExternalIps": True}


@pytest.mark.parametrize(("api", "kind"), KINDS)
def test_what_will_be_created_is_on_disk_before_the_first_call_that_creates(google, clock, api, kind):
    seen = []

    def look(call: str) -> None:
        if call.startswith("POST") and "listManaged" not in call:
            seen.append(ledger.recorded("pod").resources)

    google.on_call = look
    bring_up(ordered(api, kind, clock), clock)
    assert seen
    made = {"/".join(path.split("/")[-2:]) for path in ledger.recorded("pod").resources}
    assert set(seen) == {ledger.recorded("pod").resources}
    assert made <= google.alive


# Kills.


class Killed(BaseException):
    """Simulates a launcher that is killed immediately."""


@pytest.fixture
def kill_at(monkeypatch):
    """Returns arm(number, after), which simulates a kill before or after the given API call."""
    send = Service._send

    def arm(number: int | None, after: bool) -> None:
        count = 0

        def counted(self, *arguments):
            nonlocal count
            count += 1
            if count == number and not after:
                raise Killed
            answer = send(self, *arguments)
            if count == number:
                raise Killed
            return answer

        monkeypatch.setattr(Service, "_send", counted)

    return arm


def is_killed(do) -> bool:
    try:
        do()
    except Killed:
        return True
    return False


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("api", "kind"), [("compute", "v5p-8"), ("compute", "v6e-16"), ("tpu", "v5e-16")])
def test_killed_at_any_call_the_next_launcher_completes_or_deletes_all(google, clock, kill_at, api, kind, after):
    """The next launcher either creates the workers again or is only asked to delete them."""
    for number in range(1, 60):
        ends = []
        for then in ("create", "delete"):
            kill_at(number, after)
            killed = is_killed(lambda: bring_up(ordered(api, kind, clock), clock))
            ends.append(killed)
            kill_at(None, False)
            if then == "create":
                bring_up(ordered(api, kind, clock), clock)
                assert google.alive == all_of(kind), f"killed at call {number}"
            if workers := provider(api, clock).recorded("pod"):
                workers.delete()
            assert google.alive == set(), f"killed at call {number}, then {then}"
            assert ledger.names() == []
        if not any(ends):
            assert number > 4
            return
    raise AssertionError("it never came to an end")


@pytest.mark.parametrize(("api", "kind"), [("compute", "v6e-16"), ("tpu", "v5e-16")])
def test_killed_while_deleting_the_next_deletes_the_rest(google, clock, kill_at, api, kind):
    for number in range(1, 40):
        bring_up(ordered(api, kind, clock), clock)
        workers = ordered(api, kind, clock)
        kill_at(number, True)
        killed = is_killed(workers.delete)
        kill_at(None, False)
        if workers := provider(api, clock).recorded("pod"):
            workers.delete()
        assert google.alive == set()
        if not killed:
            return
    raise AssertionError("it never came to an end")


# Rejected requests.

QUOTA = Error(403, "Quota 'TPUS_PER_TPU_FAMILY' exceeded. Limit: 0.0 in region us-east5.", "quotaExceeded")
TPU_QUOTA = Error(429, "Quota limit 'TPUV5sLitepodPerProjectPerZone' has been exceeded.", "RESOURCE_EXHAUSTED")
REFUSALS = [
    (QUOTA, "quota is too small: ask for more"),
    (TPU_QUOTA, "quota is too small: ask for more"),
    (Error(403, "Required 'compute.instances.create' permission", "forbidden"), "needs the roles TPU Admin"),
    (
        Error(403, "TPU API has not been used in project 1 before or it is disabled", "SERVICE_DISABLED"),
        "services enable",
    ),
    (Error(400, "Invalid value for field 'machineType'", "invalid"), "may not be offered in this zone"),
    (Error(404, "The resource 'networks/default' was not found", "notFound"), "check --tpu_project and --tpu_zone"),
]


@pytest.mark.parametrize(("api", "kind", "place"), [
    ("compute", "v5p-8", "instances$"), ("compute", "v6e-16", "resourcePolicies$"),
    ("compute", "v6e-16", "instanceTemplates$"), ("compute", "v6e-16", "instanceGroupManagers$"),
    ("tpu", "v5e-16", "queuedResources$"),
])  # fmt: skip
@pytest.mark.parametrize(("error", "words"), REFUSALS)
def test_what_is_refused_is_explained_and_what_was_made_before_is_deleted(
    google, clock, api, kind, place, error, words
):
    google.fail(f"POST .*{place}", answer=error)
    with pytest.raises(UserError, match=f"pod could not be created, and nothing of it is left: .*{words}"):
        bring_up(ordered(api, kind, clock), clock)
    assert google.alive == set()
    assert ledger.names() == []


@pytest.mark.parametrize(("api", "kind", "place"), [
    ("compute", "v5p-8", "instances$"), ("compute", "v6e-16", "instanceGroupManagers$"),
    ("tpu", "v4-8", "queuedResources$"),
])  # fmt: skip
def test_an_operation_that_fails_leaves_nothing(google, clock, api, kind, place):
    google.fail(f"POST .*{place}", operation=("QUOTA_EXCEEDED", "Quota 'TPUS' exceeded. Limit: 0.0"))
    with pytest.raises(UserError, match=r"nothing of it is left: .*Quota 'TPUS' exceeded.*ask for more"):
        bring_up(ordered(api, kind, clock), clock)
    assert google.alive == set()


@pytest.mark.parametrize(("api", "kind"), KINDS)
def test_a_name_that_somebody_else_takes_meanwhile_stays_theirs(google, clock, api, kind):
    workers = ordered(api, kind, clock)
    main = {"v5p-8": "instances", "v6e-16": "instanceGroupManagers"}.get(kind, "queuedResources")
    where = f"projects/{PROJECT}/{'zones' if api == 'compute' else 'locations'}/{ZONE}/{main}/pod"
    assert workers.state() == State.GONE
    google.resources[where] = {
        "name": "pod",
        "instanceTemplate": "theirs",
        "targetSize": 0,
        "state": {"state": "FAILED"},
    }
    with pytest.raises(UserError, match=r"409: .*already exists.*take another name"):
        workers.create()
    assert google.alive == {f"{main}/pod"}
    assert ledger.names() == []


@pytest.mark.parametrize(("api", "kind"), KINDS)
@pytest.mark.parametrize("what", [
    {"answer": Error(429, "Too many requests", "RESOURCE_EXHAUSTED", after=17)},
    {"answer": Error(403, "Rate Limit Exceeded", "rateLimitExceeded", after=17)},
    {"answer": Error(500, "Internal error", "backendError", after=17)},
    {"answer": Error(503, "Unavailable", "UNAVAILABLE", after=17)},
    {"lost": True}, {"lost": True, "done": True},
], ids=["429", "403 rate", "500", "503", "lost", "lost after"])  # fmt: skip
def test_what_passes_is_waited_out_and_creates_nothing_twice(google, clock, api, kind, what):
    for method in ("GET", "POST", "DELETE"):
        google.fail(f"{method} .*(pod|s)$", times=3, **what)
    workers = ordered(api, kind, clock)
    bring_up(workers, clock)
    assert google.alive == all_of(kind)
    if "answer" in what:
        assert 17 in clock.slept
    workers.delete()
    assert google.alive == set()
    assert all(fault.times == 0 for fault in google.faults)


@pytest.mark.parametrize(("api", "kind"), KINDS)
def test_after_an_outage_the_same_creation_is_completed(google, clock, api, kind):
    google.fail("POST", times=8, answer=Error(503, "Unavailable", "UNAVAILABLE"))
    with pytest.raises(Unavailable, match=r"8 times in a row \(503: Unavailable"):
        bring_up(ordered(api, kind, clock), clock)
    first = token()
    bring_up(ordered(api, kind, clock), clock)
    assert token() == first
    assert google.alive == all_of(kind)


def test_a_creation_that_can_neither_be_completed_nor_taken_back_says_both(google, clock):
    google.fail("POST .*instanceGroupManagers$", answer=REFUSALS[2][0])
    google.fail("DELETE", answer=Error(403, "Required permission to delete", "forbidden"))
    with pytest.raises(
        UserError, match=r"could not be created .*, and what there is of it could not be deleted .*to del"
    ):
        bring_up(ordered("compute", "v6e-16", clock), clock)
    assert ledger.names() == ["pod"]
    provider("compute", clock).recorded("pod").delete()
    assert google.alive == set()


def test_words_about_the_health_of_a_node_are_not_taken_for_a_refusal(google, clock):
    workers = ordered("tpu", "v4-8", clock)
    bring_up(workers, clock)
    google.take("nodes/pod", "REPAIRING")
    google.at("nodes/pod")["healthDescription"] = "memory limit of a process exceeded; quota of retries used up"
    assert workers.state() == State.CREATING
    assert google.alive == all_of("v4-8")


def test_a_deletion_that_fails_says_so_and_can_be_repeated(google, clock):
    workers = ordered("compute", "v6e-16", clock)
    bring_up(workers, clock)
    google.fail("DELETE .*instanceTemplates", answer=Error(403, "Required permission", "forbidden"))
    with pytest.raises(UserError, match=r"pod could not be deleted, so it may cost money .*try --tpu_delete pod"):
        workers.delete()
    assert google.alive == {f"instanceTemplates/pod-{token()}", f"resourcePolicies/pod-{token()}"}
    provider("compute", clock).recorded("pod").delete()
    assert google.alive == set()


# No capacity.

STOCKOUT = ("ZONE_RESOURCE_POOL_EXHAUSTED", "The zone does not have enough resources available")


def test_where_there_are_no_machines_an_instance_is_asked_for_again_and_again(google, clock, capfd):
    google.fail("POST .*instances$", times=3, operation=STOCKOUT)
    assert bring_up(ordered("compute", "v5p-8", clock), clock) == [State.GONE, State.CREATING, State.READY]
    assert google.alive == {"instances/pod"}
    assert re.findall(r"next attempt in (\d+) s", capfd.readouterr().err) == ["20", "40", "80"]


def test_a_group_that_gets_some_of_its_machines_is_waited_for(google, clock, capfd):
    google.capacity, google.said = 2, STOCKOUT
    workers = ordered("compute", "v6e-16", clock)
    with pytest.raises(AssertionError, match="not ready"):
        bring_up(workers, clock, looks=20)
    assert len([each for each in google.alive if each.startswith("instances/")]) == 2
    assert capfd.readouterr().err.count("does not have enough resources") == 1
    google.capacity = 4
    bring_up(workers, clock)
    assert google.alive == all_of("v6e-16")


def test_a_group_that_may_not_get_the_others_is_deleted(google, clock):
    google.capacity, google.said = 2, ("QUOTA_EXCEEDED", "Quota 'TPUS' exceeded.")
    with pytest.raises(UserError, match=r"nothing of it is left: QUOTA_EXCEEDED.*ask for more"):
        bring_up(ordered("compute", "v6e-16", clock), clock)
    assert google.alive == set()


def test_a_queued_resource_that_fails_is_queued_again_and_for_want_of_quota_deleted(google, clock):
    google.said = (8, "There is no more capacity in the zone")
    workers = ordered("tpu", "v5e-16", clock)
    with pytest.raises(AssertionError, match="not ready"):
        bring_up(workers, clock, looks=30)
    assert google.alive <= {"queuedResources/pod"}
    google.said = None
    bring_up(workers, clock)
    assert google.alive == all_of("v5e-16")
    workers.delete()
    google.said = (8, "Quota limit 'TPUV5sLitepodPerProjectPerZone' has been exceeded.")
    with pytest.raises(UserError, match=r"nothing of it is left: .*ask for more"):
        bring_up(ordered("tpu", "v5e-16", clock), clock)
    assert google.alive == set()


@pytest.mark.parametrize(("api", "kind", "said"), [
    ("compute", "v6e-16", None), ("tpu", "v5e-16", None), ("tpu", "v5e-16", (8, "There is no more capacity")),
])  # fmt: skip
def test_nobody_waits_for_machines_for_ever(google, clock, monkeypatch, api, kind, said):
    monkeypatch.setattr(google_workers, "LONGEST_WAIT", 500.0)
    google.machines_ready, google.said = False, said
    with pytest.raises(UserError, match="no such machines within"):
        bring_up(ordered(api, kind, clock), clock)
    assert google.alive == set()


def test_machines_that_ssh_does_not_reach_are_waited_for_and_then_explained(google, clock, monkeypatch):
    answers = iter([False, False, True])

    def run(self, script, **options):
        if not next(answers):
            raise HostLost(f"{self.name} cannot be reached: Connection refused")
        return Output(0, b"", "")

    monkeypatch.setattr(SshHost, "run", run)
    workers = ordered("compute", "v5p-8", clock)
    assert bring_up(workers, clock) == [State.GONE, State.CREATING, State.READY]
    workers.delete()
    answers = iter([False] * 1000)
    with pytest.raises(
        UserError, match=r"pod is ready, but not to ssh: pod cannot be reached.*docs/pods.md about keys"
    ):
        bring_up(ordered("compute", "v5p-8", clock), clock)


# Preempted machines.

TAKEN = [
    ("compute", "v5p-8", "instances/pod", ["TERMINATED", "STOPPED", ""]),
    ("compute", "v6e-16", "instances/pod-0002", ["TERMINATED", "STOPPED", ""]),
    ("compute", "v6e-16", "instanceGroupManagers/pod", [""]),
    ("tpu", "v5e-16", "nodes/pod", ["PREEMPTED", "TERMINATED", "HIDING", "HIDDEN", "UNKNOWN", ""]),
    ("tpu", "v5e-16", "queuedResources/pod", ["SUSPENDED", "FAILED", ""]),
]


@pytest.mark.parametrize(("api", "kind", "what", "status"), [(*each, status) for *each, all in TAKEN for status in all])
def test_what_was_created_is_replaced_when_it_is_taken_away(google, clock, api, kind, what, status):
    workers = ordered(api, kind, clock, spot=True)
    bring_up(workers, clock)
    before = token()
    google.take(what, status)
    if what == "queuedResources/pod" and status == "":
        google.take("nodes/pod", "")
    bring_up(workers, clock)
    assert token() != before
    assert google.alive == all_of(kind)
    workers.delete()
    assert google.alive == set()


LEAVING = [
    ("instances/pod", each) for each in ("STOPPING", "SUSPENDING", "DEPROVISIONING", "PENDING_STOP", "A_NEW_ONE")
]
LEAVING += [("nodes/pod", "DELETING"), ("queuedResources/pod", "SUSPENDING"), ("queuedResources/pod", "DELETING")]


@pytest.mark.parametrize(("what", "status"), LEAVING)
def test_what_is_on_its_way_out_is_waited_for_until_it_is_gone(google, clock, what, status):
    api, kind = ("compute", "v5p-8") if what.startswith("instances") else ("tpu", "v5e-16")
    workers = ordered(api, kind, clock, spot=True)
    bring_up(workers, clock)
    google.take(what, status)
    calls = len(google.calls)
    assert {workers.state() for _ in range(5)} == {State.DELETING}
    assert all(call.startswith("GET") for call in google.calls[calls:])
    google.take(what, "TERMINATED" if api == "compute" else "PREEMPTED" if what == "nodes/pod" else "SUSPENDED")
    bring_up(workers, clock)
    assert google.alive == all_of(kind)


@pytest.mark.parametrize(
    "status", ["CREATING", "STARTING", "RESTARTING", "REIMAGING", "REPAIRING", "UNHIDING", "NEW_ONE"]
)
def test_a_node_that_gets_ready_by_itself_is_left_alone(google, clock, status):
    workers = ordered("tpu", "v4-8", clock)
    bring_up(workers, clock)
    google.take("nodes/pod", status)
    calls = len(google.calls)
    assert {workers.state() for _ in range(5)} == {State.CREATING}
    google.take("nodes/pod", "READY")
    assert bring_up(workers, clock) == [State.READY]
    assert all(call.startswith("GET") for call in google.calls[calls:])


def test_a_machine_that_is_stopped_for_maintenance_has_time_to_come_back_and_one_that_a_person_stopped_is_not_replaced(
    google, clock
):
    workers = ordered("compute", "v5p-8", clock)
    bring_up(workers, clock)
    google.take("instances/pod", "TERMINATED")
    assert workers.state() == State.CREATING
    google.take("instances/pod", "RUNNING")
    bring_up(workers, clock)
    google.take("instances/pod", "TERMINATED")
    assert workers.state() == State.CREATING
    clock.sleep(1000)
    assert workers.state() == State.STOPPED
    assert google.alive == {"instances/pod"}


def test_a_machine_that_is_dead_while_the_others_answer_has_its_slice_replaced(google, clock, monkeypatch):
    workers = ordered("compute", "v6e-16", clock)
    bring_up(workers, clock)
    before, dead = token(), {"pod-0002"}

    def run(self, script, **options):
        if self.name in dead:
            raise HostLost(f"{self.name} cannot be reached")
        return Output(0, b"", "")

    monkeypatch.setattr(SshHost, "run", run)
    assert workers.state() == State.CREATING
    clock.sleep(google_workers.DEAD_SECONDS)
    assert workers.state() == State.PREEMPTED
    workers.delete()
    dead.clear()
    bring_up(workers, clock)
    assert token() != before
    assert google.alive == all_of("v6e-16")
    dead |= {f"pod-{index:04d}" for index in range(4)}
    assert workers.state() == State.READY  # unreachable for all: the local network may be the cause


# Resources created by someone else.


def somebody_elses(google, clock, api, kind) -> None:
    """Creates `pod` without leaving a local record of it."""
    bring_up(ordered(api, kind, clock, spot=True), clock)
    ledger.recorded("pod").forget()
    google.calls.clear()


OTHERS = [
    ("compute", "v5p-8", "instances/pod", "TERMINATED"),
    ("compute", "v6e-16", "instances/pod-0001", "TERMINATED"),
    ("tpu", "v5e-16", "nodes/pod", "PREEMPTED"),
]


@pytest.mark.parametrize(("api", "kind", "what", "status"), OTHERS)
def test_what_somebody_else_has_created_is_used_and_left(google, clock, api, kind, what, status):
    somebody_elses(google, clock, api, kind)
    before = google.alive
    for order in (None, Order(kind)):
        workers = provider(api, clock, order).find("pod")
        assert workers.state() == State.READY
        assert not workers.created
        assert not workers.replaceable
        workers.delete()
    google.take(what, status)
    assert workers.state() == State.PREEMPTED
    workers.delete()
    assert google.alive == before
    assert not [call for call in google.calls if call.startswith("DELETE")]


@pytest.mark.parametrize(("api", "kind", "what", "status"), OTHERS)
def test_told_to_it_replaces_even_that(google, clock, api, kind, what, status):
    somebody_elses(google, clock, api, kind)
    workers = provider(api, clock, Order(kind, replace=True)).find("pod")
    assert workers.replaceable
    assert not workers.created
    google.take(what, status)
    bring_up(workers, clock)
    assert workers.created
    left = {each for each in google.alive if "Templates" in each or "Policies" in each} - all_of(kind)
    assert google.alive - left == all_of(kind)
    assert len(left) == (2 if kind == "v6e-16" else 0)  # other groups may use the template and the policy


@pytest.mark.parametrize(("api", "kind"), [("compute", "v5p-8"), ("compute", "v6e-16"), ("tpu", "v5e-16")])
def test_a_namesake_of_what_we_created_once_is_not_ours(google, clock, api, kind):
    """Our pod was deleted manually, and someone else has created another one of the same name."""
    bring_up(ordered(api, kind, clock), clock)
    record = ledger.recorded("pod")
    google.resources = {
        path: value for path, value in google.resources.items() if "/global/" in path or "/regions/" in path
    }
    ours = set(google.alive)
    ledger.Creation.forget(record)
    bring_up(ordered(api, kind, clock), clock)
    theirs = google.alive - ours
    record.save()
    workers = provider(api, clock, Order(kind)).find("pod")
    assert workers.state() == State.READY
    assert not workers.created
    provider(api, clock).recorded("pod").delete()
    assert google.alive == theirs
    assert ledger.names() == []


# Lookup.


def test_machines_of_a_slice_are_in_the_order_that_the_tpu_counts_them(google, clock, monkeypatch):
    workers = ordered("compute", "v6e-16", clock)
    bring_up(workers, clock)
    numbers = {"pod-0000": 2, "pod-0001": 0, "pod-0002": 3, "pod-0003": 1}

    def run(self, script, **options):
        assert "agent-worker-number" in script
        return Output(0, str(numbers[self.name]).encode(), "")

    monkeypatch.setattr(SshHost, "run", run)
    assert [host.name for host in workers.hosts()] == ["pod-0001", "pod-0003", "pod-0000", "pod-0002"]
    monkeypatch.setattr(SshHost, "run", lambda self, script, **options: Output(7, b"", "no such name"))
    assert [host.name for host in workers.hosts()] == ["pod-0000", "pod-0001", "pod-0002", "pod-0003"]


def test_external_addresses_are_used_unless_told_otherwise(google, clock):
    google.addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]
    bring_up(ordered("tpu", "v5e-16", clock), clock)
    node = google.at("nodes/pod")
    for index, endpoint in enumerate(node["networkEndpoints"]):
        endpoint["accessConfig"] = {"externalIp": f"34.0.0.{index}"}
    hosts = provider("tpu", clock).find("pod").hosts()
    assert [(host.keys.host, host.address, host.name) for host in hosts][1] == ("34.0.0.1", "10.0.0.2", "pod-1")
    assert f"-oHostKeyAlias=tpu.{node['id']}-1" in hosts[1].keys.options
    inside = GoogleProvider(TpuApi(at=clock.time), Cloud(PROJECT, ZONE, "-l you", True)).find("pod").hosts()
    assert (inside[1].keys.host, inside[1].keys.options[:2]) == ("10.0.0.2", ["-l", "you"])


def test_machines_without_external_addresses_are_created_without(google, clock):
    for api, kind in KINDS:
        one = GoogleProvider(INTERFACES[api](at=clock.time), Cloud(PROJECT, ZONE, internal=True), Order(kind))
        workers = one.create("pod")
        bring_up(workers, clock)
        workers.delete()
    text = json.dumps(google.bodies)
    assert "ONE_TO_ONE_NAT" not in text
    assert '"enableExternalIps": true' not in text


def test_a_group_of_a_region_and_a_bare_node_are_found(google, clock):
    bring_up(ordered("compute", "v6e-16", clock), clock)
    path = f"projects/{PROJECT}/zones/{ZONE}/instanceGroupManagers/pod"
    regional = path.replace(f"zones/{ZONE}", f"regions/{REGION}")
    google.resources[regional] = google.resources.pop(path)
    for value in google.resources.values():
        if value.get("group") == path:
            value["group"] = regional
    assert len(provider("compute", clock).find("pod").hosts()) == 4
    ledger.recorded("pod").forget()
    bring_up(ordered("tpu", "v4-8", clock), clock)
    google.take("queuedResources/pod", "")
    found = provider("tpu", clock).find("pod")
    assert (found.state(), found.created) == (State.READY, True)
    assert provider("tpu", clock).names() == ["pod"]
    assert provider("compute", clock).names() == []  # the machines of a slice in the zone are not listed


def test_several_slices_are_refused(google, clock):
    specification = {"nodeId": "pod-0", "node": {}}
    google.resources[f"projects/{PROJECT}/locations/{ZONE}/queuedResources/pod"] = {
        "name": "x/pod", "state": {"state": "ACTIVE"}, "tpu": {"nodeSpec": [specification, specification]}
    }  # fmt: skip
    with pytest.raises(UserError, match="pod is of several slices"):
        provider("tpu", clock).find("pod")


def test_an_interface_that_the_project_does_not_use_knows_no_names(google, clock):
    google.fail("GET", times=1, answer=Error(403, "Cloud TPU API has not been used in project 1", "SERVICE_DISABLED"))
    assert provider("tpu", clock).find("pod") is None
    google.fail("GET", times=1, answer=Error(403, "Permission denied", "PERMISSION_DENIED"))
    with pytest.raises(UserError, match="needs the roles TPU Admin"):
        provider("tpu", clock).find("pod")


def test_nothing_is_asked_where_project_or_zone_are_not_told(google, clock):
    for where in (Cloud("", ZONE), Cloud(PROJECT, "")):
        one = GoogleProvider(TpuApi(at=clock.time), where, Order("v4-8"))
        assert one.find("pod") is None
        assert one.names() == []
        with pytest.raises(UserError, match=r"in which project and zone\? Say it by --tpu_project and --tpu_zone"):
            one.create("pod")
    assert google.calls == []


def test_a_new_machine_needs_a_key_that_it_can_let_in(google, clock, tmp_path):
    (tmp_path / ".ssh" / "id_ed25519.pub").unlink()
    with pytest.raises(UserError, match=r"no key of ssh that a new machine could let in.*ssh-keygen -t ed25519"):
        bring_up(ordered("tpu", "v4-8", clock), clock)
    assert google.made() == []
    key = Path(tmp_path, "other.pub")
    key.write_text("ssh-rsa BBBB someone\n")
    where = Cloud(PROJECT, ZONE, f"-l you -i {key.with_suffix('')}")
    one = GoogleProvider(TpuApi(at=clock.time), where, Order("v4-8"))
    bring_up(one.create("pod"), clock)
    assert "you:ssh-rsa BBBB" in json.dumps(google.bodies)
