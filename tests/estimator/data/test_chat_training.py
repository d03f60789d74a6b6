"""Chat fine-tuning from the command line: after training on two conversations, the model gives the right replies."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import ROOT, one_device
from helpers.keyboard import typed
from helpers.main_runs import final_parameters, metrics

import inputs
import main
from estimator.corpus.chat_template import extended
from estimator.data.batches import Batches
from estimator.data.config import InputConfig
from estimator.data.text_input import encoder_path
from estimator.errors import UserError
from estimator.tokenization import tokenizer
from estimator.tokenization.tokenizer import byte_level_tokenizer

CHATS = [
    [("system", "Fruit."), ("user", "Name one."), ("assistant", "Apple."), ("user", "More!"), ("assistant", "Figs.")],
    [("system", "Trees."), ("user", "Name one."), ("assistant", "The oak."), ("user", "More!"), ("assistant", "Elm.")],
]  # fmt: skip
OTHER = [("user", "Name one."), ("assistant", "No.")]


def line(chat: list[tuple[str, str]]) -> str:
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in chat]}) + "\n"


@pytest.fixture(scope="module")
def chats(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("chats")
    (folder / "train.jsonl").write_text("".join(map(line, CHATS)))
    (folder / "valid.jsonl").write_text(line(OTHER))
    return folder


def arguments(chats: Path, folder: Path, *more: str, **changes) -> list[str]:
    values = {
        "input": "chat", "data_path": str(chats), "eval_split": "valid.jsonl", "model_path": str(folder / "run"),
        "predict_path": None, "n_vocab": 265, "n_ctx": 96, "n_embd": 32, "n_head": 2, "n_layer": 1, "lr": 0.02,
        "train_batch_size": 2, "max_steps": 80, "train_steps": 80, "log_steps": 40, "eval_steps": 1,
        "warmup_steps": 5, "length": None, "weight_decay": 0.0, "temperature": 0.0,
    } | changes  # fmt: skip
    overrides = [f"--set={key}={json.dumps(value)}" for key, value in values.items()]
    return ["main.py", "--model", str(ROOT / "configs" / "tiny.json"), *overrides, *more]


@pytest.fixture
def on_one_device(monkeypatch, tmp_path):
    """Restricts JAX to one device, which makes compilation several times faster, and shares a compilation cache."""
    device = one_device()
    monkeypatch.setattr(jax, "devices", lambda *_: device)
    settings = {
        "jax_compilation_cache_dir": str(tmp_path / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def run(monkeypatch, capsys, arguments: list[str]) -> tuple[str, str]:
    monkeypatch.setattr(sys, "argv", arguments)
    main.main()
    return capsys.readouterr()


def test_two_conversations_are_learnt_by_heart_and_replied_with(chats, tmp_path, monkeypatch, capsys, on_one_device):
    out, err = run(monkeypatch, capsys, arguments(chats, tmp_path))
    assert "learning a vocabulary of 265 entries" in out
    assert "packing: 2 conversations in 1 window," in err
    assert metrics(tmp_path, "train")[-1]["loss"] < 0.1
    assert metrics(tmp_path, "eval")[-1]["bits_per_byte"] > 0

    monkeypatch.setattr("builtins.input", typed(["Name one.", "More!", "", "Name one."]))
    out, err = run(monkeypatch, capsys, arguments(chats, tmp_path, "--interactive", chat_system="Fruit."))
    assert out == "Apple.\nFigs.\nApple.\n\n"
    assert "a new conversation" in err
    more = ["--predict_text", "Name one."]
    out, _ = run(monkeypatch, capsys, arguments(chats, tmp_path, *more, chat_system="Trees."))
    assert out.splitlines()[1:3] == ["Name one.", "The oak."]


def test_the_system_message_of_most_conversations_is_named_unless_it_is_set(
    tmp_path, monkeypatch, capsys, on_one_device
):
    files = tmp_path / "chats"
    files.mkdir()
    brief = [("system", "Be brief."), *OTHER]
    (files / "train.jsonl").write_text(
        line(brief) * 2 + line(CHATS[0]) + line([("system", "Be brief"), *OTHER]) + line(brief)
    )
    (files / "valid.jsonl").write_text(line(OTHER))
    short = {"max_steps": 1, "train_steps": 1, "n_ctx": 48}
    said = "3 of 5 conversations begin with the system message 'Be brief.'; set chat_system to it when you talk"
    assert said in run(monkeypatch, capsys, arguments(files, tmp_path, **short)).err
    hello, said = ["--predict_text", "Hi"], "set chat_system to it: --set 'chat_system=Be brief.'"
    assert said in run(monkeypatch, capsys, arguments(files, tmp_path, *hello, **short)).err
    for other in ("Be brief.", "Hi", ""):
        named = arguments(files, tmp_path, *hello, **short, chat_system=other)
        assert "chat_system" not in run(monkeypatch, capsys, named).err
    more = {"max_steps": 2, "train_steps": 1, "n_ctx": 48}
    assert "begin with" not in run(monkeypatch, capsys, arguments(files, tmp_path, **more, chat_system="Hi")).err


class Killed(BaseException):
    """Simulates a kill: derives from BaseException, so that no cleanup handlers run."""


def test_a_run_on_chats_that_is_killed_ends_with_the_bits_of_one_that_is_not(
    tmp_path, monkeypatch, capsys, on_one_device
):
    """The kill happens in the second epoch, with several conversations per window and with dropout."""
    lines = [line([("user", "Say " + "a" * (1 + 5 * i % 13)), ("assistant", "b" * (1 + i % 9))]) for i in range(24)]
    files = tmp_path / "chats"
    files.mkdir()
    (files / "train.jsonl").write_text("".join(lines[:20]))
    (files / "valid.jsonl").write_text("".join(lines[20:]))
    changes = {
        "n_ctx": 48, "n_embd": 8, "max_steps": 12, "train_steps": 6, "save_steps": 3, "log_steps": 1,
        "embed_dropout": 0.1, "train_batch_size": 2,
    }  # fmt: skip
    whole, cut = (arguments(files, tmp_path / name, **changes) for name in ("whole", "cut"))
    batch = Batches.__call__

    def killed_before_ten(self, step):
        if step == 10:
            raise Killed
        return batch(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "__call__", killed_before_ten)
        with pytest.raises(Killed):
            run(monkeypatch, capsys, cut)
    for each in (whole, cut):
        run(monkeypatch, capsys, each)
    step, parameters = final_parameters(monkeypatch, cut[1:])
    assert step == 12
    jax.tree.map(np.testing.assert_array_equal, parameters, final_parameters(monkeypatch, whole[1:])[1])
    for split, count in (("train", 12), ("eval", 2)):
        first, second = ([(at["step"], at["loss"]) for at in metrics(tmp_path / n, split)] for n in ("whole", "cut"))
        assert first == second
        assert len(first) == count


def open_chats(chats: Path, cache: Path, *, n_vocab: int = 265, **options):
    values = {"input": "chat", "data_path": str(chats / "train.jsonl"), "eval_split": 0.05} | options
    return inputs.open_data(InputConfig(**values), n_ctx=96, n_vocab=n_vocab, cache=cache)


def test_the_vocabulary_given_is_extended_in_the_cache_and_found_for_prediction(chats, tmp_path):
    byte_level_tokenizer().save(tmp_path / "encoder")
    data = open_chats(chats, tmp_path / "cache", encoder_path=str(tmp_path / "encoder"))
    config = InputConfig(
        input="chat", data_path=str(chats / "train.jsonl"), eval_split=0.05, encoder_path=str(tmp_path / "encoder")
    )
    for cache in (tmp_path / "cache", tmp_path / "lost"):  # a deleted cache is rebuilt
        found = tokenizer.load(encoder_path(config, n_vocab=265, cache=cache))
        assert found.digest == data.tokenizer == extended(byte_level_tokenizer()).digest
    with pytest.raises(UserError, match=r"n_vocab is 258.*set n_vocab to 261 or more"):
        open_chats(chats, tmp_path / "cache", encoder_path=str(tmp_path / "encoder"), n_vocab=258)


def test_shards_of_chats_train_like_their_files(chats, tmp_path):
    data = open_chats(chats, tmp_path / "cache")
    (shards,) = (tmp_path / "cache").glob("*/shards")
    again = open_chats(chats, tmp_path, data_path=str(shards), encoder_path=str(shards.parent / "encoder"))
    for name, rows in data.train.batch([0, 1]).items():
        assert (rows == again.train.batch([0, 1])[name]).all()
    with pytest.raises(UserError, match="encoder_path: missing"):
        open_chats(chats, tmp_path, data_path=str(shards), n_vocab=50261)


def test_encode_py_makes_shards_of_chats_and_their_vocabulary(chats, tmp_path):
    byte_level_tokenizer().save(tmp_path / "encoder")
    program, out = str(ROOT / "datasets" / "encode.py"), tmp_path / "shards"
    options = ["--chat", "other", "--encoder", str(tmp_path / "encoder"), "--out", str(out), "--order", "input"]
    done = subprocess.run(
        [sys.executable, program, str(chats / "train.jsonl"), *options], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "n_vocab 261 or more" in done.stdout
    made = open_chats(chats, tmp_path, data_path=str(out), encoder_path=str(out / "encoder"))
    direct = open_chats(chats, tmp_path / "cache", encoder_path=str(tmp_path / "encoder"))
    assert (made.train.batch([0])["tokens"] == direct.train.batch([0])["tokens"]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": "text", "chat_loss": "all"}, "chat_loss: input text does not use it"),
        ({"separate_documents": True}, "separate_documents: input chat does not use it"),
    ],
)
def test_keys_of_other_inputs_are_refused(changes, message, chats, tmp_path):
    with pytest.raises(ValueError, match=message):
        open_chats(chats, tmp_path, **changes)
