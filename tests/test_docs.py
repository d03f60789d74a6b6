"""Statements in the documentation are true."""

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import jax
import pytest
from conftest import ROOT

from docs import generate


def test_generated_files_are_fresh():
    for path, text in generate.generated().items():
        assert path.read_text() == text, f"{path.name} is stale: python3 docs/generate.py"


def test_shipped_files_follow_the_schema():
    schema = json.loads((ROOT / "configs" / "schema.json").read_text())
    for path in (ROOT / "configs").glob("*.json"):
        if path.name != "schema.json":
            values = json.loads(path.read_text())
            assert set(values) <= set(schema["properties"]), path
            assert any(set(choice["required"]) <= set(values) for choice in schema["anyOf"]), path


PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / ".github").rglob("*.md")])
OURS = "configs|docs|datasets|models|estimator|crawler|serving|examples|benchmarks|tests"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_lead_to_files(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("../../actions/workflows/"):  # pages of GitHub itself
            target = re.sub(r"^../../actions/workflows/([\w.]+?)(/badge.svg)?$", r".github/workflows/\1", target)
            assert (ROOT / target).is_file(), target
        elif "://" not in target:
            path, _, anchor = target.partition("#")
            linked = (page.parent / path).resolve() if path else page
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked.read_text()), target
    folders = {"tests/"} if page.name == "field.md" else {""}
    for path in re.findall(rf"`((?:{OURS})/[\w./-]*)(?:::\w+)?`", text):
        assert any((ROOT / folder / path).exists() for folder in {"", *folders}), path


