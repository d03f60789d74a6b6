"""The core runs without optional packages and on systems other than Linux; other features report missing packages."""

import ast
import gzip
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT
from helpers.main_runs import options, write_corpus

from benchmarks.reading import sources

HELPER = ROOT / "tests" / "helpers" / "bare_system.py"
RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
ALLOWED = re.compile(r"[\w .@+,=#~()\[\]-]+")  # valid in file names on all systems: no colon, quote, bar, question mark
# Optional packages by feature: each must be reported in one line with the command that installs it.
NEEDS = {
    "figures": ("visualize.py {run} --figure {out}/a.png", "matplotlib"),
    "GGUF": ("export_model.py --model {run}/config.json --to gguf --out {out}/gguf", "export.txt"),
    "serving": ("serve.py --model {run}", "serve.txt"),
    "Optuna": ("main.py --model {run}/config.json --sweep {out}/sweep.json", "sweep.txt"),
    "wandb": ('main.py {options} --set trackers=["wandb"] --set model_path={out}/w', "wandb"),
    "gs://": ("main.py {options} --set model_path=gs://bucket/run", "gcs.txt"),
    "s3://": ("datasets/encode.py s3://bucket/texts --encoder {encoder} --out {out}/s", "s3.txt"),
    "Google Cloud": ("main.py {options} --tpu my-tpu --tpu_project p --tpu_zone us-east5-b", "gcs.txt"),
    "Parquet": ("datasets/encode.py {out}/a.parquet --encoder {encoder} --out {out}/p", "data.txt"),
    "zstd": ("datasets/encode.py {out}/a.txt.zst --encoder {encoder} --out {out}/z", "data.txt"),
    "HTML": ("datasets/encode.py {out}/a.html --encoder {encoder} --out {out}/h", "data.txt"),
    "ftfy": ("datasets/encode.py {texts} --encoder {encoder} --out {out}/f --fix_text", "data.txt"),
    "Ray": ("datasets/encode.py {texts} --encoder {encoder} --out {out}/r --executor ray", "ray"),
    "SentencePiece": (
        "datasets/train_tokenizer.py {texts} --kind sentencepiece --vocab_size 300 --out {out}/sp",
        "data.txt",
    ),
    "crawler": ("datasets/openwebtext/download.py {out}/urls.txt --out {out}/pages --contact a@b.org", "data.txt"),
    "pages": ("datasets/openwebtext/extract_text.py {out}/pages.warc --out {out}/x", "data.txt"),
    "HDF5": ("main.py {options} --set init_from={out}/m.hdf5 --set model_path={out}/i", "export.txt"),
}


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> tuple[Path, dict[str, dict]]:
    """Runs commands with only the core packages on a simulated foreign system; returns the directory and outcomes."""
    folder = tmp_path_factory.mktemp("bare")
    for name in ("texts", "out"):
        (folder / name).mkdir()
    texts, out = write_corpus(folder / "texts"), folder / "out"
    sweep = {"parameters": {"lr": [0.1]}, "sampler": "TPESampler", "trials": 2, "folder": str(out / "sweep")}
    for name, data in {
        "a.parquet": b"PAR1", "a.txt.zst": b"\x28\xb5\x2f\xfd", "a.html": b"<p>a</p>", "m.hdf5": b"\x89HDF\r\n\x1a\n",
        "urls.txt": b"http://example.org/a\n", "pages.warc": b"WARC/1.0\r\n", "a.txt.gz": gzip.compress(b"a fox " * 99),
        "sweep.json": json.dumps(sweep).encode(),
    }.items():  # fmt: skip
        (out / name).write_bytes(data)
    given = options(texts, folder, max_steps=4, train_steps=2)
    inputs = [str(texts), str(out / "a.txt.gz")]
    run, encoder, shards = folder / "run", folder / "encoder", folder / "shards"
    works = {
        "tokenizer": ["datasets/train_tokenizer.py", str(texts), "--vocab_size", "280", "--out", str(encoder)],
        "encode": ["datasets/encode.py", *inputs, "--encoder", str(encoder), "--out", str(shards), "--workers", "2",
                   "--task_bytes", "4000"],
        "train": ["main.py", *given],
        "evaluate": ["main.py", *given, "--evaluate"],
        "predict": ["main.py", *given, "--predict_text", "The", "--seed", "1"],
        "plan": ["main.py", *given, "--dry_run"],
        "export": ["export_model.py", "--model", str(run / "config.json"), "--to", "hf", "--out", str(folder / "hf")],
    }  # fmt: skip
    places = {"run": run, "out": out, "texts": texts, "encoder": encoder}
    for name, (command, _) in NEEDS.items():
        words = [given if word == "{options}" else [word.format(**places)] for word in command.split()]
        works[name] = [word for part in words for word in part]
    (folder / "commands.json").write_text(json.dumps(list(works.values())))
    environment = os.environ | {"HOME": str(folder), "GPT2_CLUSTER": str(folder / "cluster")}
    done = subprocess.run(
        [sys.executable, HELPER, folder / "commands.json"], env=environment, capture_output=True, text=True, timeout=500
    )
    lines = [json.loads(line[8:]) for line in done.stdout.splitlines() if line.startswith("OUTCOME ")]
    assert len(lines) == len(works), done.stdout[-2000:] + done.stderr[-4000:]
    return folder, dict(zip(works, lines, strict=True))


