"""main.py as a command: training, evaluation, prediction, recovery from kills, and error messages."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import QUICK_COMPILE, ROOT
from helpers.main_runs import call, final_parameters, metrics, options

from benchmarks._workers import Recorded
from estimator.commands import check
from estimator.data.token_stream import PackedDataset
from estimator.errors import UserError
from estimator.setup import Setup
from estimator.training import run_dir


def start(arguments: list[str], **environment: str) -> Recorded:
    """Starts main.py in a separate process on one device."""
    command = [sys.executable, str(ROOT / "main.py"), *arguments]
    return Recorded(command, merged=False, env={**os.environ, "XLA_FLAGS": QUICK_COMPILE, **environment})


def run(arguments: list[str], code: int = 0, **environment: str) -> tuple[str, str]:
    process = start(arguments, **environment)
    out, err = process.outputs(900)
    assert process.returncode == code, err
    assert "Traceback" not in err, err
    return out, err


def last_step(log: Path) -> int:
    """Returns the last step in a log that may be incomplete."""
    lines = log.read_text().splitlines()[:-1] if log.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def test_train_evaluate_predict_from_nothing_but_text(corpus, tmp_path):
    arguments = options(corpus, tmp_path)
    _, err = run(arguments, XLA_FLAGS="")  # compiled with default flags
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
    assert f"appending samples to {tmp_path / 'samples.txt'}" in err
    assert out == (tmp_path / "samples.txt").read_text()
    blocks = out.split("=" * 80 + "\n")
    assert len(blocks) == 3
    assert blocks[0].startswith("=" * 40 + " SAMPLE 0 " + "=" * 40 + "\nThe quick\n")
    assert blocks[1].startswith("=" * 40 + " SAMPLE 1 " + "=" * 40 + "\nThe quick\n")
    again, _ = run([*arguments, "--predict_text", "The quick\n", "--num_samples", "2", "--seed", "5", "--top_k", "3"])
    assert again == out
    assert (tmp_path / "samples.txt").read_text() == out + again

    (tmp_path / "lines.txt").write_text("The quick\nbrown")
    flags = ["--length", "4", "--seed", "5", "--logprobs", "--set", "predict_batch_size=2"]
    out, _ = run([*arguments, "--predict_lines", str(tmp_path / "lines.txt"), *flags])
    first, second = map(json.loads, out.splitlines())
    assert (first["prompt"], second["prompt"]) == ("The quick", "brown")
    assert [len(item["tokens"]) for item in first["completions"]] == [4]
    (tmp_path / "objects.jsonl").write_text('{"prompt": "The quick"}\n')
    _, err = run([*arguments, "--predict_lines", str(tmp_path / "objects.jsonl"), "--length", "4"])
    assert "each line is a JSON object and is continued as it is written; --predict_file" in err
    saved = ["--set", f"predict_path={tmp_path / 'new' / 'samples.jsonl'}", "--predict_text", "The quick"]
    out, _ = run([*arguments, *saved, "--length", "4", "--seed", "5"])
    assert json.loads(out)["completions"] == [first["completions"][0]["text"]]
    assert (tmp_path / "new" / "samples.jsonl").read_text() == out
    alone, _ = run(
        [*arguments, "--predict_text", "The quick", "--length", "4", "--seed", "5", "--set=predict_path=auto"]
    )
    assert (tmp_path / "run" / "predictions.txt").read_text() == alone
    assert f"The quick{first['completions'][0]['text']}" in alone

    _, err = run([*arguments, "--predict_text", "x", "--set", 'logit_bias={"99999": 1}'], code=2)
    assert "logit_bias: token 99999 is not one of the vocabulary's" in err

    kept = (tmp_path / "run" / "config.json").read_bytes()
    for steps in (12, 6):
        _, err = run([*arguments, "--set", f"max_steps={steps}"])
        assert f"already at step 12 of {steps}; raise max_steps to continue" in err
    _, err = run([*arguments, "--set", "max_steps=null", "--set", "max_tokens=768"])
    assert "already at step 12 of 6; raise max_tokens to continue" in err
    assert (tmp_path / "run" / "config.json").read_bytes() == kept  # of the steps that were trained


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--predict_text", "The", "--logprobs"], "--logprobs goes with --predict_lines"),
        (["--interactive", "--best_of", "2"], "--best_of does not go with --interactive"),
    ],
)
def test_flags_of_generation_that_would_have_no_effect_are_refused(flags, fault, monkeypatch):
    with pytest.raises(UserError, match=fault):
        call(monkeypatch, ["--model", str(ROOT / "configs" / "tiny.json"), *flags])


COUNTS = {"117M": "124,439,808", "345M": "354,823,168", "PrettyBig": "367,419,392", "1.5B": "1,557,611,200"}


@pytest.mark.parametrize("name", ["117M", "345M", "762M", "1.5B", "PrettyBig", "chat", "demo", "tiny"])
def test_every_shipped_file_is_valid_and_its_plan_can_be_printed(name, monkeypatch, tmp_path, capsys):
    path = ROOT / "configs" / f"{name}.json"
    call(monkeypatch, ["--model", str(path), "--set", f"model_path={tmp_path / 'run'}", "--dry_run"])
    out = capsys.readouterr().out
    assert "steps to go" in out
    assert COUNTS.get(name, "total") in out
    summary, _, keys = out.partition("\n\n")
    assert summary.startswith("devices: ")  # what one looks for comes first
    assert "in all about" in summary
    assert '"n_embd"' in keys
    assert '"activation"' not in keys  # which has its default in each of the files
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
        # Kill at a random time after the step was logged, whatever is being written.
        while process.poll() is None and last_step(log) < target:
            time.sleep(0.005)
        time.sleep(draw.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_says_how_to_go_on(corpus, tmp_path, number):
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("the tests run under nohup, and so would the program")
    arguments = options(corpus, tmp_path, max_steps=100_000, train_steps=100_000)
    process = start(arguments)
    log = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < 5):
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.outputs(600)
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
        run_dir.clean(other)
    assert (other / "thesis.tex").exists()
    assert (other / "config.json").exists()


@pytest.mark.parametrize("clean", [False, True])
def test_a_process_that_another_one_overtook_before_it_held_the_lock_trains_nothing(
    clean, corpus, tmp_path, monkeypatch
):
    arguments = options(corpus, tmp_path)
    spans = Setup.spans

    def overtaken(self, *values):
        monkeypatch.setattr(Setup, "spans", spans)
        assert call(monkeypatch, [*arguments, "--set=max_steps=5"]) == 0
        return spans(self, *values)

    monkeypatch.setattr(Setup, "spans", overtaken)
    again = "without --clean to continue it" if clean else "again to continue it"
    with pytest.raises(UserError, match=f"has just trained this run to step 5; run the same command {again}"):
        call(monkeypatch, [*arguments, *["--clean"] * clean])
    assert [record["step"] for record in metrics(tmp_path, "train")] == list(range(1, 6))
    assert call(monkeypatch, arguments) == 0
    assert [record["step"] for record in metrics(tmp_path, "train")] == list(range(1, 13))


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
    ({"logit_bias": {"9" * 5000: 1}}, r"logit_bias: '9{40}' is not a token id"),
    ({"logit_bias": {"5": 1, "05": -1}}, r"logit_bias: '05' is not a token id; .*without 0 before"),
    ({"n_hed": 3}, r"n_hed: no such key; did you mean n_head\?"),
    ({"lerning": 3}, r'lerning: no such key; did you mean learning_rate\? write "lr": 3'),
    ({"lr": "fast"}, r"lr: .*number"),
    ({"model": "GPT3"}, r"no model 'GPT3'; did you mean GPT2"),
    ({"micro_batch_size": 3}, r"micro_batch_size: 3 does not divide"),
    ({"n_vocab": 100}, r"n_vocab is 100"),
    ({"n_ctx": 100_000}, r"/\d\d\.txt and others: the training text has [\d,]+ tokens, less than one window of n_ctx"),
    ({"encoder_path": "/nowhere"}, r"/nowhere"),
    ({"n_ctx": 10**12}, r"n_ctx: .*less than or equal to"),
    ({"n_vocab": 10**15}, r"n_vocab: .*less than or equal to"),
    ({"train_batch_size": 10**9}, r"train_batch_size: .*less than or equal to"),
    ({"train_batch_size": -8}, r"train_batch_size: .*greater than 0"),
    ({"max_steps": 10**12}, r"max_steps: 1000000000000 is too large"),
    ({"seed": 2**32}, r"seed: .*less than 4294967296"),
    ({"attention": "cudnn"}, r'attention: "cudnn" needs an NVIDIA GPU.*set attention to "auto"'),
    ({"max_steps": None}, r"max_steps: missing"),
    ({"eval_split": "10%"}, r"eval_split: '10%' is a text; write the number 0\.1 without quotes"),
    ({"eval_split": '"0.05"'}, r"eval_split: '0\.05' is a text; write the number 0\.05 without quotes"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[next(iter(changes)) for changes, _ in BAD])
def test_bad_input_is_one_message_with_the_fix(changes, message, corpus, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=message):
        call(monkeypatch, options(corpus, tmp_path, **changes))
    assert not (tmp_path / "run" / "config.json").exists()
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_weights_that_cannot_be_read_are_named_before_text_is_prepared(tmp_path, monkeypatch):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("some text " * 500)
    text = {"input": "text", "data_path": str(tmp_path / "text"), "init_from": str(tmp_path / "124M")}
    with pytest.raises(UserError, match="124M: no such file or folder; check the spelling"):
        call(monkeypatch, options(tmp_path, tmp_path, **text))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.txt", "text"]


def test_the_mesh_that_was_chosen_is_told_once(corpus, tmp_path, monkeypatch, capfd):
    call(monkeypatch, options(corpus, tmp_path, max_steps=2))
    assert capfd.readouterr().err.count("mesh: data ") == 1


@pytest.mark.parametrize("flags", [["--temperature", "0"], ["--num_samples", "3"], ["--logprobs"], ["--seed", "1"]])
def test_flags_of_generation_alone_train_nothing(flags, corpus, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=f"{flags[0]} goes with --predict_text"):
        call(monkeypatch, [*options(corpus, tmp_path), *flags])
    assert not (tmp_path / "run").exists()


def test_a_run_without_compilation_can_be_debugged(corpus, tmp_path):
    run(options(corpus, tmp_path, max_steps=2, train_steps=2), JAX_DISABLE_JIT="1")
    assert [record["step"] for record in metrics(tmp_path, "train")] == [1, 2]


def test_errors_of_a_process_have_no_traceback_and_a_code(corpus, tmp_path):
    _, err = run(options(corpus, tmp_path, n_head=3), code=2)
    assert err.startswith("error: ")
    _, err = run(["--model", "configs/tinny.json"], code=2)
    assert "did you mean" in err
    _, err = run([*options(corpus, tmp_path), "--predict_text", "x"], code=2)
    assert "train first" in err


def test_rows_that_no_text_uses_are_a_warning_with_the_number_to_set(corpus, tmp_path, monkeypatch, capfd):
    arguments = options(corpus, tmp_path, n_vocab=50257, n_embd=2, n_head=1, max_steps=2)
    call(monkeypatch, arguments)
    text = "".join(capfd.readouterr())
    found = re.search(r"warning: n_vocab: ([\d,]+) of 50,257 rows .* has (\d+) entries; set n_vocab to (\d+)", text)
    assert found
    assert found[2] == found[3] == str(50257 - int(found[1].replace(",", "")))
    call(monkeypatch, [*arguments, "--set=max_steps=3"])  # a run that has begun cannot change it
    assert "rows of the table" not in "".join(capfd.readouterr())
    call(monkeypatch, [*arguments, "--clean", f"--set=n_vocab={found[3]}"])
    assert "rows of the table" not in "".join(capfd.readouterr())


def test_an_empty_corpus_and_a_short_text_are_refused(tmp_path, monkeypatch):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match=r"no .*\.txt"):
        call(monkeypatch, options(empty, tmp_path))
    (empty / "one.txt").write_text("short")
    (empty / "two.txt").write_text("brief")
    with pytest.raises(UserError, match="window"):
        call(monkeypatch, options(empty, tmp_path))


def test_a_run_whose_output_nobody_reads_or_whose_log_disk_is_full_trains_to_its_end(corpus, tmp_path):
    command = [sys.executable, str(ROOT / "main.py"), *options(corpus, tmp_path, save_steps=6)]
    environment = {**os.environ, "XLA_FLAGS": QUICK_COMPILE}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    process.stdout.close()
    assert process.wait(timeout=300) == 0
    assert last_step(tmp_path / "run" / "metrics.jsonl") == 12
    shutil.rmtree(tmp_path / "run")
    with open("/dev/full", "w") as full:
        assert (
            subprocess.run(command, stdout=full, stderr=full, env=environment, timeout=300, check=False).returncode == 0
        )
    assert (tmp_path / "run" / "checkpoints" / "12").is_dir()
    run([*options(corpus, tmp_path), "--predict_text", "\xfcber", "--seed=1"], PYTHONIOENCODING="ascii")
    assert "\xfcber" in (tmp_path / "samples.txt").read_text()
    C = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    out, _ = run([*options(corpus, tmp_path), "--predict_text", "Z\xfcrich", "--stop", r"\n"], **C)
    assert "Z?rich" in out
    assert "Z\xfcrich" in (tmp_path / "samples.txt").read_text()


def test_another_batch_size_continues_with_the_next_window_and_keeps_max_tokens(corpus, tmp_path, monkeypatch):
    seen = []
    batch_of = PackedDataset.batch
    monkeypatch.setattr(PackedDataset, "batch", lambda self, numbers: seen.extend(numbers) or batch_of(self, numbers))
    ends = {"max_steps": None, "max_tokens": 16 * 8 * 10, "train_steps": 100, "warmup_steps": None}
    call(monkeypatch, options(corpus, tmp_path, **ends | {"max_steps": 4}))
    assert sorted(set(seen)) == list(range(4 * 8))
    seen.clear()
    assert not call(monkeypatch, options(corpus, tmp_path, **ends, train_batch_size=16))
    assert sorted(set(seen)) == list(range(4 * 8, 10 * 8))
    tokens = [(record["step"], record["tokens"]) for record in metrics(tmp_path, "train")]
    assert tokens == [(step, 128 * step if step <= 4 else 512 + 256 * (step - 4)) for step in range(1, 8)]


def test_a_run_whose_progress_is_gone_says_what_its_steps_are_taken_for(corpus, tmp_path, monkeypatch, capfd):
    arguments = options(corpus, tmp_path)
    assert call(monkeypatch, [*arguments, "--set=max_steps=6"]) == 0
    (tmp_path / "run" / "progress.json").unlink()
    capfd.readouterr()
    assert call(monkeypatch, arguments) == 0
    warning = "progress.json is missing; the 6 steps so far are taken for ones of 8 windows of 16 tokens (config.json)"
    assert warning in capfd.readouterr().err
    assert [record["tokens"] for record in metrics(tmp_path, "train")] == [128 * step for step in range(1, 13)]
    assert call(monkeypatch, arguments) == 0
    assert "is missing" not in capfd.readouterr().err


def test_check_looks_at_everything_and_touches_nothing(corpus, tmp_path, monkeypatch, capsys):
    before = sorted(tmp_path.rglob("*"))
    arguments = options(corpus, tmp_path)
    assert call(monkeypatch, [*arguments, "--check"]) == 0
    out = capsys.readouterr().out
    for part in ("40 files", "3[0-9] documents", "checkpoints take .* each, up to .* for 7", "all is well"):
        assert re.search(part, out), part
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"data_path": "/nowhere", "model_path": "/dev/null/run"}, ["/nowhere", "model_path: .*/dev/null is a file"]),
        ({"n_embd": 65536, "n_head": 512, "n_layer": 100}, ["memory: .* in this machine", "disk: checkpoints take"]),
        ({"keep_checkpoints": 2**31 - 1}, ["disk: checkpoints take"]),
        ({"n_ctx": 100_000}, ["less than one window"]),
        ({"micro_batch_size": 3}, ["micro_batch_size: 3 does not divide"]),
        ({"encoder_path": "/nowhere"}, ["/nowhere"]),
        ({"init_from": "124M"}, ["124M is neither a file or folder here"]),
    ],
)
def test_check_names_each_problem_and_ends_with_a_code(changes, messages, corpus, tmp_path, monkeypatch, capsys):
    assert call(monkeypatch, [*options(corpus, tmp_path, **changes), "--check"]) == 2
    err = capsys.readouterr().err
    for message in messages:
        assert re.search(f"error: .*{message}", err)
    assert not (tmp_path / "run").exists()


def test_a_line_before_training_says_how_names_divide_an_archive(tmp_path, monkeypatch, capsys):
    for name in ("train", "valid"):
        (tmp_path / "texts" / name).mkdir(parents=True)
        (tmp_path / "texts" / name / "a.txt").write_text(" ".join(f"{name}{i}" for i in range(2000)))
    path = shutil.make_archive(str(tmp_path / "wiki"), "gztar", tmp_path / "texts")
    run = options(Path(path), tmp_path, max_steps=1)
    monkeypatch.setattr(check, "PREPARED_BYTES", 0)
    line = "by their names, valid in wiki.tar.gz: not trained on, but evaluated on\n"
    # Large text is not read before a run; at last it is from the cache.
    for more, count in ((["--check"], 0), (["--dry_run"], 0), ([], 1), (["--dry_run"], 1)):
        assert not call(monkeypatch, [*run, *more])
        assert "".join(capsys.readouterr()).count(line) == count


def test_check_tells_what_is_missing_by_key_and_what_is_not_read(corpus, tmp_path, monkeypatch, capsys):
    missing = {"data_path": "/nowhere/texts", "encoder_path": "/nowhere/encoder"}
    assert call(monkeypatch, [*options(corpus, tmp_path, **missing), "--check"]) == 2
    err = capsys.readouterr().err
    assert "error: data_path: /nowhere/texts: no such file or folder" in err
    assert "error: encoder_path: /nowhere/encoder: no such vocabulary folder" in err
    assert not call(monkeypatch, [*options(corpus, tmp_path, max_steps=2), "--dry_run"])
    assert (
        "tokens per epoch: known once a run has encoded the text, as it does at its start\n" in capsys.readouterr().out
    )
    assert not call(monkeypatch, options(corpus, tmp_path, max_steps=2))
    capsys.readouterr()
    assert not call(monkeypatch, [*options(corpus, tmp_path, max_steps=2), "--dry_run"])
    assert re.search(r"tokens per epoch: [\d,]+ in", capsys.readouterr().out)  # the text is in the cache
    assert not call(monkeypatch, [*options(corpus, tmp_path, init_from=str(tmp_path)), "--check"])
    assert "init_from: not read, as the run continues from step 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"max_steps": 10_000}, "max_steps"),
        ({"max_steps": None, "max_epochs": 300}, "max_epochs"),
        ({"max_steps": 20_000, "max_tokens": 2_000_000}, "max_steps and max_tokens"),
    ],
)
def test_check_names_the_keys_that_make_many_passes(changes, keys, corpus, tmp_path, monkeypatch, capsys):
    assert call(monkeypatch, [*options(corpus, tmp_path, **changes), "--check"]) == 0
    assert re.search(rf"^warning: {keys}: [\d,]+ passes over the text; ", capsys.readouterr().out, re.M)


def test_check_names_a_problem_once(corpus, tmp_path, monkeypatch, capsys):
    assert call(monkeypatch, [*options(corpus, tmp_path, mesh={"data": 3}), "--check"]) == 2
    assert capsys.readouterr().err.count("mesh: data 3") == 1


def test_check_names_a_file_in_the_place_of_the_checkpoints(corpus, tmp_path, monkeypatch, capsys):
    (tmp_path / "run").symlink_to("unmounted")
    with pytest.raises(UserError, match="run is a link that leads nowhere"):
        call(monkeypatch, options(corpus, tmp_path))
    assert call(monkeypatch, [*options(corpus, tmp_path), "--check"]) == 2
    assert capsys.readouterr().err.count("run is a link that leads nowhere") == 1
    (tmp_path / "unmounted" / "checkpoints").parent.mkdir()
    (tmp_path / "run" / "checkpoints").touch()
    assert call(monkeypatch, [*options(corpus, tmp_path), "--check"]) == 2
    assert "run/checkpoints is a file, and the run needs a folder of this name" in capsys.readouterr().err


def test_a_model_beyond_the_memory_is_refused_before_it_is_made(corpus, tmp_path, monkeypatch, capsys):
    changes = {"n_embd": 65536, "n_head": 512, "n_layer": 100}
    with pytest.raises(
        UserError, match=r"memory: parameters, gradients and optimizer take .*, more than .* in this machine"
    ):
        call(monkeypatch, options(corpus, tmp_path, **changes))
    assert not call(monkeypatch, [*options(corpus, tmp_path, **changes), "--dry_run"])
    assert "warning: memory: " in capsys.readouterr().out


def test_samples_among_the_text_that_is_trained_on_are_warned_of(corpus, tmp_path, monkeypatch, capsys):
    call(monkeypatch, [*options(corpus, tmp_path, predict_path=str(corpus / "samples.txt")), "--dry_run"])
    assert f"is in {corpus}, which is trained on" in capsys.readouterr().out


def test_help_loads_nothing_that_takes_time():
    code = "import sys, main; sys.argv = ['main.py', '--help']\ntry: main.main()\nexcept SystemExit: pass\n"
    code += "print([name for name in ('jax', 'numpy', 'pydantic', 'optax', 'models') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.endswith("\n[]\n")


def test_generating_with_released_weights_does_not_wait_for_orbax():
    code = "import sys, inputs, models, optimizers, estimator.setup, estimator.generation.predict\n"
    code += "from models.gpt2.convert import readers\nprint('jax' in sys.modules, 'orbax.checkpoint' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "True False\n"
