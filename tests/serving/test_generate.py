"""Answers that a stop string ends: their texts, and the places of their tokens, in whole bodies and in streams."""

import itertools
import json

import pytest

pytest.importorskip("fastapi", reason="no fastapi; pip install -r requirements-serve.txt")

from helpers.chats import TEMPLATE
from helpers.chats import TOKENIZER as CHAT_TOKENIZER
from helpers.serving import TOKENIZER, CountingEngine, Models, loaded, serving

from estimator.generation.completion import Continuation
from serving.api.generate import Answer, Sample
from serving.request import Finish, SamplingParams, TokenEvent

END = TOKENIZER.end_of_text
TEXT = "aé🙂b"
STOPS = [TEXT[i:j] for i, j in itertools.combinations(range(len(TEXT) + 1), 2)]


class Pieces:
    """A vocabulary of some bytes; the last token is end-of-text."""

    def __init__(self, pieces):
        self.pieces = [*pieces, b""]

    def decode_bytes(self, ids):
        return b"".join(self.pieces[i] for i in ids)

    def decode(self, ids):
        return self.decode_bytes(ids).decode(errors="replace")


def splits(data: bytes):
    """Yields every way to cut some bytes into tokens."""
    for cuts in itertools.product([False, True], repeat=len(data) - 1):
        places = [0, *(i for i, is_cut in enumerate(cuts, 1) if is_cut), len(data)]
        yield [data[i:j] for i, j in itertools.pairwise(places)]


def cut(data: bytes, stop: list[str]) -> str:
    """Returns the text up to the stop string that ends first; of several, up to the longest."""
    text = data.decode(errors="replace")
    for end in range(len(text) + 1):
        if found := [word for word in stop if text[:end].endswith(word)]:
            return text[: end - len(max(found, key=len))]
    return text


def read(pieces: list[bytes], stop: list[str], end: str) -> Answer:
    """Returns an answer with all its tokens, and checks their places as they come."""
    sample = Sample([], SamplingParams(99, logprobs=0, stop_ids=frozenset([len(pieces)])), stop, offset=10)
    answer, sent = Answer(0, sample, Pieces(pieces)), []
    for token in [*range(len(pieces)), *([len(pieces)] if end == "stop" else [])]:
        sent += answer.push(TokenEvent(token, -1.0, ())).tokens
        assert answer.finish_reason or all(token.offset <= 10 + len(answer.text) for token in sent)
    sent += answer.push(Finish(end, 1, len(pieces), 0, 0.0, 0.0, 0.0)).tokens
    assert sent == answer.tokens
    return answer


@pytest.mark.parametrize("end", ["stop", "length"])
@pytest.mark.parametrize(
    "stop", [[], *([word] for word in STOPS), ["🙂b", "é"], ["🙂bc", "bc"], ["b", "🙂b"], ["\ufffd"]]
)
@pytest.mark.parametrize("n_cut_off", [0, 3])
def test_tokens_begin_in_the_text_or_at_its_end_wherever_a_stop_string_is(stop, end, n_cut_off):
    """Each token has an entry; those at and behind the stop string are where the text ends, as in OpenAI's answers."""
    data = (TEXT + "🙂").encode()[: -4 + n_cut_off] if n_cut_off else TEXT.encode()
    for pieces in splits(data):
        answer = read(pieces, stop, end)
        text = cut(data, stop)
        assert answer.text == text
        assert answer.count == len(answer.tokens)
        by_main = Continuation(Pieces(pieces), stop)
        by_main.extend(list(range(len(pieces))))
        assert by_main.finish() == text
        assert answer.finish_reason == (
            "length" if end == "length" and text == data.decode(errors="replace") else "stop"
        )
        ends = list(itertools.accumulate(map(len, pieces)))
        begins = [
            0 if last == 0 else len(data[: last - size + 1].decode(errors="replace")) - 1
            for last, size in zip(ends, map(len, pieces), strict=True)
        ]
        begins += [len(data.decode(errors="replace"))] * (end == "stop")
        assert [token.offset - 10 for token in answer.tokens] == [
            min(begin, len(text)) for begin in begins[: answer.count]
        ]


