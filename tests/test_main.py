"""main.py as its user meets it: one command trains, evaluates, predicts, survives, and explains what is wrong."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import ROOT, one_device

import main
from estimator import Estimator
from runtime import run_folder
from runtime.errors import UserError

CORPUS = "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs.\n"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Forty short documents."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(0)
    for i in range(40):
        words = CORPUS.split()
        draw.shuffle(words)
        (folder / f"{i:02}.txt").write_text(" ".join(words) + "\n" + CORPUS * draw.randint(1, 5))
    return folder


def options(corpus: Path, folder: Path, **changes) -> list[str]:
    """Arguments of a run of a few seconds."""
    values = {
        "data_path": str(corpus), "model_path": str(folder / "run"), "predict_path": str(folder / "samples.txt"),
        "n_vocab": 300, "n_ctx": 16, "n_embd": 16, "n_head": 2, "n_layer": 1, "train_batch_size": 8,
        "max_steps": 12, "train_steps": 6, "log_steps": 1, "eval_steps": 2, "length": 8, "warmup_steps": 2,
    } | changes  # fmt: skip
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    overrides = [f"--set={key}={text}" for key, text in texts.items()]
    return ["--model", str(ROOT / "configs" / "tiny.json"), *overrides]


def start(arguments: list[str], **environment: str) -> subprocess.Popen:
    """main.py in a process of its own, on one device."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "main.py"), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "XLA_FLAGS": "", **environment},
    )  # fmt: skip


def run(arguments: list[str], code: int = 0) -> tuple[str, str]:
    process = start(arguments)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    assert "Traceback" not in err, err
    return out, err


def call(monkeypatch, arguments: list[str]) -> int | None:
    """main.py in this process: no second start of Python."""
    monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
    return main.main()


def metrics(folder: Path, split: str) -> list[dict]:
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["split"] == split]


def last_step(log: Path) -> int:
    """The last step in a log that may be being written."""
    lines = log.read_text().splitlines()[:-1] if log.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def final_parameters(monkeypatch, arguments: list[str]):
    monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
    setup = main.read_setup(main.parse_arguments())
    params = setup.model.Params(setup.model_config, setup.optimizer, 1)
    return Estimator(setup.model.model_fn, params, setup.run, devices=one_device()).restore()


def test_train_evaluate_predict_from_nothing_but_text(corpus, tmp_path):
    arguments = options(corpus, tmp_path)
    _, err = run(arguments)
    assert "starting from random weights" in err
    train, evaluation = metrics(tmp_path, "train"), metrics(tmp_path, "eval")
    assert [record["step"] for record in train] == list(range(1, 13))
    assert [record["step"] for record in evaluation] == [6, 12]
    assert train[-1]["loss"] < train[0]["loss"]
    always = {"step", "tokens", "split", "loss", "time"}
    assert always | {"lr", "grad_norm", "tokens_per_second", "mfu", "step_seconds"} <= set(train[0])
    assert always | {"perplexity", "bits_per_byte"} <= set(evaluation[0])
    assert evaluation[-1]["perplexity"] == pytest.approx(np.exp(evaluation[-1]["loss"]))
    assert evaluation[-1]["bits_per_byte"] > 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["n_embd"] == 16

    out, _ = run([*arguments, "--evaluate"])
    assert f"step 12: loss {evaluation[-1]['loss']:.4f}" in out

    prompt = tmp_path / "prompt.txt"
    prompt.write_text("The quick\n")
    out, err = run([*arguments, "--predict_file", str(prompt), "--num_samples", "2", "--seed", "5", "--top_k", "3"])
    assert "seed 5" in err
    assert out == (tmp_path / "samples.txt").read_text()
    blocks = out.split("=" * 80 + "\n")
    assert len(blocks) == 3
    assert blocks[0].startswith("=" * 40 + " SAMPLE 0 " + "=" * 40 + "\nThe quick\n")
    assert blocks[1].startswith("=" * 40 + " SAMPLE 1 " + "=" * 40 + "\nThe quick\n")
    again, _ = run([*arguments, "--predict_text", "The quick\n", "--num_samples", "2", "--seed", "5", "--top_k", "3"])
    assert again == out
    assert (tmp_path / "samples.txt").read_text() == out + again

    _, err = run(arguments)
    assert "nothing to do: step 12 of 12" in err


