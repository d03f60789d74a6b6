"""lm-evaluation-harness on one of our runs gives the same results as with its transformers backend on the same weights.

Both run in the environment that .ci/run creates, or that GPT2_HARNESS names: it has access to our packages, and
provides lm_eval, accelerate, and peft.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from helpers import random_gpt2
from helpers.random_gpt2 import N_CTX
from helpers.texts import random_prose

HARNESS = Path(os.environ.get("GPT2_HARNESS", ROOT / ".venv" / "harness"))
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1", "JAX_PLATFORMS": "cpu"}
TASKS = ("own_lambada", "own_choice", "own_rolling", "own_answers")


def write_tasks(folder: Path) -> None:
    """Writes a task of each kind and their items, some of which are longer than the context."""
    prose = [random_prose(600)[start : start + 40 * (start % 7 + 1)] for start in range(0, 1200, 60)]
    items = [
        {"text": text.strip(), "choices": ["then", "the end.", "\u00e9t\u00e9 so"], "label": number % 3}
        for number, text in enumerate([*prose, random_prose(120)])
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(folder / "items.jsonl")}}}
    kinds = {
        "own_lambada": {
            "output_type": "loglikelihood", "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
            "doc_to_target": "{{' '+text.split(' ')[-1]}}",
            "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
        },
        "own_choice": {
            "output_type": "multiple_choice", "doc_to_text": "{{text}}", "doc_to_choice": "choices",
            "doc_to_target": "label", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        },
        "own_rolling": {
            "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
            "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
        },
        "own_answers": {
            "output_type": "generate_until", "doc_to_text": "{{text}}", "doc_to_target": "{{label}}",
            "generation_kwargs": {"until": ["e"], "max_gen_toks": 20, "do_sample": False},
            "metric_list": [{"metric": "exact_match"}],
        },
    }  # fmt: skip
    for name, kind in kinds.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, "test_split": "test", **data, **kind}))


def samples(folder: Path) -> dict[str, list]:
    """Returns the responses to all requests of each task."""
    found = {}
    for path in folder.rglob("samples_*.jsonl"):
        lines = sorted(map(json.loads, path.read_text().splitlines()), key=lambda line: line["doc_id"])
        found[path.name.removeprefix("samples_").rpartition("_")[0]] = [line["resps"] for line in lines]
    return found


def numbers(resps: list) -> list[float]:
    """Returns the log-likelihoods among the responses."""
    while any(isinstance(each, list) for each in resps):
        resps = [part for each in resps for part in (each if isinstance(each, list) else [each])]
    return [float(each) for each in resps if str(each) not in ("True", "False")]


def test_the_harness_gives_the_numbers_of_its_transformers_backend(tmp_path):
    python = HARNESS / "bin" / "python"
    if not list(HARNESS.glob("lib/python3*/site-packages/lm_eval")):
        pytest.skip(f"no lm_eval in {HARNESS}; .ci/run installs it")
    model = random_gpt2.make(tmp_path)
    write_tasks(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"model_path": "x", "train_batch_size": 8}))
    common = ["--tasks", ",".join(TASKS), "--include_path", str(tmp_path), "--log_samples"]
    theirs = f"pretrained={model.exported},dtype=float32,max_length={N_CTX}"
    commands = {
        "ours": ["-m", "benchmarks.lm_eval", "--model", str(model.config), *common],
        "theirs": ["-m", "lm_eval", "run", "--model", "hf", "--model_args", theirs, "--device", "cpu",
                   "--batch_size", "8", *common],
    }  # fmt: skip
    for name, command in commands.items():
        done = subprocess.run(
            [str(python), *command, "--output_path", str(tmp_path / name)],
            cwd=ROOT if name == "ours" else tmp_path, env=os.environ | OFFLINE | {"HF_HOME": str(tmp_path / "hub")},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = samples(tmp_path / "ours"), samples(tmp_path / "theirs")
    assert set(ours) == set(theirs) == set(TASKS)
    assert ours["own_answers"] == theirs["own_answers"]
    assert len({json.dumps(each) for each in ours["own_answers"]}) > 5
    for task in TASKS[:3]:
        found, expected = numbers(ours[task]), numbers(theirs[task])
        assert len(found) >= 21
        # Their float32 sums over hundreds of tokens are exact to six or seven digits, by the processor.
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-5), task
    (results,) = (tmp_path / "theirs").rglob("results_*.json")
    expected = json.loads(results.read_text())["results"]
    records = [json.loads(line) for line in (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()]
    assert {record["task"] for record in records} == set(TASKS)
    for record in records:
        for name, value in record.items():
            if "," in name and "stderr" not in name:
                assert value == pytest.approx(expected[record["task"]][name], rel=1e-5), name
