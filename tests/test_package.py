"""The installed package: one top-level name, a command that runs the programs, and one source of requirements."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from conftest import QUICK_COMPILE, ROOT
from packaging.metadata import Metadata
from packaging.requirements import Requirement


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Installs the package in a new environment, which takes its requirements from the environment of the tests."""
    folder = tmp_path_factory.mktemp("package")
    unused = {"build", "runs", "logs", "tests"}
    source = shutil.copytree(  # the build writes to the source tree
        ROOT,
        folder / "source",
        ignore=lambda at, names: [name for name in names if name[0] == "." or (at == str(ROOT) and name in unused)],
    )
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)]
    built = subprocess.run(build, cwd=folder, capture_output=True, text=True)
    if built.returncode:
        assert "No matching distribution found for setuptools" in built.stderr, built.stderr
        pytest.skip("no package index to take setuptools from")
    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    site = next(environment.glob("lib/python*/site-packages"))
    (wheel,) = folder.glob("*.whl")
    install = [sys.executable, "-m", "pip", "--python", str(environment), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(install, check=True)
    (site / "requirements.pth").write_text(sysconfig.get_path("purelib"))
    return environment


def run(installed: Path, folder: Path, *arguments: str, code: int = 0) -> str:
    """Returns the output of the command in a directory outside of the repository."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables["XLA_FLAGS"] = QUICK_COMPILE
    command = [str(installed / "bin" / "gpt2"), *arguments]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_it_puts_one_name_into_site_packages(installed):
    (record,) = installed.glob("lib/python*/site-packages/*.dist-info/RECORD")
    names = {line.partition(",")[0].partition("/")[0] for line in record.read_text().splitlines()}
    assert {name for name in names if not name.endswith(".dist-info")} <= {"gpt2", ".."}


def version(installed: Path) -> str:
    (metadata,) = installed.glob("lib/python*/site-packages/*.dist-info/METADATA")
    return str(Metadata.from_email(metadata.read_bytes(), validate=True).version)


def test_its_requirements_are_those_of_the_requirements_files(installed):
    (metadata,) = installed.glob("lib/python*/site-packages/*.dist-info/METADATA")
    package = Metadata.from_email(metadata.read_bytes(), validate=True)
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = {str(Requirement(line)) for line in lines if line and line[0] not in "#-"}
    core = {str(need) for need in package.requires_dist or [] if "extra ==" not in str(need.marker)}
    assert core == pins
    files = {path.stem.removeprefix("requirements-") for path in ROOT.glob("requirements-*.txt")}
    assert set(package.provides_extra or []) == files


def test_the_command_trains_evaluates_generates_and_exports_from_any_folder(installed, tmp_path):
    words = "The quick brown fox jumps over the lazy dog. "
    (tmp_path / "texts").mkdir()
    for number in range(8):
        (tmp_path / "texts" / f"{number}.txt").write_text(words[number:] + words * 20)
    run(installed, tmp_path, "tokenizer", "texts", "--out", "encoder", "--vocab_size", "280")
    run(installed, tmp_path, "encode", "texts", "--encoder", "encoder", "--out", "shards", "--name", "fox")
    values = {
        "model_path": "run", "data_path": "shards", "encoder_path": "encoder", "input": "packed", "eval_split": 0.25,
        "n_vocab": 280, "n_ctx": 16, "n_embd": 16, "n_head": 2, "n_layer": 1, "train_batch_size": 4, "max_steps": 3,
        "warmup_steps": 1, "eval_steps": 1, "log_steps": 1,
    }  # fmt: skip
    (tmp_path / "x.json").write_text(json.dumps(values))
    assert "steps to go: 3 of 3" in run(installed, tmp_path, "train", "--model", "x.json")
    assert "step 3: loss" in run(installed, tmp_path, "eval", "--model", "x.json")
    sample = ["generate", "--model", "x.json", "--predict_text", "The", "--length", "4", "--seed", "1"]
    assert "SAMPLE 0" in run(installed, tmp_path, *sample)
    run(installed, tmp_path, "export", "--model", "x.json", "--to", "hf", "--out", "exported")
    assert (tmp_path / "exported" / "model.safetensors").is_file()


def test_help_names_the_commands_and_a_wrong_one_gets_the_nearest(installed, tmp_path):
    text = run(installed, tmp_path, "--help")
    for name in ("train", "eval", "generate", "encode", "tokenizer", "download", "export", "plot", "launch", "serve"):
        assert f"gpt2 {name} " in text
    assert "usage: gpt2 generate --model" in run(installed, tmp_path, "generate", "--help")
    assert "usage: gpt2 launch NAME --model" in run(installed, tmp_path, "launch", "--help")
    assert "\n    gpt2 encode my_texts" in run(installed, tmp_path, "encode", "--help")
    assert run(installed, tmp_path, "--version") == f"gpt2 {version(installed)}\n"
    assert "did you mean train?" in run(installed, tmp_path, "trian", code=2)
    assert "nowhere: no such workers" in run(
        installed, tmp_path, "launch", "nowhere", "--model", str(ROOT / "configs" / "tiny.json"), code=2
    )
    assert "name the machines first" in run(installed, tmp_path, "launch", "--model", "configs/tiny.json", code=2)


def test_messages_name_files_and_commands_that_work_outside_of_a_clone(installed, tmp_path):
    programs = next(installed.glob("lib/python*/site-packages/gpt2/programs"))
    planned = run(installed, tmp_path, "train", "--model", "configs/tiny.json", "--dry_run")
    assert f"the current folder has no configs/tiny.json; {programs / 'configs' / 'tiny.json'} is read" in planned
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tiny.json").write_text("[]")
    assert "tiny.json should hold one JSON object" in run(
        installed, tmp_path, "train", "--model", "configs/tiny.json", code=2
    )
    (tmp_path / "run").mkdir()
    assert "start it with gpt2 train --model X.json" in run(installed, tmp_path, "control", "run", "status", code=2)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "fastapi.py").write_text("raise ModuleNotFoundError('no fastapi', name='fastapi')")
    (next(installed.glob("lib/python*/site-packages")) / "hidden.pth").write_text(
        f"import sys; sys.path.insert(0, {str(hidden)!r})\n"
    )
    said = run(installed, tmp_path, "serve", "--model", str(programs / "configs" / "tiny.json"), code=2)
    assert f"pip install -r {programs / 'requirements-serve.txt'}" in said
    assert (programs / "requirements-serve.txt").is_file()


def test_the_command_runs_in_a_checkout_too():
    command = [sys.executable, "-m", "gpt2"]
    done = subprocess.run([*command, "train", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: gpt2 train ")
    done = subprocess.run([*command, "--version"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert f'\nversion = "{done.stdout.split()[1]}"\n' in (ROOT / "pyproject.toml").read_text()
