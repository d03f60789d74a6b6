"""The commands that messages name work where they are shown."""

import re
import shlex

import pytest
from conftest import ROOT

from estimator import invocation
from gpt2 import __main__ as command


def test_requirement_files_are_named_by_a_path_that_is_right_in_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert invocation.install("serve") == "pip install -r requirements-serve.txt"
    assert invocation.install() == "pip install -r requirements.txt"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "requirements-serve.txt").write_text("of another project")
    assert invocation.install("serve") == f"pip install -r {ROOT / 'requirements-serve.txt'}"
    monkeypatch.setattr(invocation, "ROOT", str(tmp_path / "my programs"))
    assert shlex.split(invocation.install("gcs", "s3"))[2:] == [
        *("-r", str(tmp_path / "my programs" / "requirements-gcs.txt")),
        *("-r", str(tmp_path / "my programs" / "requirements-s3.txt")),
    ]


def test_programs_are_named_by_the_command_that_runs_them(monkeypatch):
    assert invocation.program("main.py") == "python3 main.py"
    monkeypatch.setattr(invocation, "COMMANDS", {"main.py": "gpt2 train"})
    assert invocation.program("main.py") == "gpt2 train"
    assert invocation.program("benchmarks/survival.py") == "python3 benchmarks/survival.py"


@pytest.mark.parametrize("folder", ["estimator", "models", "serving", "crawler", "datasets", "."])
def test_no_message_names_a_program_or_a_requirement_file_in_another_way(folder):
    programs = "|".join(re.escape(each.program) for each in command.COMMANDS.values())
    fixed = re.compile(rf'[^"]"[^"]*(python3 ({programs})|pip install -r \w)')
    paths = ROOT.glob("*.py") if folder == "." else (ROOT / folder).rglob("*.py")
    lines = [line.strip() for path in paths for line in path.read_text().splitlines()]
    assert [line for line in lines if fixed.search(line) and not line.startswith('"""')] == []
