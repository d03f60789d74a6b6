"""The --interactive loop with scripted sessions."""

import io
import sys

import pytest
from helpers.keyboard import typed
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from estimator.generation import interactive
from estimator.generation.completion import Completer, PredictionConfig
from estimator.generation.interactive import Interactive
from estimator.tokenization.tokenizer import byte_level_tokenizer

TOKENIZER = byte_level_tokenizer()


def play(lines, answer=lambda settings, seed, row, prompt: f"{prompt} {row}", **values):
    """Feeds lines to the loop and returns its output and notes. answer: returns the model's text, or raises."""
    shown: list[str] = []
    notes: list[str] = []

    def make(config, seed, before):
        def stream(prompts, *, stopped, first_row):
            text = answer(config, seed, first_row, TOKENIZER.decode(prompts[0]))
            yield [TOKENIZER.encode(text)]

        return Completer(TOKENIZER, stream, config, seen=lambda count: count, note=notes.append)

    Interactive(make, PredictionConfig(**values), 7, show=shown.append, note=notes.append).run(typed(lines))
    return "".join(shown), notes


def test_each_answer_has_its_own_row_and_several_samples_are_separated():
    shown, _ = play(["a", "b"], num_samples=2)
    line = "-" * 20
    assert shown == f"a 0\n{line}\na 1\nb 2\n{line}\nb 3\n\n"


def test_settings_change_for_the_following_answers_and_bad_values_change_nothing():
    def answer(config, seed, row, prompt):
        return f"{config.temperature} {config.top_k} {seed} {row}"

    lines = ["x", "/set temperature 0.5", "/set top_k 4", "x", "/set top_p 7", "/set nothing 1", "/seed 3", "x"]
    lines += [f"/set top_k {2**31}", "/set temperature inf", "/set repetition_penalty 1e-300", "/seed " + "9" * 5000]
    shown, notes = play(lines, answer)
    assert shown == "1.0 0 7 0\n0.5 4 7 1\n0.5 4 3 0\n\n"
    assert notes[0] == "top_p: input should be less than or equal to 1, but it is 7"
    assert notes[1].startswith(
        "nothing is not a setting; write /set KEY VALUE with one of the keys length, num_samples"
    )
    assert notes[2] == "seed 3"
    assert [note.split(" ")[0] for note in notes[3:]] == ["top_k:", "temperature:", "repetition_penalty:", "write"]


def test_commands_show_help_and_settings_and_end_the_loop():
    shown, notes = play(["/help", "/settings", "/wrong", "//slash", "/seed x", "/quit", "never"])
    assert shown == "/slash 0\n"
    assert "/set KEY VALUE" in notes[0]
    assert "temperature 1.0" in notes[1]
    assert "num_samples null" in notes[1]
    assert "seed 7" in notes[1]
    assert notes[2] == f"/wrong is not a command\n{notes[0]}"
    assert notes[3].startswith("write /seed N")


def test_lists_and_objects_can_be_set_and_best_of_says_why_not():
    def answer(config, seed, row, prompt):
        return f"{len(config.stop)} {config.logit_bias}"

    lines = ["/set stop \\n", '/set logit_bias {"5": -1}', "x", '/set stop ["%", "$"]', "/set stop null", "x"]
    lines += ['/set stop ""', "/set logit_bias 5", '/set logit_bias {"257": 1}', "/set best_of 3"]
    shown, notes = play(lines, answer)
    assert shown == "1 {'5': -1.0}\n2 {'5': -1.0}\n\n"
    assert [note.partition(":")[0] for note in notes] == ["stop", "stop", "logit_bias", "logit_bias", "best_of"]
    assert notes[3] == "logit_bias: token 257 is not one of the vocabulary's 257; remove it"


@pytest.mark.parametrize("is_conversation", [True, False])
def test_help_shows_what_the_session_can_do(is_conversation, monkeypatch):
    monkeypatch.setattr(Completer, "is_conversation", is_conversation)
    assert ("/new " in play(["/help"])[1][0]) == is_conversation


def test_ctrl_c_stops_the_answer_and_not_the_program():
    def answer(config, seed, row, prompt):
        if prompt == "long":
            raise KeyboardInterrupt
        return prompt

    shown, notes = play(["long", "short"], answer)
    assert shown == "\nshort\n\n"
    assert notes == ["stopped"]


def test_lines_of_a_pipe_are_read_without_a_mark(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n"))
    ask = interactive.line_reader()
    assert ask(">>> ") == "one"
    with pytest.raises(EOFError):
        ask(">>> ")
    assert capsys.readouterr() == ("", "")


def test_a_user_without_a_home_keeps_no_history(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(interactive.Path, "home", no_home)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        ask = interactive.line_reader()
        keys.send_text("line\r")
        assert ask(">>> ") == "line"


def test_ctrl_c_at_the_prompt_drops_the_line_and_ctrl_d_ends(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        ask = interactive.line_reader()
        keys.send_text("half a line\x03whole\r\x04")
        assert ask(">>> ") == "whole"
        with pytest.raises(EOFError):
            ask(">>> ")
    assert capsys.readouterr().err == "Ctrl-D ends the program\n"
