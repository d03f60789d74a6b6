"""Perplexity matches transformers: over all tokens, with and without a stride, per token and per word."""

import csv
import json
import math
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from conftest import QUICK_COMPILE, ROOT, one_device
from helpers import random_gpt2
from helpers.main_runs import call
from helpers.random_gpt2 import N_CTX
from helpers.texts import random_prose

import main
from estimator.errors import UserError
from estimator.evaluation.perplexity import Losses, text_of
from estimator.evaluation.windows import Span, blocks, sliding
from estimator.launch.local_hosts import free_port
from estimator.tokenization import special_text
from estimator.tokenization.tokenizer import byte_level_tokenizer, with_special_tokens
from estimator.tokenization.train_bpe import train_byte_bpe


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_gpt2.make(tmp_path_factory.mktemp("perplexity"))


@pytest.fixture(scope="module")
def text(model):
    """Returns a file with more than 100,000 tokens, and its tokens."""
    path = model.config.with_name("long.txt")
    path.write_text(random_prose(46_000))
    tokens = np.array(model.tokenizer.encode(path.read_text()))
    assert len(tokens) > 100_000
    return path, tokens


def evaluated(monkeypatch, capsys, model, *arguments, run=None) -> list[dict]:
    """Runs --evaluate and returns the records that it appends to evaluations.jsonl."""
    folder = run or model.config.parent / "run"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_path": str(folder), "train_batch_size": 8}))
    log = folder / "evaluations.jsonl"
    log.unlink(missing_ok=True)
    call(monkeypatch, ["--model", str(model.config), f"--set=model_path={folder}", *map(str, arguments)])
    assert "loss" in capsys.readouterr().out
    return [json.loads(line) for line in log.read_text().splitlines()]


