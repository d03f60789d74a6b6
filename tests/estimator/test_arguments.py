"""Parsing of numbers on command lines."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

import main
from estimator.arguments import number


def test_only_finite_numbers_are_numbers():
    assert number("-1e3") == -1000
    for text in ("nan", "inf", "-inf", "1e999", "x", ""):
        with pytest.raises(ValueError, match=r"nan|inf|1e999|could not convert"):
            number(text)


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
    ],
)
def test_programs_name_the_flag(arguments):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "invalid number value" in done.stderr
    assert "Traceback" not in done.stderr