@pytest.mark.parametrize("name", ["tokenizer", "encode", "train", "evaluate", "predict", "plan", "export"])
def test_the_core_works_with_its_own_packages_on_a_system_without_proc_affinity_and_fork(bare, name):
    assert bare[1][name] == {"code": 0}


@pytest.mark.parametrize("name", NEEDS)
def test_a_missing_package_is_one_line_with_the_command_that_installs_it(bare, name):
    found = bare[1][name]
    assert found["code"] == 2
    assert re.search(rf"pip install \S*.*{re.escape(NEEDS[name][1])}", found["error"]), found
    assert len(found["error"].splitlines()) == 1


def test_names_of_files_are_good_on_every_system(bare):
    folder = bare[0]
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    written = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    for paths in (tracked.split("\0")[:-1], written):
        assert len(paths) > 50
        for path in paths:
            for part in path.split("/"):
                assert ALLOWED.fullmatch(part), path
                assert not RESERVED.fullmatch(part), path
                assert part[-1] not in " .", path
            assert len(path) < 160, path  # Windows allows 260 by default
        folded = Counter(path.casefold() for path in paths)
        assert not [path for path, count in folded.items() if count > 1]


def test_windows_is_pointed_to_wsl():
    code = "import os, sys; os.name = 'nt'; from estimator import interrupts; interrupts.exit_quietly()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(r"error: on Windows, use WSL2: .*README\.md\n", done.stderr)


def without_encoding(source: str) -> list[int]:
    """Returns the lines that open a text file, or read a program's output as text, without an encoding."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")
        keywords = {word.arg: word.value for word in node.keywords}
        place = {"open": 1, "fdopen": 1, "TemporaryFile": 0, "NamedTemporaryFile": 0}.get(name[2])
        if name[2] in ("read_text", "write_text"):
            is_text = len(node.args) < (1 if name[2] == "read_text" else 2)
        elif name[2] in ("run", "Popen", "check_output"):
            is_text = "text" in keywords or "universal_newlines" in keywords
        elif place is not None and name[0] in ("", "os", "builtins", "tempfile", "gzip", "bz2", "lzma"):
            is_os = ast.unparse(node.func) == "os.open"
            packed = name[0] in ("gzip", "bz2", "lzma", "tempfile")
            mode = keywords.get("mode", node.args[place] if len(node.args) > place else None)
            text = ast.unparse(mode) if mode is not None else "'rb'" if packed else "'r'"
            is_text = not is_os and "b" not in text and not (packed and "t" not in text and name[0] != "tempfile")
        else:
            continue
        if is_text and "encoding" not in keywords:
            found.append(node.lineno)
    return found


def test_every_text_file_is_opened_with_its_encoding():
    source = "open(a)\nopen(a, 'rb')\nos.open(a)\nb.read_text()\nb.write_text('')\nrun(c, text=True)\nopen(a, 'w')"
    assert without_encoding(source) == [1, 4, 5, 6, 7]
    assert without_encoding("open(a, 'w', encoding='utf-8')\ngzip.open(a)\nb.read_text('ascii')") == []
    found = {str(path): without_encoding((ROOT / path).read_text(encoding="utf-8")) for path in sources()}
    assert len(found) > 200
    assert not {path: lines for path, lines in found.items() if lines}
