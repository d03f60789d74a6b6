"""Setup: exact pins without URLs, a single list of core requirements, and a core without optional packages."""

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from conftest import ROOT
from helpers.bare_system import closure
from packaging.utils import canonicalize_name

from estimator.parallel import hardware

REQUIREMENTS = sorted(ROOT.glob("requirements*.txt"))
PINNED = re.compile(r"[A-Za-z0-9_.-]+(\[[a-z0-9]+\])?==[0-9][0-9A-Za-z.]*( *;.*)?")
OPTIONAL = (
    "datatrove", "fastapi", "ftfy", "gcsfs", "google.api_core", "google.auth", "google.cloud", "httpx", "matplotlib",
    "optuna", "s3fs", "sentencepiece", "tensorboardX", "tensorflow", "torch", "trafilatura", "transformers", "uvicorn",
)  # fmt: skip
# Core modules that exist so far, imported with every optional package blocked.
CORE = [
    "main",
    "estimator",
    "inputs",
    "optimizers",
    "models",
    "estimator.shards.tfrecord",
    "estimator.tokenization.tokenizer",
    "visualize",
]


def requirements(path):
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def name(requirement):
    return canonicalize_name(re.split(r"[\[=<>; ]", requirement, maxsplit=1)[0])


def is_installed(package):
    try:
        return bool(metadata.distribution(package))
    except metadata.PackageNotFoundError:
        return False


@pytest.mark.parametrize("path", [*REQUIREMENTS, ROOT / "constraints.txt"], ids=lambda path: path.name)
def test_versions_are_exact_and_without_addresses(path):
    for line in requirements(path):
        assert PINNED.fullmatch(line) or re.fullmatch(r"-[cr] [a-z0-9-]+\.txt", line), line
    assert "://" not in path.read_text()
    assert "--" not in "".join(requirements(path))


def test_core_requires_nothing_optional():
    core = {name(line) for line in requirements(ROOT / "requirements.txt")}
    assert not core & {name(package.replace(".", "-")) for package in OPTIONAL}


def test_all_that_the_requirements_bring_along_is_pinned():
    if sys.prefix != str(ROOT / ".venv"):
        pytest.skip("not running in the environment that make makes")
    pinned = {name(line) for path in (*REQUIREMENTS, ROOT / "constraints.txt") for line in requirements(path)}
    needed = closure(REQUIREMENTS)
    assert not needed - pinned, f"pin them in constraints.txt: {needed - pinned}"
    absent = sorted(each for each in needed if not is_installed(each))
    if absent:  # everything else is pinned
        pytest.skip(f"not installed, so what they require is not known: {', '.join(absent)}")


def test_core_runs_without_any_optional_package():
    modules = [module for module in CORE if (ROOT / module.replace(".", "/")).with_suffix(".py").exists()]
    code = f"""
import importlib
from helpers.bare_system import Refusal
Refusal(set({OPTIONAL!r})).install()
for module in {[*modules, "models"]!r}:
    importlib.import_module(module)
import pathlib, tempfile
from estimator.training.metrics_log import read
from estimator.training.metrics_writers import MetricsLog
with tempfile.TemporaryDirectory() as folder:
    log = MetricsLog(pathlib.Path(folder), resume_step=0)
    log.write({{"step": 1, "tokens": 1, "split": "train", "loss": 1.0, "time": 0.0}})
    log.close()
    assert len(read(log.path)) == 1
print("fine")
"""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "fine", done.stderr


def test_checks_of_a_fresh_machine_are_executable():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    done = subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_old_python_is_refused_with_the_fix(tmp_path):
    old = tmp_path / "python2"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    for path in ("Makefile", "requirements.txt", "requirements-plot.txt", "constraints.txt"):
        (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    done = subprocess.run(["make", "setup", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "older than Python 3.11" in done.stderr


def test_an_environment_of_another_python_is_not_taken_for_the_one_that_is_asked_for(tmp_path):
    for path in ("Makefile", "requirements.txt", "requirements-plot.txt", "constraints.txt"):
        (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    bin_folder = tmp_path / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (bin_folder / "python").chmod(0o755)
    (tmp_path / ".venv" / ".device-cpu").touch()
    (tmp_path / ".venv" / ".core").touch()
    for python, code in ((sys.executable, 0), (tmp_path / "none", 2)):
        command = ["make", "setup", "DEVICE=cpu", f"PYTHON={python}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
    assert f"error: .venv was not made with {tmp_path}/none; to make it again: make clean setup" in done.stderr


NVIDIA_SMI = """#!/bin/sh
case "$1" in
  *driver_version*) echo {driver} ;;
  *compute_cap*) echo {capability} ;;
esac
"""


@pytest.mark.parametrize(
    ("driver", "capability", "expected"),
    [
        ("580.65.06", "8.0", "cuda13"),
        ("595.71", "7.5", "cuda13"),
        ("580.65.06", "7.0", "cuda12"),
        ("550.54", "9.0", "cuda12"),
        (None, None, "cpu"),
    ],
)
@pytest.mark.skipif(any(Path("/dev").glob("accel*")), reason="this machine has a TPU")
def test_the_accelerator_is_found(driver, capability, expected, tmp_path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text(NVIDIA_SMI.format(driver=driver, capability=capability) if driver else "#!/bin/sh\nexit 9\n")
    smi.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = ROOT / "estimator" / "system" / "accelerator.sh"
    found = subprocess.run(["sh", script], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout == f"{expected}\n"


@pytest.mark.parametrize("device", ["cpu", "cuda12", "cuda13", "tpu"])
def test_setup_installs_jax_for_the_device(device):
    planned = subprocess.run(
        ["make", "-n", "-B", "setup", f"DEVICE={device}"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert ("-r requirements-" + device in planned) == (device != "cpu")


def test_setup_refuses_a_device_that_it_does_not_know(tmp_path):
    for file in ("Makefile", *(path.name for path in ROOT.glob("*.txt"))):
        shutil.copy(ROOT / file, tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    done = subprocess.run(["make", "setup", "DEVICE=gpu"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "DEVICE=gpu: write cpu, cuda12, cuda13 or tpu" in done.stderr


def test_pins_of_jax_agree():
    pins = {
        (name(line), line.partition("==")[2])
        for path in REQUIREMENTS
        for line in requirements(path)
        if name(line) == "jax"
    }
    assert len(pins) == 2, pins  # one for Python 3.11, one for newer versions


def test_an_unused_accelerator_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS")
    assert hardware.unused_accelerator(tmp_path) is None
    (tmp_path / "nvidia0").touch()
    assert "has an NVIDIA GPU, but the installed JAX computes on the CPU; `make setup`" in hardware.unused_accelerator(
        tmp_path
    )
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert hardware.unused_accelerator(tmp_path) is None
