"""Completion of prompts with a scripted model."""

import json
import random

import pytest

from estimator.config import parse_sections
from estimator.errors import UserError
from estimator.generation import completion
from estimator.generation.completion import PredictionConfig
from estimator.tokenization import tokenizer, vocab_files
from estimator.tokenization.tokenizer import byte_level_tokenizer

TOKENIZER = byte_level_tokenizer()


def script(texts, size: int = 3):
    """Returns a stream that emits texts[row] bytewise, `size` tokens at a time, and the list of its calls."""
    asked = []

    def stream(prompts, *, stopped, first_row):
        asked.append((len(prompts), first_row))
        rows = [TOKENIZER.encode(texts[first_row + i]) for i in range(len(prompts))]
        for start in range(0, max(map(len, rows)), size):
            if len(stopped) == len(rows):
                return
            yield [[] if i in stopped else row[start : start + size] for i, row in enumerate(rows)]

    return stream, asked


def config(**values) -> PredictionConfig:
    return PredictionConfig(**values)


def generate(texts, **values):
    stream, asked = script(texts)
    return list(completion.generate([1], TOKENIZER, stream, config(**values))), asked


def test_samples_come_a_batch_at_a_time():
    texts, asked = generate(["one", "two", "three", "four", "five"], num_samples=5, predict_batch_size=2)
    assert texts == ["one", "two", "three", "four", "five"]
    assert asked == [(2, 0), (2, 2), (1, 4)]


STOPS = (
    ["abc done", "c"], ["c", "bc"], ["é", "aé b"], ["€c"], ["done", "on"], ["a", "ab"], ["\ufffd"],
    ["c\ufffd", "x"], [],
)  # fmt: skip


@pytest.mark.parametrize("stop", STOPS)
def test_no_chunks_change_where_a_sample_ends_and_what_is_shown(stop):
    draw = random.Random(0)
    for _ in range(300):
        text = "".join(draw.choices(["a", "b", "c", "é", "€", " done", " "], k=draw.randint(1, 12)))
        tokens, shown = TOKENIZER.encode(text), ""
        if draw.randint(0, 1):  # max_tokens cuts a character off
            tokens, text = tokens + TOKENIZER.encode("€")[:2], text + "\ufffd"
        ends = [(end, -len(word)) for end in range(len(text) + 1) for word in stop if text[:end].endswith(word)]
        expected = text[: sum(min(ends))] if ends else text
        found = completion.Continuation(TOKENIZER, stop)
        while tokens:
            size = draw.randint(1, 5)
            found.extend(tokens[:size])
            tokens = tokens[size:]
            shown += found.fresh(final=False)
            assert expected.startswith(shown)
        assert shown + found.fresh(final=True) == found.text == expected
        assert found.stopped == bool(ends)


def test_a_sample_ends_before_the_first_stop_string_wherever_the_chunks_fall():
    texts, _ = generate(["hello world. bye", "no stop here", "ab\nc"], num_samples=3, stop=["wor", "\n"])
    assert texts == ["hello ", "no stop here", "ab"]


def test_what_is_shown_while_typing_is_the_final_text():
    shown: list[str] = []
    stream, _ = script(["caf\u00e9 and t\u00e9 END more"], size=1)
    completion.show_stream([1], TOKENIZER, stream, ["END"], row=0, show=shown.append)
    assert "".join(shown) == "caf\u00e9 and t\u00e9 \n"
    assert not any("\N{REPLACEMENT CHARACTER}" in part for part in shown)


def test_the_layout_is_the_seeds_and_files_are_appended_to(tmp_path):
    path = tmp_path / "logs" / "predictions.txt"
    for _ in range(2):
        completion.write_samples("Hi", iter([" there", " you"]), path=str(path), show=lambda text: None)
    one = f"{'=' * 40} SAMPLE 0 {'=' * 40}\nHi there\n{'=' * 80}\n{'=' * 40} SAMPLE 1 {'=' * 40}\nHi you\n{'=' * 80}\n"
    assert path.read_text() == one + one


def test_long_prompts_keep_their_last_tokens_and_say_so():
    notes: list[str] = []
    tokens = completion.prompt_tokens("abcdef", TOKENIZER, seen=lambda count: 2, note=notes.append)
    assert tokens == TOKENIZER.encode("ef")
    assert notes == ["the prompt has 6 tokens; the model sees the last 2"]
    assert completion.prompt_tokens("", TOKENIZER, seen=lambda count: 2, note=notes.append) == [TOKENIZER.end_of_text]


def test_bad_keys_and_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="stop: an empty string"):
        parse_sections({"stop": [""]}, [PredictionConfig], source="x")
    with pytest.raises(UserError, match="top_p"):
        parse_sections({"top_p": 0.0}, [PredictionConfig], source="x")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="byte 3 is not UTF-8"):
        completion.read_prompt(str(tmp_path / "latin.txt"))


def test_a_prompt_that_is_no_utf8_is_written_with_the_replacement_character(tmp_path):
    shown: list[str] = []
    path = tmp_path / "samples.txt"
    prompt = b"caf\xe9 ".decode("utf-8", "surrogateescape")  # non-UTF-8 bytes of a command line
    completion.write_samples(prompt, iter(["is open"]), path=str(path), show=shown.append)
    assert "caf\ufffd is open\n" in shown[0]
    assert path.read_text(encoding="utf-8") == shown[0]


def test_stop_strings_are_read_as_they_are_typed():
    for typed, meant in (
        (r"\n", "\n"),
        (r"\n\n", "\n\n"),
        (r"a\tb", "a\tb"),
        (r"\\n", r"\n"),
        (r"\d", r"\d"),
        (r"\u00e9", "\xe9"),
    ):
        assert completion.unescaped(typed) == meant


def test_bytes_of_a_locale_that_is_not_utf8_are_read_as_utf8():
    assert completion.typed("Z\udcc3\udcbcrich") == "Z\xfcrich"
    assert completion.typed("\ufeffa") == "a"
    assert completion.typed("a\udcff") == "a\N{REPLACEMENT CHARACTER}"
    assert completion.typed("\ud83d") == "\N{REPLACEMENT CHARACTER}"


def test_a_sample_is_written_before_it_is_shown_and_a_blank_at_the_end_is_noted(tmp_path):
    def broken(text: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        completion.write_samples("a", iter(["b"]), path=str(tmp_path / "samples.txt"), show=broken)
    assert "\nab\n" in (tmp_path / "samples.txt").read_text()
    notes: list[str] = []
    contents = vocab_files.definition(vocab=vocab_files.BYTE_VOCAB | {"\u0120b": 256}, merges=[("\u0120", "b")])
    (tmp_path / "tokenizer.json").write_text(json.dumps(contents), encoding="utf-8")
    gpt2 = tokenizer.load(tmp_path)
    completion.prompt_tokens("To be ", gpt2, seen=lambda count: count, note=notes.append)
    assert notes[0].startswith("the prompt 'To be ' ends with a space, but words of this vocabulary begin with one;")
    completion.prompt_tokens("To be " * 20, gpt2, seen=lambda count: count, note=notes.append)
    assert notes[1].startswith(f"the prompt '...{('To be ' * 20)[-40:]}' ends")
    completion.prompt_tokens("To be", gpt2, seen=lambda count: count, note=notes.append)
    completion.prompt_tokens("To be ", TOKENIZER, seen=lambda count: count, note=notes.append)  # a token a byte
    assert len(notes) == 2
