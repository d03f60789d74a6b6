"""Parsing of numbers on command lines."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

import main
from estimator.arguments import Parser, number


def test_only_finite_numbers_are_numbers():
    assert number("-1e3") == -1000
    for text in ("nan", "inf", "-inf", "1e999", "x", ""):
        with pytest.raises(ValueError, match=r"nan|inf|1e999|could not convert"):
            number(text)


def test_text_is_utf8_and_names_of_files_are_any_bytes(capsys):
    parser = Parser("")
    parser.add_argument_group().add_argument("--text", nargs="+")
    parser.add_argument("--file", type=str)
    parsed = parser.parse_args(["--text", "caf\udcc3\udca9", "d\u00e9j\u00e0", "--file", "a\udcff"])
    assert parsed.text == ["caf\u00e9", "d\u00e9j\u00e0"]  # the first where the locale is not UTF-8
    assert parsed.file == "a\udcff"
    for wrong in ("a\udcff", "\ud800"):
        with pytest.raises(SystemExit):
            parser.parse_args(["--text", wrong])
        assert f"argument --text: {wrong!a} is not UTF-8; " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["--figuer", "x"], "; did you mean --figure? keys of the JSON file: --set figuer=x; "),
        (["--figuer=x"], "; did you mean --figure? keys of the JSON file: --set figuer=x; "),
        (["--model_path", "x"], "; did you mean --model? keys of the JSON file: --set model_path=x; "),
        (["--q"], "--q; keys of the JSON file: --set q=VALUE; "),
        (["--lr", "0.1"], "--lr 0.1; keys of the JSON file: --set lr=0.1; "),
        (["--lr=0.1", "--figure", "x"], "--lr=0.1; keys of the JSON file: --set lr=0.1; "),
        (["n_embd=16"], "n_embd=16; each key has a --set of its own: --set n_embd=16; "),
        (["data_path=a.json"], "each key has a --set of its own: --set data_path=a.json; "),
        (["a.json"], "a.json; write --model a.json; "),
        (["b.txt"], "unrecognized arguments: b.txt; "),
        (["--task", "x"], "argument --task: expected 2 arguments; write --task NAME FILE; "),
    ],
)
def test_a_flag_that_is_nearly_known_is_suggested(arguments, advice, capsys):
    parser = Parser("")
    for name in ("--figure", "--set", "--model"):
        parser.add_argument(name)
    parser.add_argument("--task", nargs=2, metavar=("NAME", "FILE"))
    with pytest.raises(SystemExit):
        parser.parse_args(arguments)
    assert advice in capsys.readouterr().err


def test_a_misspelled_flag_is_named_where_another_is_missing(capsys):
    parser = Parser("")
    parser.add_argument("--vocab_size", required=True)
    for arguments, advice in (
        (["--vocab", "9"], "; --vocab is no option; did you mean --vocab_size?; "),
        ([], "size; "),
    ):
        with pytest.raises(SystemExit):
            parser.parse_args(arguments)
        assert advice in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--tpu", "--tpu_stop", "--show_batch", "--rehearse"])
def test_a_flag_whose_variable_is_unset_does_not_train_here(flag, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["main.py", "--model", "x.json", flag, ""])
    with pytest.raises(SystemExit):
        main.parse_arguments()
    assert f"{flag}: empty; give a value" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["visualize.py", "--run", "x", "--figure", "x.png", "--smooth", "nan"],
        ["datasets/openwebtext/extract_text.py", "x", "--out", "y", "--language_share", "inf"],
        ["datasets/encode.py", "x", "--out", "y", "--encoder", "z", "--special", "<\udcff>"],
        ["datasets/train_tokenizer.py", "x", "--out", "y", "--vocab_size", "300", "--special_tokens", "<\udcff>"],
    ],
)
def test_programs_name_the_flag(arguments):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"argument {arguments[-2]}: " in done.stderr
    assert "Traceback" not in done.stderr
