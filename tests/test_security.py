"""Promises of SECURITY.md about the code: no pickle, no extraction to archive-controlled paths, no stored secrets."""

import ast
import base64
import hashlib
import runpy
import subprocess
import sys
import tarfile
from io import BytesIO

import numpy as np
import pytest
from conftest import ROOT
from helpers.main_runs import options, write_corpus

from estimator.errors import UserError
from estimator.evaluation import tasks
from estimator.launch import ship_code
from estimator.training import progress
from models.gpt2.convert import llm_c

UNSAFE = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
ALLOWED = {
    "estimator/interop/torch_pickle.py": {"pickle"},  # with an Unpickler that does not import anything
    "gpt2/__main__.py": {"exec"},  # runs the programs of this package
}
# Methods that write to paths named in an archive, or execute its contents.
UNPACKS = {"extractall", "unpack_archive"}


def calls_and_imports(source: str) -> set[str]:
    """Returns a module's imports and calls that execute data as code or write to paths taken from data."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] in UNSAFE}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNSAFE:
            found.add(str(node.module))
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            is_function = isinstance(node.func, ast.Name)
            keywords = {word.arg: word.value for word in node.keywords}
            if name in UNPACKS or (is_function and name in ("eval", "exec")):
                found.add(name)
            for flag in ("allow_pickle", "shell"):
                value = keywords.get(flag)
                if value is not None and not (isinstance(value, ast.Constant) and value.value is False):
                    found.add(flag)
    return found


def test_no_code_unpickles_runs_data_or_unpacks_archives_by_their_names():
    assert calls_and_imports("import pickle\nnp.load(x, allow_pickle=True)\ntar.extractall()\nexec(a)") == {
        "pickle", "allow_pickle", "extractall", "exec",
    }  # fmt: skip
    found = {}
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        if name.split("/")[0] in ("tests", "benchmarks", "findings", "docs", "runs") or name.startswith("."):
            continue
        if faults := calls_and_imports(path.read_text(encoding="utf-8")):
            found[name] = faults
    assert found == ALLOWED


def test_a_training_writes_and_prints_no_secret_of_its_environment(tmp_path, monkeypatch):
    canary = "canary-5f1d0c9e7b"
    (tmp_path / "texts").mkdir()
    arguments = options(write_corpus(tmp_path / "texts"), tmp_path, max_steps=2, train_steps=2)
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "OPENAI_API_KEY", "GITHUB_TOKEN"):
        monkeypatch.setenv(name, canary)
    command = [sys.executable, str(ROOT / "main.py"), *arguments]
    done = subprocess.run(command, capture_output=True, check=True, cwd=ROOT, timeout=500)
    assert (tmp_path / "run" / "metrics.jsonl").exists()
    assert canary.encode() not in done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not [path for path in files if canary.encode() in path.read_bytes()]


def test_code_that_is_sent_to_hosts_has_no_file_that_git_does_not_track(tmp_path):
    for command in (["init", "-q"], ["add", "main.py"]):
        (tmp_path / "main.py").write_text("pass\n")
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    for name in (".env", "credentials.json", "keys.txt"):
        (tmp_path / name).write_text("secret")
    with tarfile.open(fileobj=BytesIO(ship_code.pack(tmp_path))) as tar:
        assert tar.getnames() == ["main.py"]


def test_the_audit_names_vulnerable_other_and_changed_packages(tmp_path, monkeypatch):
    audit = runpy.run_path(str(ROOT / ".ci" / "audit.py"))
    fault = {"id": "CVE-1", "fix_versions": ["2"], "description": ""}
    report = [{"name": "a", "version": "1", "vulns": [fault]}, {"name": "b", "skip_reason": "not found"}]
    assert audit["vulnerabilities"]({"dependencies": report}) == (["a 1: CVE-1, fixed in 2"], 1)
    (tmp_path / "requirements.txt").write_text("-c x.txt\na==1  # why\nb==2; python_version < '3'\n")
    assert audit["pins"]([tmp_path / "requirements.txt"]) == {"a": "1"}
    folder = tmp_path / "mine-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"pass\n").digest()).rstrip(b"=").decode()
    (folder / "RECORD").write_text(f"mine.py,sha256={digest},5\n")
    (tmp_path / "mine.py").write_bytes(b"pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert audit["differences"]({"mine": "1", "not-installed": "3"}) == []
    (tmp_path / "mine.py").write_bytes(b"fail\n")
    other, changed = audit["differences"]({"mine": "2"})
    assert other.startswith("mine: 1 is installed, 2 pinned;")
    assert "mine.py: differs from its wheel" in changed


@pytest.mark.parametrize("text", ["[]", '{"spans": 1}', '{"spans": [[1]]}', '{"spans": [{"a": 1}]}', "[" * 3000])
def test_a_damaged_progress_file_is_refused(tmp_path, text):
    (tmp_path / progress.FILE_NAME).write_text(text)
    with pytest.raises(UserError, match="is damaged; restore it"):
        progress.resume(tmp_path, 0, batch_size=4, tokens_per_window=16, data={}, old={})


@pytest.mark.parametrize(
    "record",
    [{"choices": ["a", "b"]}, {"choices": {"text": ["a", "b"], "label": 5}}, {"choices": [1, 2]}],
)
def test_records_of_tasks_of_another_shape_are_refused(record):
    values = {"question": "q", "answerKey": "A", **record}
    with pytest.raises(tasks.BadItem):
        tasks.item(tasks.TASKS["arc"], values)
    with pytest.raises(tasks.BadItem, match="is not a choice"):
        tasks.item(tasks.TASKS["piqa"], {"goal": "g", "sol1": "a", "sol2": "b", "label": "\u00b2"})


def test_a_model_file_with_millions_of_layers_in_its_header_is_refused_before_they_are_listed(tmp_path):
    header = np.zeros(256, "<i4")
    header[:8] = (20240326, 3, 4, 20, 1 << 24, 2, 8, 32)
    (tmp_path / "m.bin").write_bytes(header.tobytes())
    with pytest.raises(UserError, match=r"should have .* bytes and has 1,024"):
        llm_c.ModelFile(tmp_path / "m.bin")
