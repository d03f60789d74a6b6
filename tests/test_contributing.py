"""The changes in CONTRIBUTING.md apply to a copy of the repository and work; other project files are accurate."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import QUICK_COMPILE, ROOT
from helpers.repository import copy_to

from estimator.corpus.build.executors import Executor
from estimator.corpus.build.pipeline import encode
from estimator.corpus.build.plan import Corpus, Options
from estimator.tokenization.train_bpe import train_byte_bpe

TINY = {"n_ctx": 16, "n_vocab": 257, "n_embd": 16, "n_layer": 1, "n_head": 2, "scale_by_in": False}
RUN = {"train_batch_size": 4, "max_steps": 2, "train_steps": 2, "eval_steps": 1, "warmup_steps": 1, "lr": 0.01}


def steps() -> dict[str, str]:
    """Returns the diff of each section by title."""
    sections = (ROOT / "CONTRIBUTING.md").read_text().split("\n## ")
    blocks = {text.partition("\n")[0]: re.findall(r"```diff\n(.*?)```", text, re.DOTALL) for text in sections}
    return {title: found[0] for title, found in blocks.items() if found}


def apply(change: str, folder: Path) -> None:
    """Replaces lines marked " " and "-", which must match once, by those marked " " and "+"; @@ separates hunks."""
    for part in change.split("+++ ")[1:]:
        name, _, body = part.partition("\n")
        path = folder / name.removesuffix(" (new)")
        assert path.is_file() != name.endswith(" (new)"), name
        text = path.read_text() if path.is_file() else ""
        for hunk in body.split("@@\n"):
            old, new = (
                "".join(f"{line[1:]}\n" for line in hunk.splitlines() if line[:1] in signs) for signs in (" -", " +")
            )
            assert not old or text.count(old) == 1, f"{name} does not have this once:\n{old}"
            text = text.replace(old, new) if old else new
        path.write_text(text)


@pytest.fixture(scope="module")
def changed(tmp_path_factory) -> Path:
    """Returns a copy of the repository with all four changes applied."""
    folder = copy_to(tmp_path_factory.mktemp("contribution"))
    for change in steps().values():
        apply(change, folder)
    return folder


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "XLA_FLAGS": QUICK_COMPILE}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_each_change_has_fewer_than_ten_lines():
    assert list(steps()) == ["Add an input", "Add an optimizer", "Add a model", "Add a provider of machines"]
    for title, change in steps().items():
        added = [line for line in change.splitlines() if line.startswith("+") and not line.startswith("+++ ")]
        assert len(added) < 10, title


MOVED = """
import sys
import jax, numpy as np
import main
from estimator.parallel.param_spec import initialize
sys.argv = ["main.py", "--model", sys.argv[1]]
setup = main.read_setup(main.parse_arguments())
estimator = setup.estimator()
start = initialize(estimator.spec("predict").parameters, jax.random.key(0))
_, end = estimator.restore()
print(sorted(name for name in ("wte", "wpe") if not np.allclose(start[name], end[name], atol=1e-6)))
print(float(abs(start["wte"]).max()) > 0, float(abs(start["wpe"]).max()))
"""


def test_a_run_trains_with_the_new_input_optimizer_and_model(changed, tmp_path):
    train_byte_bpe([], n_vocab=257, out=tmp_path / "encoder")
    for name in ("poems", "letters"):
        text = tmp_path / f"{name}.jsonl"
        text.write_text("".join(json.dumps({"text": f"{name} {i} {i**2}, and so on"}) + "\n" for i in range(100)))
        options = {"encoder": str(tmp_path / "encoder"), "out": tmp_path / "shards", "executor": Executor(workers=1)}
        encode([Corpus(name, (str(text),))], Options(), quiet=True, **options)
    values = {"model": "ZeroPositions", "input": "poems", "opt_name": "lion", "model_path": str(tmp_path / "run")}
    values |= {"data_path": str(tmp_path / "shards"), "encoder_path": str(tmp_path / "encoder"), "eval_split": 0.1}
    (tmp_path / "x.json").write_text(json.dumps(values | TINY | RUN))
    shown = run(changed, "main.py", "--model", str(tmp_path / "x.json"))
    assert "2/2" in shown
    assert sum(map(int, re.findall(r"(\d+) documents", shown))) == 100  # only the poems
    moved, sizes = run(changed, "-c", MOVED, str(tmp_path / "x.json")).splitlines()[:2]
    assert moved == "['wpe', 'wte']"
    assert sizes == "True 0.0"


def test_the_new_provider_finds_its_hosts(changed):
    code = (
        "from estimator.launch.cli import PROVIDERS; print([host.name for host in PROVIDERS[-1].find('lab').hosts()])"
    )
    assert run(changed, "-c", code).strip() == "['lab1', 'lab2']"


def test_each_promise_of_security_names_a_test_that_exists():
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)[1:]
    rows = [row for row in rows if not set(row[0]) <= {"-", " "}]
    assert len(rows) >= 6
    for promise, tests in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests)
        assert named, promise
        for path, name in named:
            assert f"def {name}(" in (ROOT / path).read_text(), (path, name)


def test_versions_agree():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_workflow_runs_the_commands_of_ci_and_files_are_valid():
    yaml = pytest.importorskip("yaml", reason="no PyYAML, which mkdocs brings")
    for path in [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"]:
        assert yaml.safe_load(path.read_text()), path
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    commands = [step["run"] for step in workflow["jobs"]["check"]["steps"] if "run" in step]
    assert commands[-1] == ".ci/run"
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    for hook in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]:
        assert hook["entry"].startswith(".venv/bin/")


def test_the_docs_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="no mkdocs; pip install mkdocs-material==9.8.2")
    pytest.importorskip("material", reason="no mkdocs-material; pip install mkdocs-material==9.8.2")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages - {"index"} <= {path.name for path in (tmp_path / "site").iterdir()}