def test_tokens_come_as_soon_as_their_places_are_known():
    """A token that begins in text which may be a stop string waits until that is known."""
    sample = Sample([], SamplingParams(9, logprobs=0), ["END", "Z"], offset=2)
    answer = Answer(0, sample, TOKENIZER)
    deltas = [answer.push(TokenEvent(token, -1.0, ())) for token in TOKENIZER.encode("aENxENDz")]
    places = [[token.offset for token in delta.tokens] for delta in deltas]
    assert [delta.text for delta in deltas] == ["a", "", "", "ENx", "", "", "", ""]
    assert places == [[2], [3], [], [4, 5], [6], [], [6, 6], []]


def choices(client, path, body):
    """Returns the choices of a whole body, and those that a stream's chunks add up to."""
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    stream = client.post(path, json={**body, "stream": True, "stream_options": {"include_usage": True}}).text
    chunks = [json.loads(event.removeprefix("data: ")) for event in stream.split("\n\n")[:-2]]
    assert chunks.pop()["usage"]["completion_tokens"] == answer.json()["usage"]["completion_tokens"]
    parts = [choice for chunk in chunks for choice in chunk["choices"]]
    return answer.json()["choices"], [
        [part for part in parts if part["index"] == index] for index in range(body.get("n", 1))
    ]


def scripted(text: str, tokenizer=TOKENIZER) -> CountingEngine:
    ids = [*tokenizer.encode(text), tokenizer.end_of_text]
    return CountingEngine(n_vocab=tokenizer.n_vocab, answer=lambda prompt, i: ids[i])


@pytest.fixture(scope="module")
def client():
    chat = loaded("chat", scripted(TEXT, CHAT_TOKENIZER), tokenizer=CHAT_TOKENIZER, template=TEMPLATE)
    with serving(Models(a=loaded("a", scripted(TEXT)), chat=chat, plain=loaded("plain"))) as client:
        yield client


@pytest.mark.parametrize("stop", [None, *STOPS, ["🙂bc", "bc"]])
@pytest.mark.parametrize("echo", [False, True])
def test_a_stream_adds_up_to_the_whole_completion(client, stop, echo):
    body = {"model": "a", "prompt": "xy", "n": 2, "best_of": 2, "logprobs": 2, "echo": echo, "stop": stop}
    whole, streams = choices(client, "/v1/completions", body)
    for choice, parts in zip(whole, streams, strict=True):
        assert choice["text"] == "".join(part["text"] for part in parts)
        for name, entries in choice["logprobs"].items():
            assert entries == [entry for part in parts for entry in part["logprobs"][name]]
        places = choice["logprobs"]["text_offset"]
        end = len(choice["text"]) + (0 if echo else 2)
        assert places == sorted(places)
        assert places[-1] <= end
        assert parts[-1]["finish_reason"] == choice["finish_reason"] == "stop"


@pytest.mark.parametrize("stop", [None, *STOPS])
def test_a_stream_adds_up_to_the_whole_chat(client, stop):
    body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "n": 2, "logprobs": True, "stop": stop}
    whole, streams = choices(client, "/v1/chat/completions", body)
    for choice, parts in zip(whole, streams, strict=True):
        assert choice["message"]["content"] == "".join(part["delta"].get("content", "") for part in parts)
        entries = [entry for part in parts if part["logprobs"] for entry in part["logprobs"]["content"]]
        assert choice["logprobs"]["content"] == entries


def test_best_of_lists_the_tokens_of_the_best_like_any_answer(client):
    body = {"model": "a", "prompt": "xy", "logprobs": 0, "stop": "🙂"}
    (one,) = client.post("/v1/completions", json=body).json()["choices"]
    (best,) = client.post("/v1/completions", json=body | {"best_of": 3}).json()["choices"]
    assert one == best
    assert one["logprobs"]["text_offset"] == [2, 3, 3, 4, 4, 4, 4]
    assert (one["text"], len(one["logprobs"]["tokens"])) == ("aé", 7)


def test_a_stop_string_in_the_one_token_of_a_score_leaves_its_entry():
    """lm-evaluation-harness drops the last entry unseen; without this one, each score would lack its last token."""
    with serving(Models(a=loaded("a", stop=["b"]))) as client:
        body = {"prompt": [[69, 64]], "temperature": 0, "max_tokens": 1, "logprobs": 1, "echo": True}
        (choice,) = client.post("/v1/completions", json=body).json()["choices"]
    assert choice["text"] == "fa"
    assert choice["logprobs"]["tokens"] == ["f", "a", "b"]
    assert choice["logprobs"]["text_offset"] == [0, 1, 2]
