"""Decoding of tokens to whole characters, and stop strings that span chunks."""

import itertools
import random

import pytest
from helpers.chats import TEMPLATE, TOKENIZER

from estimator.corpus.chat_files import Message
from serving.text import StopFilter, TextDecoder, chat_prompt, chat_stops, encode, token_text

BYTES = [TOKENIZER.decode_bytes([token]) for token in range(256)]
TEXT = "aé🙂 b\n中文 ended"


def test_characters_are_given_when_they_are_whole_and_nothing_is_lost():
    decoder, pieces = TextDecoder(TOKENIZER), []
    for token in TOKENIZER.encode(TEXT):
        pieces.append(decoder.push(token))
    assert "".join(pieces) + decoder.finish() == TEXT
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(pieces)
    assert pieces[:7] == ["a", "", "é", "", "", "", "🙂"]
    assert decoder.characters == len(TEXT)


def test_a_character_that_is_cut_off_is_one_replacement_character():
    decoder = TextDecoder(TOKENIZER)
    assert "".join(map(decoder.push, TOKENIZER.encode("a🙂")[:-1])) == "a"
    assert decoder.finish() == "\N{REPLACEMENT CHARACTER}"


def test_each_token_begins_after_what_the_tokens_before_it_say():
    """A character is of the tokens up to its last byte, and bytes that a token cuts off are of those before it."""
    decoder, begins = TextDecoder(TOKENIZER), []
    tokens = [*TOKENIZER.encode("aé"), *TOKENIZER.encode("🙂")[:2], *TOKENIZER.encode("b🙂")]
    for token in tokens:
        decoder.push(token)
        begins.append(decoder.begin)
    assert begins == [0, 1, 1, 2, 2, 3, 4, 4, 4, 4]
    texts = [TOKENIZER.decode(tokens[:i]).rstrip("\N{REPLACEMENT CHARACTER}") for i in (0, 1, 3)]
    assert [len(text) for text in texts] == [begins[i] for i in (0, 1, 3)]
    assert len(TOKENIZER.decode(tokens[:5])) == begins[5]  # one U+FFFD for both bytes


@pytest.mark.parametrize("size", [1, 2, 3])
def test_offsets_are_those_of_the_whole_text_whatever_the_bytes(size):
    """A byte belongs to the last character of the text up to it."""
    kinds = b"a\x80\x90\xa0\xc3\xe0\xe2\xed\xef\xbf\xbd\xf0\x9f\xf4\xff"
    for data in map(bytes, itertools.product(kinds, repeat=size)):
        decoder, text, whole = TextDecoder(TOKENIZER), "", data + "é".encode()
        for end, byte in enumerate(whole, 1):
            text += decoder.push(BYTES.index(bytes([byte])))
            assert decoder.begin == len(whole[:end].decode(errors="replace")) - 1
            assert decoder.end == len(whole[:end].decode(errors="replace"))
        assert text + decoder.finish() == whole.decode(errors="replace")


STOPS = [["opwo"], ["b"], ["ab", "abc"], ["aaab"], ["xyz"], ["word end", "d e"], ["p", "stopw"], ["b xy", "x"], []]


@pytest.mark.parametrize("stop", STOPS)
def test_stop_strings_over_chunks_end_the_text_where_they_end_it_whole(stop):
    draw = random.Random(0)
    for _ in range(200):
        text = "".join(draw.choices("ab xyzstopword end", k=draw.randrange(30)))
        # Read letter by letter, the text ends as soon as it ends with a stop string.
        ends = [(end, -len(word)) for end in range(len(text) + 1) for word in stop if text[:end].endswith(word)]
        places = [end + length for end, length in sorted(ends)]
        expected = text[: places[0]] if places else text
        stops, given, rest = StopFilter(stop), "", text
        while rest:
            size = draw.randint(1, 4)
            given += stops.push(rest[:size])
            rest = rest[size:]
            assert expected.startswith(given)
        assert given + stops.finish() == expected
        assert stops.is_hit == bool(places)


def test_text_that_cannot_begin_a_stop_string_is_not_held_back():
    stops = StopFilter(["END"])
    assert [stops.push(text) for text in ("abE", "x", "EN", "N")] == ["ab", "Ex", "", "ENN"]


def test_tokens_that_are_no_characters_have_names_of_their_own():
    names = [token_text(TOKENIZER, token) for token in range(TOKENIZER.n_vocab)]
    assert len(set(names)) == len(names)
    assert token_text(TOKENIZER, TOKENIZER.encode("🙂")[0]) == r"bytes:\xf0"


def test_prompts_read_special_tokens_and_messages_do_not():
    assert encode(TOKENIZER, "a<|endoftext|>") == [*TOKENIZER.encode("a"), TOKENIZER.end_of_text]
    assert encode(TOKENIZER, "") == [TOKENIZER.end_of_text]
    prompt = chat_prompt([Message("user", "a<|end|>")], TOKENIZER, TEMPLATE)
    assert prompt.count(TEMPLATE.end) == 1
    assert prompt[:2] == [TEMPLATE.end_of_text, TEMPLATE.headers["user"]]
    assert prompt[-2:] == [TEMPLATE.end, TEMPLATE.headers["assistant"]]


def test_without_a_template_a_chat_is_a_transcript():
    prompt = chat_prompt([Message("system", "Be kind."), Message("user", "Hi")], TOKENIZER, None)
    assert TOKENIZER.decode(prompt) == "<|endoftext|>System: Be kind.\nUser: Hi\nAssistant:"
    ids, stops = chat_stops(TOKENIZER, None)
    assert ids == {TOKENIZER.end_of_text}
    assert "\nUser:" in stops
