"""Google REST client: retries, credentials, selection of project and zone, and names of slices."""

import sys

import pytest
from helpers.google_cloud import PROJECT, ZONE, Error

from estimator.errors import UserError
from estimator.launch.gcp import rest, settings, slices
from estimator.launch.gcp.rest import Refused, Service, Time, Unavailable
from estimator.launch.gcp.settings import Cloud

BASE = "https://compute.invalid/compute/v1"
PATH = f"projects/{PROJECT}/zones/{ZONE}/instances"


@pytest.fixture
def slept():
    return []


@pytest.fixture
def service(google, slept):
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        slept.append(seconds)

    return Service(BASE, emulator="COMPUTE_EMULATOR_HOST", at=Time(lambda: now[0], sleep))


def test_pauses_grow_and_have_a_limit_and_chance_in_them(google, service, slept):
    google.fail("GET", times=100, answer=Error(503, "Unavailable", "UNAVAILABLE"))
    with pytest.raises(Unavailable, match="does not answer as it should, 8 times in a row"):
        service.get(PATH)
    assert len(google.calls) == 8
    for index, seconds in enumerate(slept):
        assert 0.5 * min(60, 2**index) <= seconds <= min(60, 2**index)
    assert len(set(slept)) == len(slept) == 7


def test_the_service_may_ask_for_more_time_within_reason(google, service, slept):
    google.fail("GET", times=1, answer=Error(429, "slow down", "RESOURCE_EXHAUSTED", after=30))
    google.fail("GET", times=1, answer=Error(429, "slow down", "RESOURCE_EXHAUSTED", after=3000))
    assert service.get(PATH) == {"items": []}
    assert slept == [30, 60]


def test_a_refusal_is_not_tried_again(google, service, slept):
    google.fail("GET", times=2, answer=Error(403, "no", "forbidden"))
    with pytest.raises(Refused, match=r"Google Cloud refused GET projects/.*: 403: no \(forbidden\); this account may"):
        service.get(PATH)
    assert slept == []
    with pytest.raises(Refused):
        service.find(PATH)
    assert service.find(f"{PATH}/none") is None


def test_who_pays_for_calls_is_another_question_than_quota(google, service):
    words = "Your application is authenticating by using local credentials. The API requires a quota project."
    google.fail("GET", answer=Error(403, words, "forbidden"))
    with pytest.raises(Refused, match="set-quota-project PROJECT"):
        service.get(PATH)


def test_a_resource_that_is_busy_is_waited_for(google, service):
    busy = [(409, "ABORTED"), (400, "resourceNotReady"), (400, "resourceInUseByAnotherResource")]
    for status, reason in busy:
        google.fail("GET", times=1, answer=Error(status, "later", reason))
    assert service.get(PATH) == {"items": []}
    assert len(google.calls) == len(busy) + 1


def test_an_operation_has_a_limit(google, service, slept, monkeypatch):
    monkeypatch.setattr(Service, "get", lambda self, path: {"status": "RUNNING"})
    with pytest.raises(Unavailable, match="not done after 15 minutes"):
        service.wait({"status": "PENDING"}, "an/operation")
    assert 900 <= sum(slept) < 910


def test_an_answer_that_is_not_googles_is_named(google, service, monkeypatch):
    class Page:
        ok, content, url = True, b"<html>", "http://proxy"

        def json(self):
            raise ValueError

    monkeypatch.setattr(Service, "_send", lambda *_: Page())
    with pytest.raises(Unavailable, match="http://proxy: the answer is not one of Google's"):
        service.get(PATH)


def test_all_pages_of_a_list_are_read(service, monkeypatch):
    pages = {"": {"items": [{"name": "a"}], "nextPageToken": "2"}, "2": {"items": [{"name": "b"}]}}
    monkeypatch.setattr(Service, "get", lambda self, path, pageToken="", **_: pages[pageToken])
    assert [each["name"] for each in service.all(PATH, "items")] == ["a", "b"]


def test_words_tell_quota_rate_and_want_of_machines_apart():
    def said(words: str) -> Refused:
        return Refused("", status=403, said=words)

    assert said("Quota 'TPUS' exceeded. Limit: 0.0").is_quota
    assert not said("Quota exceeded for quota metric 'Queries' and limit 'Queries per minute'").is_quota
    assert said("ZONE_RESOURCE_POOL_EXHAUSTED: The zone does not have enough resources").is_capacity
    assert said("There is no more capacity in the zone").is_capacity
    assert not said("Quota limit 'TPUV5sLitepodPerProjectPerZone' has been exceeded.").is_capacity


# Credentials.