def recipe(model, tokens: np.ndarray, *, max_length: int, stride: int) -> tuple[float, int]:
    """Returns (sum, count) of losses by the recipe in transformers' docs, "Perplexity of fixed-length models"."""
    total, count, previous = 0.0, 0, 0
    full = [begin for begin in range(0, len(tokens), stride) if begin + max_length <= len(tokens)]
    logprobs = model.logprobs(np.stack([tokens[begin : begin + max_length] for begin in full]))
    for begin in range(0, len(tokens), stride):
        end = min(begin + max_length, len(tokens))
        window = tokens[begin:end]
        table = logprobs[begin // stride] if begin in full else model.logprobs(window[None])[0]
        losses = -table[np.arange(len(window) - 1), window[1:]]
        new = losses[-min(end - previous, len(losses)) :]
        total, count, previous = total + new.sum(), count + len(new), end
        if end == len(tokens):
            break
    return total, count


def test_a_stride_gives_the_recipe_of_transformers(model, text, monkeypatch, capsys):
    path, tokens = text
    flags = ["--no_bos", "--context", N_CTX - 1, "--stride", 48]
    (record,) = evaluated(monkeypatch, capsys, model, "--evaluate", path, *flags)
    total, count = recipe(model, tokens, max_length=N_CTX, stride=48)
    assert record["tokens"] == count == len(tokens) - 1
    assert record["loss"] == pytest.approx(total / count, abs=1e-5)
    assert record["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)
    n_words = len(path.read_text().split()) - 1  # except for the first word, whose first token has no context
    assert record["words"] == n_words
    assert math.log(record["word_perplexity"]) == pytest.approx(total / n_words, abs=1e-4)
    n_bytes = path.stat().st_size - len(model.tokenizer.decode(tokens[:1]))
    assert record["bits_per_byte"] == pytest.approx(total / math.log(2) / n_bytes, abs=1e-5)


def test_without_a_stride_every_token_is_scored_once_with_end_of_text_in_front(model, text, monkeypatch, capsys):
    path, tokens = text
    (record,) = evaluated(monkeypatch, capsys, model, "--evaluate", path)
    row = np.array([model.tokenizer.end_of_text, *tokens])
    last = len(row) - 1 - (len(row) - 1) // N_CTX * N_CTX  # number of scored tokens in the last window, which is full
    begins = [*range(0, len(row) - 1 - N_CTX, N_CTX), len(row) - 1 - N_CTX]
    windows = np.stack([row[begin : begin + N_CTX + 1] for begin in begins])
    losses = -np.take_along_axis(model.logprobs(windows[:, :-1]), windows[:, 1:, None], axis=-1)[..., 0]
    scored = np.concatenate([losses[:-1].ravel(), losses[-1][-last:]])
    assert record["tokens"] == len(scored) == len(tokens)
    assert record["loss"] == pytest.approx(scored.mean(), abs=1e-5)
    first = losses[:-1, :8].mean()  # the last window does not contribute here
    assert last <= N_CTX - 8
    assert record["loss_8"] == pytest.approx(first, abs=1e-5)
    assert record["loss_by_position"]["3-4"] == pytest.approx(losses[:-1, 2:4].mean(), abs=1e-5)


def test_a_document_of_one_token_without_its_beginning_has_nothing_to_score(model, tmp_path, monkeypatch):
    (tmp_path / "one.txt").write_text("a")
    arguments = ["--model", str(model.config), "--evaluate", str(tmp_path / "one.txt")]
    assert call(monkeypatch, arguments) is None
    with pytest.raises(
        UserError, match=r"one\.txt: no document has two tokens, and with --no_bos .* leave --no_bos out"
    ):
        call(monkeypatch, [*arguments, "--no_bos", "--stride", "4"])


def test_documents_do_not_see_each_other_and_lengths_are_told_apart(model, tmp_path, monkeypatch, capsys):
    lines = ["Aa the.", random_prose(50), "", random_prose(400)[1000:]]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines if line))
    (tmp_path / "x.txt").write_text("<|endoftext|>".join(lines))
    one, two = evaluated(monkeypatch, capsys, model, "--evaluate", tmp_path / "x.jsonl", tmp_path / "x.txt")
    assert one["loss"] == pytest.approx(two["loss"], abs=1e-6)
    assert one["documents"] == two["documents"] == 3
    means, counts = [], []
    for line in filter(None, lines):
        tokens = np.array([model.tokenizer.end_of_text, *model.tokenizer.encode(line)])
        losses = []
        for start, stop, scored in blocks(len(tokens), context=N_CTX):
            table = model.logprobs(tokens[None, start : stop - 1])[0]
            losses += list(-table[np.arange(scored - start - 1, stop - start - 1), tokens[scored:stop]])
        means.append(np.mean(losses))
        counts.append(len(losses))
    assert one["tokens"] == sum(counts)
    assert one["loss"] == pytest.approx(np.average(means, weights=counts), abs=1e-5)
    assert list(one["loss_by_document_length"].values()) == pytest.approx(means, abs=1e-5)
    residuals = [(mean - one["loss"]) * count for mean, count in zip(means, counts, strict=True)]
    expected = math.sqrt(3 / 2 * sum(value**2 for value in residuals)) / sum(counts)
    assert one["loss_stderr"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("is_separate", [False, True])
def test_the_held_out_split_has_the_loss_of_training_on_one_device_and_on_eight(
    model, monkeypatch, capsys, is_separate
):
    path = model.config.with_name("short.jsonl")
    texts = [random_prose(6000)[start : start + 90] for start in range(0, 30_000, 90)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    changes = [f"--set=data_path={path}", f"--set=separate_documents={json.dumps(is_separate)}"]
    (record,) = evaluated(monkeypatch, capsys, model, *changes, "--evaluate")  # on eight devices
    monkeypatch.setattr(sys, "argv", ["main.py", "--model", str(model.config), *changes])
    setup = main.read_setup(main.parse_arguments())
    run = setup.estimator(devices=one_device())
    expected = setup.evaluation(setup.open_data(), run)(run.restore()[1])
    for name in ("loss", "perplexity", "bits_per_byte"):
        assert record[name] == pytest.approx(expected[name], rel=1e-6)
    assert record["documents"] > 10
    assert list(record["loss_by_position"])[:2] == ["1", "2"]


def test_rows_of_a_score_add_up_and_name_words(model, tmp_path, monkeypatch, capsys):
    path = tmp_path / "x.txt"
    path.write_text("Na\u00efve " + random_prose(100) + " \n\n", encoding="utf-8")
    call(monkeypatch, ["--model", str(model.config), "--score", str(path), "--out", str(tmp_path / "x.csv")])
    assert capsys.readouterr().out == ""
    call(monkeypatch, ["--model", str(model.config), "--score", str(path)])
    assert capsys.readouterr().out == (tmp_path / "x.csv").read_text()
    with open(tmp_path / "x.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    tokens = model.tokenizer.encode(path.read_text(encoding="utf-8"))
    assert [int(row["id"]) for row in rows] == tokens
    assert [int(row["index"]) for row in rows] == list(range(len(tokens)))
    row = np.array([model.tokenizer.end_of_text, *tokens])
    for number in (0, 5, N_CTX - 1, N_CTX + 10, len(tokens) - 1):
        spans = sliding(len(row), context=N_CTX, stride=N_CTX // 2)
        start = next(span.start for span in spans if span.scored <= number + 1 < span.stop)
        table = model.logprobs(row[None, start : number + 1])[0, -1]
        assert float(rows[number]["logprob"]) == pytest.approx(table[tokens[number]], abs=2e-5)
    words = path.read_text(encoding="utf-8").split()
    assert int(rows[-1]["word"]) == len(words) - 1
    assert rows[0]["word"] == "0"
    (record,) = evaluated(monkeypatch, capsys, model, "--evaluate", path, "--stride", N_CTX // 2)
    assert record["words"] == len(words)
    assert -record["loss"] == pytest.approx(np.mean([float(row["logprob"]) for row in rows]), abs=2e-6)


PROGRAM = """
import sys
import main
from estimator.errors import run_program
sys.argv = ["main.py", *sys.argv[1:]]
run_program(main.main)
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_one_device_and_two_processes_give_the_numbers_of_eight_devices(
    model, tmp_path, monkeypatch, capsys, processes
):
    path = tmp_path / "x.jsonl"
    texts = [random_prose(30 * n)[n * 7 :] for n in range(1, 12)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (eight,) = evaluated(monkeypatch, capsys, model, "--evaluate", path, "--stride", 20)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text((model.config.parent / "run" / "config.json").read_text())
    port = free_port()
    flags = f"--xla_force_host_platform_device_count={processes} {QUICK_COMPILE}"
    common = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    if processes > 1:
        common |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(processes)}
    environments = [common | ({"JAX_PROCESS_ID": str(index)} if processes > 1 else {}) for index in range(processes)]
    command = [sys.executable, "-c", PROGRAM, "--model", str(model.config), f"--set=model_path={folder}"]
    started = [
        subprocess.Popen(
            [*command, "--evaluate", str(path), "--stride", "20"],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )
        for environment in environments
    ]  # fmt: skip
    outputs = [process.communicate(timeout=500)[0] for process in started]
    assert [process.returncode for process in started] == [0] * processes, outputs
    (line,) = (folder / "evaluations.jsonl").read_text().splitlines()
    for name, value in json.loads(line).items():
        if isinstance(value, (float, dict)) and name != "time":
            assert value == pytest.approx(eight[name], rel=1e-6), name


def test_windows_of_a_request_and_of_a_rolling_score():
    """The windows of lm-evaluation-harness for ten tokens after end-of-text, with a context of four."""
    assert blocks(11, context=4) == [Span(0, 5, 1), Span(4, 9, 5), Span(6, 11, 9)]
    assert blocks(5, context=10, first=3) == [Span(0, 5, 3)]
    assert blocks(20, context=10, first=15) == [Span(9, 20, 15)]  # the context is truncated on the left
    assert blocks(20, context=4, first=10) == [Span(9, 14, 10), Span(13, 18, 14), Span(15, 20, 18)]
    assert blocks(3, context=4, first=3) == []


def test_sliding_windows_score_each_token_once():
    assert sliding(10, context=4, stride=2) == [Span(0, 5, 1), Span(2, 7, 5), Span(4, 9, 7), Span(6, 10, 9)]
    assert sliding(9, context=4, stride=4) == [Span(0, 5, 1), Span(4, 9, 5)]
    for count in range(2, 40):
        scored = [i for span in sliding(count, context=7, stride=3) for i in range(span.scored, span.stop)]
        assert scored == list(range(1, count))
    for stride in (0, 8):
        with pytest.raises(UserError, match=rf"--stride {stride}: write a number from 1 to 7"):
            sliding(10, context=7, stride=stride)


@pytest.mark.parametrize("begin", [[], [256]])
def test_the_first_token_and_special_tokens_are_not_counted(tmp_path, begin):
    """Compares with the places of the characters in the bytes of the text."""
    draw = random.Random(0)
    trained = train_byte_bpe(["the é€🙂é the é€ " * 50], n_vocab=280, out=tmp_path)
    cut_within = 0
    for tokenizer in (
        with_special_tokens(byte_level_tokenizer(), ["<|sep|>"]),
        with_special_tokens(trained, ["<|s|>"]),
    ):
        name = list(tokenizer.special_tokens)[-1]
        reader = special_text.reading(tokenizer, [name])
        for _ in range(200):
            text = "".join(draw.choice(["a", "é", "€", "🙂", " the", " ", name]) for _ in range(draw.randint(1, 9)))
            ids = np.array(reader.encode(text), np.int32)
            first = (
                0 if begin else len(reader.decode_bytes(ids[:1])) * (ids[0] not in tokenizer.special_tokens.values())
            )
            plain = text.replace(name, "")
            starts = [len(plain[:place].encode()) for place in range(len(plain))]
            found = text_of(text, ids, reader, begin=begin, special=[name], n_words=lambda text: len(text.split()))
            assert found.n_bytes == len(plain.encode()) - first
            assert found.n_characters == sum(start >= first for start in starts)
            assert found.n_words == max(0, len(plain.split()) - (first > 0))
            assert found.tokens.tolist() == [*begin, *ids]
            cut_within += first > 0 and first not in [*starts, len(plain.encode())]
    assert begin or cut_within


def test_line_ends_that_a_detokenizer_does_not_know_are_warned_of(model, monkeypatch, tmp_path, capsys):
    """The rules are Megatron-LM's, which never saw a carriage return."""
    lines, found = " = Title = \n \n one , two \n three \n", {}
    for name, text in {"lf": lines, "crlf": lines.replace("\n", "\r\n")}.items():
        file = tmp_path / f"{name}.txt"
        file.write_bytes(text.encode())
        for rules in ("wikitext", "none"):
            options = ["--evaluate", file, "--detokenizer", rules, f"--set=model_path={tmp_path / 'run'}"]
            call(monkeypatch, ["--model", str(model.config), *map(str, options)])
            found[name, rules] = "end with CR LF, which the rules of --detokenizer" in capsys.readouterr().err
    assert [key for key, is_warned in found.items() if is_warned] == [("crlf", "wikitext")]


def test_losses_are_sums_and_not_means_of_means():
    losses = Losses(n_ctx=4)
    losses.add(np.array([1.0, 2.0, 6.0]), np.array([1, 2, 3]), np.array([0, 0, 0]), np.array([3, 3, 3]))
    losses.add(np.array([4.0]), np.array([1]), np.array([1]), np.array([1]))
    losses.n_bytes, losses.n_words = 10, 2
    metrics = losses.metrics()
    assert metrics["loss"] == 13 / 4
    assert metrics["loss_by_position"] == {"1": 2.5, "2": 2.0, "3-4": 6.0}
    assert metrics["loss_by_document_length"] == {"1": 4.0, "3-4": 3.0}
    assert metrics["bits_per_byte"] == pytest.approx(13 / math.log(2) / 10)
    assert metrics["word_perplexity"] == pytest.approx(math.exp(13 / 2))
    huge = Losses(n_ctx=1)
    huge.add(np.array([1e4]), np.array([1]), np.array([0]), np.array([1]))
    json.dumps(huge.metrics(), allow_nan=False)


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--evaluate", "--stride", "4"], "--stride goes with --evaluate FILE or --score FILE"),
        (["--out", "x.csv"], "--out goes with --score FILE"),
        (["--score", "x.txt", "--detokenizer", "ptb"], "--detokenizer goes with --evaluate FILE"),
        (["--evaluate", "missing.txt"], "missing.txt"),
        (["--evaluate", "x.txt", "--set", "text_format=tokens"], "text_format: x.txt would be scored as plain text"),
        (["--score", "x.txt", "--set", "text_format=tokens"], "text_format: x.txt would be scored as plain text"),
        (["--evaluate", "x.txt", "--context", "65"], "--context 65: write a number from 1 to n_ctx, 64"),
        (["--evaluate", "x.txt", "--stride", "70"], "--stride 70: write a number from 1 to 64"),
    ],
)
def test_flags_without_effect_and_missing_files_are_errors(model, monkeypatch, flags, fault):
    with pytest.raises((UserError, OSError), match=fault):
        call(monkeypatch, ["--model", str(model.config), *flags])