COUNTS = {"117M": "124,439,808", "345M": "354,823,168", "PrettyBig": "367,419,392", "1.5B": "1,557,611,200"}


@pytest.mark.parametrize("name", ["117M", "345M", "762M", "1.5B", "PrettyBig", "chat", "demo", "tiny"])
def test_every_shipped_file_is_valid_and_its_plan_can_be_printed(name, monkeypatch, tmp_path, capsys):
    path = ROOT / "configs" / f"{name}.json"
    call(monkeypatch, ["--model", str(path), "--set", f"model_path={tmp_path / 'run'}", "--dry_run"])
    out = capsys.readouterr().out
    assert "steps to go" in out
    assert COUNTS.get(name, "total") in out
    assert not (tmp_path / "run").exists()


SEEDS = {
    "117M": {"n_head": 12, "n_embd": 768, "n_layer": 12, "train_batch_size": 32, "eval_batch_size": 32},
    "345M": {"n_head": 16, "n_embd": 1024, "n_layer": 24, "train_batch_size": 8, "eval_batch_size": 8},
    "PrettyBig": {"n_head": 16, "n_embd": 1024, "n_layer": 25, "train_batch_size": 256, "eval_batch_size": 256},
    "1.5B": {
        "n_head": 25, "n_embd": 1600, "n_layer": 48, "train_batch_size": 512, "eval_batch_size": 8,
        "opt_name": "adafactor", "beta1": 0.0, "decay_type": "pow", "decay_exponent": 0.8, "precision": "float32",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SEEDS)
def test_the_files_of_connorjl_load_unchanged(name, monkeypatch, tmp_path, capsys):
    values = {
        "n_vocab": 50257, "n_ctx": 1024, "embed_dropout": 0.1, "attn_dropout": 0.1, "res_dropout": 0.1, "lr": 0.00025,
        "warmup_steps": 2000, "opt_name": "adam", "weight_decay": 0.01, "train_steps": 10000, "eval_steps": 10,
        "max_steps": 500000, "iterations": 500, "input": "openwebtext", "scale_by_depth": True, "scale_by_in": True,
        "model": "GPT2", "model_path": "gs://connors-models/GPT2", "data_path": "gs://connors-datasets/openwebtext/",
        "encoder_path": "gs://openwebtext/stuff/encoder", "predict_path": "logs/predictions.txt",
        "predict_batch_size": 1,
    }  # fmt: skip
    values |= {"beta1": 0.9, "beta2": 0.98, "epsilon": 1e-9} if name != "1.5B" else {}
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(values | SEEDS[name]))
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, ["--model", str(path), "--dry_run"])
    out = capsys.readouterr().out
    assert COUNTS[name] in out
    assert ("warning: lr 0.00025 is relative with adafactor" in out) == (name == "1.5B")
    assert "warning: scale_by_in" in out


