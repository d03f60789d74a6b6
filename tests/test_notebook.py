"""The notebook's code cells run with small settings, from its own text to exported weights."""

import json
import re
import subprocess
import sys
import types
from typing import Any

import pytest
from conftest import ROOT
from helpers import main_runs

CELLS = json.loads((ROOT / "docs" / "colab.ipynb").read_text())["cells"]
CODE = {cell["metadata"]["tags"][0]: "".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"}


def run(cell: str, names: dict[str, Any]) -> None:
    """Runs a cell like IPython: lines starting with ! are shell commands with {names} substituted."""
    python = re.sub(r"^(\s*)!(.*)$", lambda line: f"{line[1]}shell({line[2]!r})", cell, flags=re.MULTILINE)
    exec(compile(python, "cell", "exec"), names)


def test_the_notebook_is_clean():
    assert list(CODE) == ["install", "settings", "text", "train", "plot", "talk", "export"]
    for cell in CELLS:
        assert cell["cell_type"] == "markdown" or (cell["outputs"] == [] and cell["execution_count"] is None)
    for name in re.findall(r"-r (\S+\.txt)", CODE["install"]):
        assert (ROOT / name).is_file()


def test_the_notebook_runs(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="the notebook plots by matplotlib")
    shown: list[str] = []
    display = types.SimpleNamespace(Image=shown.append)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(display=display))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    (tmp_path / "texts").mkdir()
    main_runs.write_corpus(tmp_path / "texts")

    def shell(line: str) -> None:
        command = re.sub(r"\{(\w+)\}", lambda name: str(names[name[1]]), line).replace("python3", sys.executable)
        done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        names["output"] = done.stdout

    names: dict[str, Any] = {"shell": shell}
    run(CODE["settings"], names)
    names |= {"DATA": tmp_path / "texts", "RUN": tmp_path / "run", "BUDGET": "2k tokens"}
    names["MORE"] = "--set n_layer=1 --set n_embd=64 --set n_ctx=16 --set n_vocab=300 --set train_batch_size=8"
    for cell in ("text", "train", "plot", "talk", "export"):
        run(CODE[cell], names)
        if cell == "talk":
            assert names["output"].count(names["PROMPT"]) >= 2
    assert shown == [str(tmp_path / "run.png")]
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(names["output"].split())
