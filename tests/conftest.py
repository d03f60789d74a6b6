"""What all tests share: where the fixtures are, and eight fake CPU devices."""

import os
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# Whoever starts the tests in the background lets them ignore Ctrl-C, and with them all that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Must be set before JAX is imported: tests of sharding see eight devices, all others use the first.
os.environ["JAX_PLATFORMS"] = "cpu"
# Tests compile far more than they compute, so what they compile is not optimized by LLVM.
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"

FIXTURES = Path(os.environ.get("GPT2_FIXTURES", ROOT.parent / "shared" / "fixtures"))


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of reference data, which a clone elsewhere does not have."""
    if not FIXTURES.is_dir():
        pytest.skip(f"no reference data at {FIXTURES}; set GPT2_FIXTURES to its folder")
    return FIXTURES


@pytest.fixture(scope="session")
def gpt2_encoder(fixtures: Path) -> Path:
    return fixtures / "gpt2_encoder"


def one_device() -> list:
    """The first of the fake devices."""
    import jax

    return jax.devices()[:1]


@pytest.fixture(scope="session")
def google_storage():
    """One service for all tests: TensorStore and gcsfs remember the first address that they are led to."""
    pytest.importorskip("gcsfs", reason="no gcsfs; pip install -r requirements-gcs.txt")
    pytest.importorskip("gcp_storage_emulator", reason="no emulator; pip install -r requirements-dev.txt")
    import storage_server

    with storage_server.serve() as service:
        yield service


@pytest.fixture
def bucket(google_storage, monkeypatch):
    """gs://bucket, empty, on this machine, and the faults that its service can make: see storage_server.py."""
    import storage_server

    yield from _served(monkeypatch, google_storage, storage_server.environment(google_storage.address))


@pytest.fixture(scope="session")
def s3_storage():
    pytest.importorskip("s3fs", reason="no s3fs; pip install -r requirements-s3.txt")
    pytest.importorskip("moto.server", reason="no moto; pip install -r requirements-dev.txt")
    import storage_server

    with storage_server.serve_s3() as service:
        yield service


@pytest.fixture
def s3_bucket(s3_storage, monkeypatch):
    """s3://bucket in the same way."""
    import storage_server

    yield from _served(monkeypatch, s3_storage, storage_server.s3_environment(s3_storage.address))


@pytest.fixture
def google(monkeypatch, tmp_path):
    """Google Cloud on this machine, see google_cloud.py, for a person with a key of ssh and a project."""
    pytest.importorskip("google.auth", reason="no google-auth; pip install -r requirements-gcs.txt")
    import google_cloud

    monkeypatch.setenv("GPT2_CLUSTER", str(tmp_path / "cluster"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USER", "me")
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519.pub").write_text("ssh-ed25519 AAAA me@here\n")
    for name in ("CLOUDSDK_CONFIG", "CLOUDSDK_ACTIVE_CONFIG_NAME", "GOOGLE_CLOUD_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CORE_PROJECT", google_cloud.PROJECT)
    monkeypatch.setenv("CLOUDSDK_COMPUTE_ZONE", google_cloud.ZONE)
    with google_cloud.serve() as (cloud, environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield cloud


def _served(monkeypatch, service, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    service.empty()
    yield service.faults
    service.faults.clear()