@pytest.fixture
def stranger(monkeypatch, tmp_path):
    pytest.importorskip("google.auth", reason="no google-auth; pip install -r requirements-gcs.txt")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    for name in ("CLOUDSDK_CONFIG", "GOOGLE_APPLICATION_CREDENTIALS", "COMPUTE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_without_credentials_the_command_that_brings_them_is_named(stranger):
    with pytest.raises(UserError, match=r"no credentials of Google Cloud.*gcloud auth application-default login"):
        Service(BASE).get(PATH)


def test_without_google_auth_what_to_install_is_named(stranger, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.auth", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-gcs.txt"):
        Service(BASE).get(PATH)


def test_credentials_that_are_not_accepted_any_more_are_named(stranger, monkeypatch):
    import google.auth.exceptions

    class Session:
        def request(self, *_, **__):
            raise google.auth.exceptions.RefreshError("Token has been expired or revoked.")

    monkeypatch.setattr(rest, "_session", lambda **_: Session())
    with pytest.raises(UserError, match=r"does not accept these credentials any more \(Token has been expired"):
        Service(BASE).get(PATH)


# Project and zone.


def test_flags_count_before_the_environment_and_that_before_gcloud(tmp_path):
    (tmp_path / "configurations").mkdir()
    (tmp_path / "configurations" / "config_mine").write_text("[core]\nproject = p3\n[compute]\nzone = us-c3-a\n")
    (tmp_path / "active_config").write_text("mine\n")
    where = {"CLOUDSDK_CONFIG": str(tmp_path)}
    assert settings.configured(environment=where) == Cloud("p3", "us-c3-a")
    assert settings.configured(environment=where).region == "us-c3"
    where |= {"GOOGLE_CLOUD_PROJECT": "p2", "CLOUDSDK_COMPUTE_ZONE": "us-c2-a"}
    assert settings.configured(environment=where) == Cloud("p2", "us-c2-a")
    assert settings.configured(project="p1", zone="us-c1-a", environment=where) == Cloud("p1", "us-c1-a")
    assert not settings.configured(environment={"CLOUDSDK_CONFIG": str(tmp_path / "none")}).named
    (tmp_path / "configurations" / "config_mine").write_text("project = p3\n")
    with pytest.raises(UserError, match="config_mine: gcloud's settings cannot be read"):
        settings.configured(environment={"CLOUDSDK_CONFIG": str(tmp_path)})


@pytest.mark.parametrize(("flags", "words"), [
    ({"project": "a/b"}, "--tpu_project: 'a/b' is not a name"), ({"zone": "us-east5"}, "is not a zone; write it as in"),
    ({"ssh": "-i 'x"}, "--tpu_ssh: .*No closing quotation"),
])  # fmt: skip
def test_flags_that_cannot_be_are_explained(flags, words):
    with pytest.raises(UserError, match=words):
        settings.configured(**flags, environment={"CLOUDSDK_CONFIG": "/nowhere"})


# Names of slices.


@pytest.mark.parametrize(("kind", "hosts", "machine", "shape", "legacy"), [
    ("v6e-1", 1, "ct6e-standard-1t", "1x1", "v6e-1"), ("v6e-8", 1, "ct6e-standard-8t", "2x4", "v6e-8"),
    ("v6e-16", 4, "ct6e-standard-4t", "4x4", "v6e-16"), ("v6e-256", 64, "ct6e-standard-4t", "16x16", "v6e-256"),
    ("v5p-8", 1, "ct5p-hightpu-4t", "2x2x1", "v5p-8"), ("v5p-128", 16, "ct5p-hightpu-4t", "4x4x4", "v5p-128"),
    ("tpu7x-8", 1, "tpu7x-standard-4t", "2x2x1", ""), ("tpu7x-128", 16, "tpu7x-standard-4t", "4x4x4", ""),
    ("v5e-16", 4, "", "4x4", "v5litepod-16"), ("v5litepod-4", 1, "", "2x2", "v5litepod-4"),
    ("v4-8", 1, "", "2x2x1", "v4-8"), ("v4-32", 4, "", "2x2x4", "v4-32"),
])  # fmt: skip
def test_slices_are_those_of_googles_tables(kind, hosts, machine, shape, legacy):
    found = slices.find(kind)
    assert (found.hosts, found.machine, found.shape) == (hosts, machine, shape)
    if legacy:
        assert found.legacy_name == legacy


def test_the_interface_is_the_one_that_has_the_slice():
    for kind, api in {
        "v6e-16": "compute",
        "v5p-8": "compute",
        "tpu7x-8": "compute",
        "v4-8": "tpu",
        "v5e-4": "tpu",
    }.items():
        assert slices.api_of(slices.find(kind), None) == api
    assert slices.api_of(slices.find("v6e-16"), "tpu") == "tpu"
    with pytest.raises(UserError, match="Compute Engine has no v4-8"):
        slices.api_of(slices.find("v4-8"), "compute")
    with pytest.raises(UserError, match="the TPU API has no tpu7x-8"):
        slices.api_of(slices.find("tpu7x-8"), "tpu")


@pytest.mark.parametrize(("kind", "words"), [
    ("v6-16", "no such TPU; did you mean v6e"), ("h100x8", "available: v4-N, v5e-N"),
    ("v6e-5", "available: v6e-1, v6e-4"), ("v5p-9", "available: v5p-8"),
])  # fmt: skip
def test_a_slice_that_there_is_not_is_explained(kind, words):
    with pytest.raises(UserError, match=words):
        slices.find(kind)
