"""The set-up: exact versions without addresses, one list of what is core, and a core that needs nothing optional."""

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
from conftest import ROOT
from packaging.requirements import Requirement

REQUIREMENTS = sorted(ROOT.glob("requirements*.txt"))
PINNED = re.compile(r"[A-Za-z0-9_.-]+(\[[a-z0-9]+\])?==[0-9][0-9A-Za-z.]*( *;.*)?")
OPTIONAL = (
    "datatrove", "fastapi", "ftfy", "gcsfs", "google.api_core", "google.auth", "google.cloud", "httpx", "matplotlib",
    "s3fs", "sentencepiece", "tensorboardX", "tensorflow", "torch", "trafilatura", "transformers", "uvicorn",
)  # fmt: skip
# Modules of the core that are there so far, run with every optional package refused.
CORE = ["main", "estimator", "inputs", "optimizers", "models", "runtime.tfrecord", "text.tokenizers", "visualize"]


def requirements(path):
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def name(requirement):
    return re.split(r"[\[=<>; ]", requirement, maxsplit=1)[0].lower().replace("_", "-")


@pytest.mark.parametrize("path", [*REQUIREMENTS, ROOT / "constraints.txt"], ids=lambda path: path.name)
def test_versions_are_exact_and_without_addresses(path):
    for line in requirements(path):
        assert PINNED.fullmatch(line) or re.fullmatch(r"-[cr] [a-z0-9-]+\.txt", line), line
    assert "://" not in path.read_text()
    assert "--" not in "".join(requirements(path))


def test_pins_and_ranges_name_the_same_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {name(line) for line in requirements(ROOT / "requirements.txt") if not line.startswith("-")}
    assert pinned == {name(line) for line in project["dependencies"]}
    for extra in ("plot", "data"):
        lines = {name(line) for line in requirements(ROOT / f"requirements-{extra}.txt") if not line.startswith("-")}
        assert lines == {name(line) for line in project["optional-dependencies"][extra]}


def test_core_requires_nothing_optional():
    core = {name(line) for line in requirements(ROOT / "requirements.txt")}
    assert not core & {name(package.replace(".", "-")) for package in OPTIONAL}


def test_all_that_the_requirements_bring_along_is_pinned():
    if sys.prefix != str(ROOT / ".venv"):
        pytest.skip("not running in the environment that make makes")
    pinned = {name(line) for path in (*REQUIREMENTS, ROOT / "constraints.txt") for line in requirements(path)}
    absent, seen = [], set()
    rest = [Requirement(line) for path in REQUIREMENTS for line in requirements(path) if line[0] != "-"]
    while rest:
        requirement = rest.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        extras = requirement.extras or {""}
        if requirement.marker and not requirement.marker.evaluate():
            continue
        assert name(requirement.name) in pinned, f"{requirement.name}: pin it in constraints.txt"
        try:
            lines = metadata.requires(requirement.name) or []
        except metadata.PackageNotFoundError:
            absent.append(requirement.name)
            continue
        for line in lines:
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                needed.marker = None
                rest.append(needed)
    if absent:  # of the rest all is pinned
        pytest.skip(f"not installed, so what they require is not known: {', '.join(absent)}")


def test_core_runs_without_any_optional_package():
    modules = [module for module in CORE if (ROOT / module.replace(".", "/")).with_suffix(".py").exists()]
    code = f"""
import importlib, importlib.abc, sys
class Refusal(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if any(fullname == name or fullname.startswith(name + ".") for name in {OPTIONAL!r}):
            raise ModuleNotFoundError(fullname + " is refused", name=fullname)
sys.meta_path.insert(0, Refusal())
for module in {[*modules, "models"]!r}:
    importlib.import_module(module)
import pathlib, tempfile
from runtime.metrics import MetricsLog, read
with tempfile.TemporaryDirectory() as folder:
    log = MetricsLog(pathlib.Path(folder), resume_step=0)
    log.write({{"step": 1, "tokens": 1, "split": "train", "loss": 1.0, "time": 0.0}})
    log.close()
    assert len(read(log.path)) == 1
print("fine")
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
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