def anchors(text: str) -> set[str]:
    """Returns the heading anchors that GitHub generates."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_readme_names_many_files_and_its_tree_exists():
    text = (ROOT / "README.md").read_text()
    tree = text.split("## Files")[1].split("```")[1]
    named = set()
    parents: list[str] = []
    for line in tree.strip().splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        parents = [*parents[:depth], line.split()[0]]
        named.add("".join(parents))
    assert len(named) > 20
    for name in named:
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_name_programs_and_options_that_exist(page):
    """Covers commands that need a cluster, a network, or hours; the README's commands are also run below."""
    keys = set(json.loads((ROOT / "configs" / "schema.json").read_text())["properties"])
    text = page.read_text()
    blocks = "\n".join(re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    for command in [*blocks.splitlines(), *re.findall(r"`(python3? [^`]+)`", text)]:
        match = re.search(r"(?:^|\s)python3? (?:-m (benchmarks\.[a-z]\w*)|((?:\w+/)*\w+\.py))([^#|]*)", command)
        if not match:
            continue
        program = f"{match[1].replace('.', '/')}.py" if match[1] else match[2]
        assert (ROOT / program).is_file(), command
        for option in re.findall(r"(?<=\s)--\w+", match[3]):
            assert option in options(program), f"{program} has no {option}: {command}"
        for key in re.findall(r"--set (\w+)=", match[3]):
            assert key in keys, command


@functools.cache
def options(program: str) -> set[str]:
    """Returns the options defined in a program and in those of our modules it imports that add arguments."""
    found, rest = set(), [ROOT / program]
    seen = set()
    while rest:
        path = rest.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        text = path.read_text()
        found |= set(re.findall(r"[\"'](--\w+)[\"']", text))
        found |= {f"--{name}" for name in re.findall(r"add_argument\(f\"--\{(\w+)", text)}
        for module, names in re.findall(r"^\s*from ([\w.]+) import ([\w, ]+)", text, re.MULTILINE):
            base = ROOT / module.replace(".", "/")
            rest += [base.with_suffix(".py"), *(base / f"{name.split()[0]}.py" for name in names.split(","))]
    return found


def test_every_top_level_program_and_folder_is_in_the_readme():
    tree = (ROOT / "README.md").read_text().split("## Files")[1].split("```")[1]
    for path in ROOT.iterdir():
        if path.suffix == ".py" or (path.is_dir() and (path / "__init__.py").exists() and path.name != "tests"):
            assert re.search(rf"^{re.escape(path.name)}", tree, re.MULTILINE), path.name


def test_every_command_of_the_readme_runs_in_order(tmp_path):
    """Runs in a copy of the repository, so that `runs` is as in a fresh clone."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.splitlines():
        if name.endswith((".py", ".json", ".cc", ".h", ".html", ".css", ".js", ".svg")):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    commands = readme_commands()
    assert len(commands) >= 8
    prepare_fine_tuning(tmp_path)
    for command in commands:
        arguments = [sys.executable, *shlex.split(without_network(command))[1:]]
        if command.startswith("python3 serve.py") or command.endswith("--live"):  # run until stopped; tested elsewhere
            continue
        done = subprocess.run(
            arguments, cwd=tmp_path, env={**os.environ, "XLA_FLAGS": ""}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
    assert (tmp_path / "runs" / "tiny.png").stat().st_size > 10_000


TINY = {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_ctx": 32, "n_vocab": 300}
STEPS = {"max_steps": 2, "train_steps": 2, "eval_steps": 1, "warmup_steps": 1}
BATCH = {"train_batch_size": 2, "micro_batch_size": 1, "eval_batch_size": 2}


def prepare_fine_tuning(folder):
    """Writes texts to `my_texts`, and to `mirror` the files for a download of a tiny random GPT-2."""
    from estimator.parallel.param_spec import initialize
    from estimator.tokenization.train_bpe import train_byte_bpe
    from models.gpt2 import model
    from models.gpt2.convert import hf

    lines = [f"{number} times {number} is {number * number}, said the old machine.\n" for number in range(400)]
    (folder / "my_texts").mkdir()
    for part in range(4):
        (folder / "my_texts" / f"{part}.txt").write_text("".join(lines[100 * part :][:100]))
    train_byte_bpe(lines, n_vocab=TINY["n_vocab"], out=folder / "vocabulary")
    config = model.GPT2Config(**TINY)
    weights = initialize(model.parameters(config), jax.random.key(0))
    hf.write(folder / "mirror", weights, config, encoder=folder / "vocabulary", dtype="f32")


def without_network(command: str) -> str:
    """Returns the command for a few steps with the tiny model of the mirror instead of OpenAI's."""
    if "download_model.py" in command:
        return command.replace("124M", "tiny/gpt2") + " --from mirror"
    if "configs/finetune-124M.json" not in command:
        return command
    changes = TINY | STEPS | BATCH | {"init_from": "tiny/gpt2", "encoder_path": "pretrained/tiny/gpt2"}
    return command + "".join(f" --set {key}={value}" for key, value in changes.items() if f"{key}=" not in command)


def readme_commands() -> list[str]:
    """Returns the commands in the README's code blocks in order."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("python3 ") and not line.startswith("python3 -m venv ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_that_a_page_names_exists(page):
    for path, name in re.findall(r"`(?:tests/)?([\w/]+\.py)(?:::(\w+))?`", page.read_text()):
        if name or page.name == "field.md":
            assert not name or f"\ndef {name}(" in (ROOT / "tests" / path).read_text(), (path, name)


def test_every_report_from_the_field_names_a_test():
    text = (ROOT / "docs" / "field.md").read_text()
    entries = dict(re.findall(r"^\| ([A-E]\d+)[a-d]? (\|.*)$", text, re.MULTILINE))
    counts = {"A": 14, "B": 12, "C": 5, "D": 6, "E": 12}
    assert entries.keys() == {f"{part}{number + 1}" for part, count in counts.items() for number in range(count)}
    assert all(".py" in row for row in entries.values())


def test_variables_of_the_environment_are_listed():
    listed = (ROOT / "docs" / "configuration.md").read_text().partition("## Environment variables")[2]
    names = set()
    for folder in ("estimator", "serving", "models", "crawler"):
        for path in (ROOT / folder).rglob("*.py"):
            names |= set(re.findall(r'"(GPT2_[A-Z_]+)"', path.read_text()))
    assert {"GPT2_CACHE", "GPT2_STORAGE_SECONDS"} <= names
    assert {name for name in names if f"`{name}`" not in listed} == {"GPT2_WORKER"}  # a mark of our own