def test_killed_three_times_the_run_ends_with_the_bits_of_one_that_was_not(corpus, tmp_path, monkeypatch):
    changes = {"max_steps": 60, "train_steps": 20, "save_steps": 4, "attn_dropout": 0.1, "n_layer": 2}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    run(options(corpus, whole, **changes))
    draw, arguments = random.Random(1), options(corpus, cut, **changes)
    log = cut / "run" / "metrics.jsonl"
    for target in sorted(draw.sample(range(5, 55), 3)):
        process = start(arguments)
        # Killed in mid-flight: some time after the step was logged, whatever is being written then.
        while process.poll() is None and last_step(log) < target:
            time.sleep(0.005)
        time.sleep(draw.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    run(arguments)
    step, params = final_parameters(monkeypatch, arguments)
    assert step == 60
    _, expected = final_parameters(monkeypatch, options(corpus, whole, **changes))
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    for split in ("train", "eval"):
        cut_losses, whole_losses = (
            [(record["step"], record["loss"]) for record in metrics(folder, split)] for folder in (cut, whole)
        )
        assert cut_losses == whole_losses


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(corpus, tmp_path, number):
    arguments = options(corpus, tmp_path, max_steps=100_000, train_steps=100_000)
    process = start(arguments)
    log = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < 5):
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "the same command continues from there" in err
    saved = max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved >= 5


def test_clean_empties_a_run_and_nothing_else(corpus, tmp_path, monkeypatch):
    arguments = options(corpus, tmp_path, max_steps=2)
    run(arguments)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    run([*arguments, "--clean"])
    assert [record["step"] for record in metrics(tmp_path, "train")] == [1, 2]
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    (other / "config.json").write_text("{}")
    with pytest.raises(UserError, match="not the folder of a run"):
        run_folder.clean(other)
    assert (other / "thesis.tex").exists()
    assert (other / "config.json").exists()


def test_a_full_disk_is_one_message_and_no_half_checkpoint(corpus, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        changes = {"n_embd": 128, "n_vocab": 300, "max_steps": 4, "save_steps": 1, "keep_checkpoints": 50}
        arguments = options(corpus, tmp_path, **(changes | {"model_path": str(disk / "run")}))
        _, err = run(arguments, code=2)
        assert err.count("could not be written") == 1
        assert "No space left" in err
        assert "free some space" in err
        steps = sorted((disk / "run" / "checkpoints").iterdir())
        assert all(path.name.isdigit() for path in steps), steps
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


BAD = [
    ({"data_path": "/nowhere/at/all"}, r"/nowhere/at/all"),
    ({"n_head": 3}, r"n_head: 3 does not divide n_embd 16"),
    ({"n_hed": 3}, r"n_hed: no such key; did you mean n_head\?"),
    ({"lr": "fast"}, r"lr: .*number"),
    ({"model": "GPT3"}, r"no model 'GPT3'; did you mean GPT2"),
    ({"micro_batch_size": 3}, r"micro_batch_size: 3 does not divide"),
    ({"n_vocab": 100}, r"n_vocab is 100"),
    ({"n_ctx": 100_000}, r"less than one window of n_ctx"),
    ({"encoder_path": "/nowhere"}, r"/nowhere"),
    ({"warmup_steps": 50}, r"warmup_steps: 50 is more than the 12 steps"),
    ({"attention": "cudnn"}, r'attention: "cudnn" needs an NVIDIA GPU.*set attention to "auto"'),
    ({"max_steps": None}, r"max_steps: missing"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[next(iter(changes)) for changes, _ in BAD])
def test_bad_input_is_one_message_with_the_fix(changes, message, corpus, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=message):
        call(monkeypatch, options(corpus, tmp_path, **changes))
    assert not (tmp_path / "run" / "config.json").exists()
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_errors_of_a_process_have_no_traceback_and_a_code(corpus, tmp_path):
    _, err = run(options(corpus, tmp_path, n_head=3), code=2)
    assert err.startswith("error: ")
    _, err = run(["--model", "configs/tinny.json"], code=2)
    assert "did you mean" in err
    _, err = run([*options(corpus, tmp_path), "--predict_text", "x"], code=2)
    assert "train first" in err


def test_an_empty_corpus_and_a_short_text_are_refused(tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"no .*\.txt"):
        call(monkeypatch, options(empty, tmp_path))
    (empty / "one.txt").write_text("short")
    (empty / "two.txt").write_text("brief")
    with pytest.raises(UserError, match="window"):
        call(monkeypatch, options(empty, tmp_path))
