"""Runs the commands of the Dockerfile in order in a new environment, without Docker."""

import json
import os
import re
import subprocess

import pytest
from conftest import ROOT
from helpers.repository import copy_to, tracked

from estimator.interop import hub

PLAN = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())


def instructions(kind: str) -> list[str]:
    return re.findall(rf"^{kind} (.*)$", PLAN, re.MULTILINE)


def test_it_builds_for_cpus_and_gpus_from_the_files_of_the_repository():
    assert re.fullmatch(r"python:3\.1[1-4]-slim", *instructions("FROM"))
    assert instructions("ARG") == ["DEVICE=cpu"]
    assert instructions("COPY") == [". ."]
    devices = set(re.findall(r"DEVICE=(\w+)|\((\w+) for drivers", PLAN))
    for device in {name for pair in devices for name in pair if name} - {"cpu"}:
        assert (ROOT / f"requirements-{device}.txt").is_file()
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".venv", ".git", "runs"} <= set(ignored)
    assert not [name for name in tracked() if name.split("/")[0] in ignored]


def test_the_texts_and_weights_of_a_user_get_into_no_image_and_no_commit():
    configs = [json.loads(path.read_text()) for path in (ROOT / "configs").glob("*.json")]
    keys = ("model_path", "data_path", "encoder_path")
    named = {config[key].split("/")[0] for config in configs for key in keys if key in config} - {"python-docs"}
    named |= {hub.FOLDER, "downloads"}  # of download_model.py and prepare.py
    assert {"runs", "my_texts", "encoder"} < named
    assert named <= set((ROOT / ".dockerignore").read_text().split())
    assert {f"/{name}/" for name in named} <= set((ROOT / ".gitignore").read_text().split())


@pytest.mark.skipif("GPT2_TEST_INSTALL" not in os.environ, reason="installs packages; set GPT2_TEST_INSTALL=1")
def test_its_commands_run_in_order_in_a_fresh_environment(tmp_path):
    folder = copy_to(tmp_path / "gpt2")
    (home,) = instructions("WORKDIR")
    variables = dict(pair.split("=", 1) for line in instructions("ENV") for pair in line.split())
    path = variables["PATH"].replace(f"{home}/", f"{folder}/").replace("$PATH", os.environ["PATH"])
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "XLA_FLAGS")}
    environment |= variables | {"PATH": path, "DEVICE": "cpu"}
    commands = [command for command in instructions("RUN") if not command.startswith("apt-get ")]
    assert len(commands) >= 2
    (entry,) = re.findall(r'^ENTRYPOINT \["(.*)"\]$', PLAN, re.MULTILINE)
    for command in [*commands, entry.replace('", "', " ") + " --help"]:
        done = subprocess.run(["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
