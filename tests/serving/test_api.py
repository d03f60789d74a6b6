"""The HTTP API, field by field, as used by clients of OpenAI and lm-evaluation-harness."""

import asyncio
import contextlib
import itertools
import json
import math
import threading
import time

import pytest

pytest.importorskip("fastapi", reason="no fastapi; pip install -r requirements-serve.txt")

import httpx
from helpers.chats import TEMPLATE
from helpers.chats import TOKENIZER as CHAT_TOKENIZER
from helpers.serving import TOKENIZER, CountingEngine, Models, loaded, serving

from estimator.generation import prompt_files
from estimator.generation.completion import Continuation, Settings
from estimator.tokenization.wordpiece import WordPiece
from serving.api.errors import dump
from serving.api.generate import Answer, Generation, Sample
from serving.request import Finish, Handle, SamplingParams, TokenEvent

END = TOKENIZER.end_of_text
SMILE = TOKENIZER.encode("🙂")


@pytest.fixture(scope="module")
def client():
    engine = CountingEngine(n_vocab=CHAT_TOKENIZER.n_vocab, answer=lambda prompt, i: 65 + i % 20)
    chat = loaded("chat", engine, tokenizer=CHAT_TOKENIZER, template=TEMPLATE)
    models = Models(a=loaded("a"), b="b.json: no such file", chat=chat, wide=loaded("wide", CountingEngine(n_ctx=4096)))
    with serving(models) as client:
        yield client


def complete(client, code=200, **body):
    answer = client.post("/v1/completions", json={"model": "a", "prompt": "a"} | body)
    assert answer.status_code == code, answer.text
    return answer.json() if code == 200 else answer.json()["error"]


def chat(client, code=200, **body):
    messages = [{"role": "user", "content": "hi"}]
    answer = client.post("/v1/chat/completions", json={"model": "chat", "messages": messages} | body)
    assert answer.status_code == code, answer.text
    return answer.json() if code == 200 else answer.json()["error"]


def events(client, path="/v1/completions", **body):
    """Returns the events of a stream, including [DONE]."""
    answer = client.post(path, json={"model": "a", "stream": True} | body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = answer.text.split("\n\n")
    assert lines.pop() == ""
    data = [line.removeprefix("data: ") for line in lines]
    assert all(line.startswith("data: ") for line in lines)
    return [text if text == "[DONE]" else json.loads(text) for text in data]


def engine_of(client, key="a") -> CountingEngine:
    return client.server.registry.entries[key].version.model.engine


def test_a_completion_has_the_fields_that_clients_read(client):
    answer = complete(client, max_tokens=3)
    assert answer["choices"] == [{"index": 0, "text": "bcd", "logprobs": None, "finish_reason": "length"}]
    assert answer["object"] == "text_completion"
    assert answer["model"] == "a"
    assert answer["system_fingerprint"] == "a@1"
    assert answer["id"].startswith("cmpl-")
    usage = {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}
    assert answer["usage"] | usage == answer["usage"]


def test_without_max_tokens_a_completion_has_16_and_a_chat_fits_the_context(client):
    assert complete(client)["usage"]["completion_tokens"] == 16
    answer = chat(client)
    assert answer["usage"]["total_tokens"] == 64
    assert answer["choices"][0]["message"]["role"] == "assistant"


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("a", ["b"]),
        (["a", "f"], ["b", "g"]),
        ([64, 65], ["c"]),
        ([[64], [69, 70]], ["b", "h"]),
        ("", ["!"]),
        ([[]], ["!"]),
        ([], ["!"]),
        ("a<|endoftext|>", ["!"]),
    ],
)
def test_prompts_are_texts_ids_and_lists_of_either(client, prompt, texts):
    answer = complete(client, prompt=prompt, max_tokens=1)
    assert [choice["text"] for choice in answer["choices"]] == texts


def test_choices_run_by_prompt_then_by_sample_with_a_seed_for_each(client):
    engine_of(client).requests.clear()
    answer = complete(client, prompt=["a", "f"], n=2, seed=-1, max_tokens=1)
    assert [(c["index"], c["text"]) for c in answer["choices"]] == [(0, "b"), (1, "b"), (2, "g"), (3, "g")]
    requests = engine_of(client).requests
    assert [params.sample_index for _, params in requests] == [0, 1, 0, 1]
    assert {params.seed for _, params in requests} == {2**32 - 1}
    assert answer["usage"]["prompt_tokens"] == 2


def test_null_is_the_default_of_every_optional_key(client):
    keys = ("max_tokens", "temperature", "top_p", "top_k", "n", "stop", "seed", "logprobs", "echo", "best_of",
            "stream", "stream_options", "logit_bias", "suffix", "user", "response_format", "tools")  # fmt: skip
    assert complete(client, **dict.fromkeys(keys)) | {"id": 0, "created": 0} == complete(client) | {
        "id": 0,
        "created": 0,
    }


def test_keys_that_cannot_change_the_text_are_ignored(client):
    complete(client, user="u", store=True, metadata={"a": "b"}, service_tier="auto", parallel_tool_calls=True, tools=[])
    chat(client, reasoning_effort="low", tools=None, functions=[], tool_choice="auto", response_format={"type": "text"})


@pytest.mark.parametrize(
    "key", [{"tools": [{"type": "function"}]}, {"response_format": {"type": "json_object"}}, {"functions": [{}]}]
)
def test_keys_that_would_change_the_text_are_refused_by_name(client, key):
    error = chat(client, 400, **key)
    assert error["param"] == next(iter(key))
    assert error["type"] == "invalid_request_error"


def test_a_request_without_a_model_names_the_models(client):
    error = client.post("/v1/completions", content=json.dumps({"prompt": "a"})).json()["error"]
    assert error["param"] == "model"
    assert error["message"] == "model: missing; write one of a, b, chat, wide"


def test_the_only_model_need_not_be_named():
    with serving(Models(a=loaded("a"))) as client:
        for path, body in (
            ("/v1/completions", {"prompt": "a", "max_tokens": 1}),
            ("/tokenize", {"prompt": "a"}),
        ):
            answer = client.post(path, content=json.dumps(body))
            assert answer.status_code == 200
        assert client.post("/v1/completions", content=json.dumps({"prompt": "a"})).json()["model"] == "a"


WRONG = [
    ({"temperature": -1}, "temperature"), ({"top_p": 0}, "top_p"), ({"n": 0}, "n"), ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 10**6}, "max_tokens"), ({"prompt": {"a": 1}}, "prompt"), ({"prompt": [[-1]]}, "prompt"),
    ({"prompt": [[257]]}, "prompt"), ({"prompt": [1.5]}, "prompt"), ({"logprobs": 21}, "logprobs"),
    ({"n": 2, "best_of": 1}, "best_of"), ({"best_of": 2, "stream": True}, "best_of"), ({"stop": ["a"] * 17}, "stop"),
    ({"logit_bias": {"x": 1}}, "logit_bias"), ({"logit_bias": {"065": 1}}, "logit_bias"),
    ({"logit_bias": {"999": 1}}, "logit_bias"), ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
    ({"suffix": "x"}, "suffix"), ({"temperature": float("nan")}, "temperature"), ({"seed": 2**70}, "seed"),
    ({"stream": "yes"}, "stream"), ({"prompt": ["a"] * 200, "n": 2}, "prompt"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "param"), WRONG, ids=[str(body)[:40] for body, _ in WRONG])
def test_a_mistake_is_400_and_names_the_key(client, body, param):
    answer = client.post("/v1/completions", content=json.dumps({"model": "a", "prompt": "a"} | body))
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert param in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body should be one JSON object"),
        (b"{", "not valid JSON: line 1, column 2: Expecting"),
        (b'{"model": "a",\n "prompt": "a" "b"}', "not valid JSON: line 2, column 16: Expecting"),
        (b"[]", "body should be one JSON object"),
        (b"null", "body should be one JSON object"),
        (b'{"model": "\xff', "not UTF-8 at byte 11"),
        (b'{"model": "a", "prompt": 1e999}', "prompt: expected a text, a list of texts"),
        (b'{"model": "a", "prompt": ["a", [1]]}', "prompt: expected a text, a list of texts"),
        (b'{"model": "a", "stop": 1}', "stop: expected a text"),
        (b'{"model": "a", "stop": ""}', "stop: expected a text of 1 to 1,000 characters, or a list"),
        (b'{"model": "a", "stop": ["a", ""]}', "stop: expected a text of 1 to 1,000 characters, or a list"),
        (b'{"model": "a", "stop": [%s"a"]}' % (b'"a", ' * 16), "stop: expected a text of 1 to 1,000 characters, or"),
        (b'{"model": "a", "temperature": NaN}', "temperature: Input should be a finite number"),
        (b'{"model": "a", "top_p": 1e999}', "top_p: Input should be a finite number"),
        (b'{"model": "a", "logit_bias": {"5": NaN}}', "logit_bias.5: Input should be a finite number"),
        (b'{"model": "a", "seed": 1%s}' % (b"0" * 5000), "could not be read as JSON: Exceeds the limit"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"prompt": "a"}', "model: missing"),
    ],
)
def test_a_body_that_is_no_request_is_400(client, body, message):
    answer = client.post("/v1/completions", content=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_a_stop_text_may_be_longer_than_a_list_of_them(client):
    assert complete(client, stop="bcdefghijklmnopqrstuvwxyz"[:20], max_tokens=30)["choices"][0]["text"] == ""
    assert complete(client, stop=["cd"] * 16, max_tokens=5)["choices"][0]["text"] == "b"
    assert complete(client, stop=[], max_tokens=2)["choices"][0]["text"] == "bc"


def test_half_of_a_surrogate_pair_is_read_as_main_reads_it(client):
    halves = json.dumps({"model": "a", "text": "\ud800x\ud83d\ude00"})
    whole = json.dumps({"model": "a", "text": "\ufffdx\U0001f600"})
    scores = [client.post("/score", content=body).json() for body in (halves, whole)]
    assert scores[0] == scores[1]
    stopped = json.dumps({"model": "a", "prompt": "a", "stop": ["\ud800"]})
    assert client.post("/v1/completions", content=stopped).status_code == 200


def test_what_is_not_there_is_404_in_the_same_form(client):
    assert complete(client, 404, model="gpt-4")["code"] == "model_not_found"
    for method, path, code in (
        ("GET", "/v1/responses", 404),
        ("GET", "/v1/completions", 405),
        ("GET", "/v1/models/x", 404),
    ):
        answer = client.request(method, path)
        assert answer.status_code == code
        assert answer.json()["error"]["message"]
    assert complete(client, 503, model="b")["message"] == "model b could not be loaded: b.json: no such file"


def test_a_prompt_up_to_the_context_is_taken_and_a_longer_one_refused_with_the_number(client):
    assert complete(client, prompt="a" * 64, max_tokens=1)["choices"][0]["text"] == "b"
    error = complete(client, 400, prompt="a" * 65, stream=True)
    assert error["code"] == "context_length_exceeded"
    assert "64" in error["message"]
    assert chat(client, 400, messages=[{"role": "user", "content": "a" * 64}])["code"] == "context_length_exceeded"


def logprob(previous: int, token: int) -> float:
    """Computes the engine's log-probability independently."""
    total = math.fsum(math.exp(-0.1 * i) for i in range(TOKENIZER.n_vocab))
    return -0.1 * ((token - previous - 1) % TOKENIZER.n_vocab) - math.log(total)


def test_echo_with_logprobs_has_an_entry_for_each_token_of_both(client):
    answer = complete(client, prompt=[[64, 70, 65]], max_tokens=1, logprobs=1, echo=True, temperature=0)
    choice = answer["choices"][0]
    assert choice["text"] == "agbc"
    lists = choice["logprobs"]
    assert lists["tokens"] == ["a", "g", "b", "c"]
    assert lists["text_offset"] == [0, 1, 2, 3]
    assert lists["token_logprobs"][0] is None
    assert lists["top_logprobs"][0] is None
    assert lists["token_logprobs"][1:] == pytest.approx([logprob(64, 70), logprob(70, 65), logprob(65, 66)])
    assert lists["top_logprobs"][1] == pytest.approx({"b": logprob(64, 65), "g": logprob(64, 70)})
    assert max(lists["top_logprobs"][3].values()) == lists["token_logprobs"][3]
    scored = complete(client, prompt=[[64, 70, 65]], max_tokens=0, logprobs=1, echo=True)["choices"][0]
    assert scored["logprobs"]["tokens"] == ["a", "g", "b"]
    assert scored["text"] == "agb"
    assert scored["finish_reason"] == "length"


def test_logprobs_without_echo_count_offsets_from_the_prompts_end(client):
    lists = complete(client, prompt="ab", max_tokens=2, logprobs=0)["choices"][0]["logprobs"]
    assert lists["text_offset"] == [2, 3]
    assert lists["top_logprobs"] == [{"c": lists["token_logprobs"][0]}, {"d": lists["token_logprobs"][1]}]


def offsets(client, *, is_stream: bool, **body) -> tuple[str, list[int]]:
    """Returns the text of an answer and where its tokens begin."""
    body = {"logprobs": 0, "max_tokens": 20} | body
    choices = (
        [chunk["choices"][0] for chunk in events(client, **body)[:-1]] if is_stream
        else complete(client, **body)["choices"]
    )  # fmt: skip
    places = [place for choice in choices if choice["logprobs"] for place in choice["logprobs"]["text_offset"]]
    return "".join(choice["text"] for choice in choices), places


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("ids", "body", "text", "expected"),
    [
        ([*TOKENIZER.encode("a"), *SMILE[:3]], {}, "a\ufffd", [2, 3, 3, 3, 4]),
        ([*TOKENIZER.encode("a"), *SMILE[:3]], {"echo": True}, "xya\ufffd", [0, 1, 2, 3, 3, 3, 4]),
        ([*TOKENIZER.encode("a"), *SMILE[:3]], {"stop": ["\ufffd!"]}, "a\ufffd", [2, 3, 3, 3, 4]),
        ([*TOKENIZER.encode("é")[:1], *TOKENIZER.encode("b")], {}, "\ufffdb", [2, 3, 4]),
        (TOKENIZER.encode("b"), {"prompt": []}, "b", [0, 1]),
        (TOKENIZER.encode("b"), {"prompt": [], "echo": True}, "b", [0, 0, 1]),
        (TOKENIZER.encode("b"), {"prompt": "", "echo": True}, "b", [0, 0, 1]),
        ([SMILE[2], SMILE[3]], {"prompt": SMILE[:2], "echo": True}, "\ufffd\ufffd\ufffd", [0, 0, 1, 2, 3]),
    ],
)
def test_offsets_are_those_of_the_text_that_is_returned(ids, body, text, expected, is_stream):
    engine = CountingEngine(answer=lambda prompt, i: [*ids, END][i])
    with serving(Models(a=loaded("a", engine))) as client:
        assert offsets(client, is_stream=is_stream, **{"prompt": "xy"} | body) == (text, expected)


@pytest.mark.parametrize(
    ("prompt", "text", "expected"),
    [
        ("hello world", "hello worlds.", [0, 5, 11, 12, 13]),
        ("hello x y", "hello x ys.", [0, 5, 9, 9, 10, 11]),  # " <unk>" is longer than what it stands for
        ([4, 5], " hello worlds.", [0, 6, 12, 13, 14]),
        ("", "s.", [0, 0, 1, 2]),
    ],
)
def test_offsets_with_a_vocabulary_that_puts_a_blank_in_front(prompt, text, expected):
    words = WordPiece("<unk> hello world ##s .", source="vocab.txt")
    answer = [*words.encode("worlds.")[1:], words.end_of_text]
    engine = CountingEngine(n_vocab=words.n_vocab, answer=lambda prompt, i: answer[i])
    with serving(Models(a=loaded("a", engine, tokenizer=words))) as client:
        assert offsets(client, is_stream=False, prompt=prompt, echo=True) == (text, expected)


def scripted(text: str, **options) -> CountingEngine:
    """Returns an engine that generates the text and then end-of-text."""
    ids = [*TOKENIZER.encode(text), END]
    return CountingEngine(n_ctx=256, answer=lambda prompt, i: ids[min(i, len(ids) - 1)], **options)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("logprobs", [None, 1])
@pytest.mark.parametrize(
    ("stop", "max_tokens", "text", "reason"),
    [
        (None, 100, "a🙂 stopword ok", "stop"),
        (["opwo"], 100, "a🙂 st", "stop"),
        ("wordy", 100, "a🙂 stopword ok", "stop"),
        (["<|endoftext|>", "\n\n", "Q:"], 100, "a🙂 stopword ok", "stop"),
        (None, 3, "a�", "length"),
        (None, 5, "a🙂", "length"),
        (["wordy"], 11, "a🙂 stopw", "length"),
    ],
)
def test_stops_and_characters_with_and_without_a_stream_and_logprobs(
    stop, max_tokens, text, reason, logprobs, is_stream
):
    with serving(Models(a=loaded("a", scripted("a🙂 stopword ok")))) as client:
        body = {"prompt": "x", "max_tokens": max_tokens, "stop": stop, "logprobs": logprobs}
        if is_stream:
            choices = [chunk["choices"][0] for chunk in events(client, **body)[:-1]]
            assert [c["finish_reason"] for c in choices] == [None] * (len(choices) - 1) + [reason]
            assert "".join(choice["text"] for choice in choices) == text
            count = sum(len(choice["logprobs"]["tokens"]) for choice in choices) if logprobs else None
            assert not any("\N{REPLACEMENT CHARACTER}" in choice["text"] for choice in choices[:-1])
        else:
            answer = complete(client, **body)
            assert (answer["choices"][0]["text"], answer["choices"][0]["finish_reason"]) == (text, reason)
            assert answer["usage"]["completion_tokens"] <= max_tokens
            lists = answer["choices"][0]["logprobs"]
            count = len(lists["tokens"]) if logprobs else None
            assert not logprobs or lists["text_offset"] == sorted(lists["text_offset"])
            assert not logprobs or count == answer["usage"]["completion_tokens"]
        if logprobs and reason == "length":
            assert count == max_tokens


def test_best_of_returns_the_likeliest_per_token():
    answers = {0: "ax", 1: "bc", 2: "by"}
    order = iter([*answers])
    numbers = {}

    class Engine(CountingEngine):
        def _run(self, prompt, params, handle, stop):
            numbers[threading.get_ident()] = params.sample_index
            super()._run(prompt, params, handle, stop)

    engine = Engine(answer=lambda prompt, i: TOKENIZER.encode(answers[numbers[threading.get_ident()]])[i])
    assert next(order) == 0
    with serving(Models(a=loaded("a", engine))) as client:
        answer = complete(client, prompt="a", n=1, best_of=3, max_tokens=2)
        assert [choice["text"] for choice in answer["choices"]] == ["bc"]
        assert answer["choices"][0]["logprobs"] is None
        assert answer["usage"]["completion_tokens"] == 6
        two = complete(client, prompt="a", n=2, best_of=3, max_tokens=2, logprobs=1)
        assert [choice["text"] for choice in two["choices"]] == ["bc", "by"]


@pytest.mark.parametrize(
    ("text", "stop", "counted"),
    [("abc", [], 3), ("abXY", ["X"], 2), ("abXY", ["bX"], 1), ("X", ["X"], 0), ("aé", ["é"], 1), ("aéb", ["b"], 3)],
)
def test_best_of_ranks_by_the_tokens_of_the_text_as_main_does(text, stop, counted):
    """The tokens of a stop string, or a byte of a character that it has, and the end of the text do not count."""
    tokens = TOKENIZER.encode(text)
    scores = [-float(2**i) for i in range(len(tokens))]
    answer = Answer(0, Sample([], SamplingParams(9, logprobs=0, stop_ids=(END,)), stop), TOKENIZER)
    for token, score in zip([*tokens, END], [*scores, -99.0], strict=True):
        answer.push(TokenEvent(token, score, ()))
    answer.push(Finish("stop", 1, len(tokens), 0, 0.0, 0.0, 0.0))
    assert answer.mean_logprob == (sum(scores[:counted]) / counted if counted else -math.inf)
    stopped = Continuation(TOKENIZER, stop)
    stopped.extend(tokens)
    assert stopped.text == answer.text
    assert not stop or prompt_files._token_count(tokens, stopped.text, TOKENIZER) == counted


def test_an_answer_that_a_stop_string_ends_tells_how_much_of_its_prompt_was_cached():
    answer = Answer(0, Sample([5], SamplingParams(9), ["b"]), TOKENIZER)
    deltas = [answer.push(TokenEvent(token, cached_tokens=7)) for token in TOKENIZER.encode("ab")]
    assert [delta.finish_reason for delta in deltas] == [None, "stop"]
    assert answer.cached_tokens == 7


def test_tokens_that_come_together_are_sent_together_and_the_end_by_itself():
    class Engine:
        def submit(self, prompt, params, *, owner, on_event):
            for token in TOKENIZER.encode("é, ok"):
                on_event(TokenEvent(token, -1.0, ()))
            on_event(Finish("length", 1, 6, 0, 0.0, 0.0, 0.0))
            return Handle(lambda: None, on_event)

    async def read():
        samples = [Sample([65], SamplingParams(6, logprobs=0)), Sample([65], SamplingParams(6, logprobs=0))]
        return [deltas async for deltas in Generation(loaded("a", Engine()), samples, owner="").deltas()]

    (deltas,) = asyncio.run(read())
    assert [(d.index, d.text, len(d.tokens), d.finish_reason) for d in deltas] == [
        (0, "é, ok", 6, None), (1, "é, ok", 6, None), (0, "", 0, "length"), (1, "", 0, "length"),
    ]  # fmt: skip


def test_a_stream_ends_with_a_reason_then_the_usage_then_done(client):
    plain = events(client, prompt="a", max_tokens=3)
    assert plain[-1] == "[DONE]"
    assert plain[-2]["choices"][0]["finish_reason"] == "length"
    assert all("usage" not in chunk for chunk in plain[:-1])
    with_usage = events(client, prompt="a", max_tokens=3, stream_options={"include_usage": True})
    assert [chunk["usage"] for chunk in with_usage[:-2]] == [None] * (len(with_usage) - 2)
    assert with_usage[-2]["choices"] == []
    assert with_usage[-2]["usage"]["completion_tokens"] == 3
    assert len({chunk["id"] for chunk in with_usage[:-1]}) == 1


def test_a_stream_of_several_answers_with_echo(client):
    for logprobs in (None, 1):
        chunks = events(client, prompt=["a", "f"], n=2, max_tokens=2, echo=True, logprobs=logprobs)[:-1]
        texts = dict.fromkeys(range(4), "")
        for chunk in chunks:
            texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
        assert texts == {0: "abc", 1: "abc", 2: "fgh", 3: "fgh"}


def test_a_chat_stream_begins_with_the_role_and_ends_empty(client):
    chunks = events(
        client, "/v1/chat/completions", model="chat", messages=[{"role": "user", "content": "a"}], max_tokens=2
    )[:-1]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[-1] == {}
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}


def test_chat_roles_parts_and_limits(client):
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    messages = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts}]
    engine_of(client, "chat").requests.clear()
    answer = chat(client, messages=messages, max_completion_tokens=2, logprobs=True, top_logprobs=2)
    assert answer["usage"]["completion_tokens"] == 2
    entry = answer["choices"][0]["logprobs"]["content"][0]
    assert len(entry["top_logprobs"]) == 2
    assert entry["token"] == "b"
    prompt, params = engine_of(client, "chat").requests[0]
    assert CHAT_TOKENIZER.decode(prompt) == "<|endoftext|><|system|>Be kind.<|end|><|user|>hi<|end|><|assistant|>"
    assert {TEMPLATE.end, END} <= params.stop_ids
    assert chat(client, 400, max_tokens=1, max_completion_tokens=2)["param"] == "max_tokens"
    assert chat(client, 400, top_logprobs=2)["param"] == "top_logprobs"
    assert chat(client, 400, messages=[])["param"] == "messages"
    assert chat(client, 400, messages=[{"role": "user", "content": [{"type": "image_url"}]}])["param"] == "messages"
    calls = {"tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}
    for message in (
        {"role": "assistant", "content": None} | calls,
        {"role": "assistant", "content": ""} | calls,
        {"role": "tool", "tool_call_id": "1", "content": "5"},
        {"role": "function", "name": "f", "content": "5"},
    ):
        refused = chat(client, 400, messages=[{"role": "user", "content": "a"}, message])
        assert (refused["param"], "calls of tools" in refused["message"]) == ("messages", True)
    chat(
        client, messages=[{"role": "assistant", "content": "a", "tool_calls": [], "function_call": None}], max_tokens=1
    )


def test_the_runs_own_settings_are_the_defaults():
    with serving(Models(a=loaded("a", temperature=0.5, top_k=3, top_p=0.8, stop=["f"]))) as client:
        assert complete(client)["choices"][0]["text"] == "bcde"
        assert complete(client, stop=[], max_tokens=6)["choices"][0]["text"] == "bcdefg"
        engine_of(client).requests.pop()
        complete(client, temperature=1, stop="z")
        (_, first), (_, second) = engine_of(client).requests
        assert (first.temperature, first.top_k, first.top_p) == (0.5, 3, 0.8)
        assert second.temperature == 1


def test_each_way_to_draw_is_the_runs_own_unless_the_request_says_otherwise():
    own = {
        "temperature": 0.5, "top_k": 3, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.2,
        "frequency_penalty": 0.3, "presence_penalty": -5.0, "logit_bias": {"65": -3.0},
    }  # fmt: skip
    neutral = dict(zip(own, Settings(), strict=True)) | {"logit_bias": {}}
    with serving(Models(a=loaded("a", **own))) as client:
        complete(client)
        complete(client, **neutral)
        (_, first), (_, second) = engine_of(client).requests
    for params, expected in (first, own | {"logit_bias": {65: -3.0}}), (second, neutral):
        assert {key: getattr(params, key) for key in expected} == expected


def test_settings_reach_the_engine(client):
    engine_of(client).requests.clear()
    given = {
        "temperature": 0.7, "top_k": 5, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.2,
        "frequency_penalty": 0.3, "presence_penalty": -0.4, "seed": 7,
    }  # fmt: skip
    complete(client, **given, logit_bias={"65": 3})
    _, params = engine_of(client).requests[0]
    assert {key: getattr(params, key) for key in given} == given
    assert params.logit_bias == {65: 3}
    assert params.stop_ids == {END}
    complete(client, ignore_eos=True)
    assert engine_of(client).requests[1][1].stop_ids == set()


@pytest.mark.parametrize(("code", "status"), [("timeout", 503), ("internal", 500)])
def test_an_answer_that_fails_is_an_error_and_in_a_stream_an_event(code, status):
    fault = Finish("error", code=code, message="it took too long")
    with serving(Models(a=loaded("a", CountingEngine(fault=fault, seconds=0.05)))) as client:
        assert complete(client, status)["message"] == "it took too long"
        chunks = events(client, prompt="a")
        assert chunks[-1]["error"]["message"] == "it took too long"
        assert "[DONE]" not in chunks


def test_a_full_queue_is_429_with_a_time(client):
    with serving(Models(a=loaded("a", CountingEngine(queue=1, seconds=0.01)))) as client:
        answer = client.post("/v1/completions", json={"model": "a", "prompt": ["a", "b", "c"]})
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "7"
        assert answer.json()["error"]["type"] == "rate_limit_error"
        wait(lambda: not engine_of(client).running)  # the first of the three requests was cancelled
        complete(client)


@pytest.mark.parametrize(("limits", "key"), [((3, 256), "queue"), ((256, 3), "queue_per_key"), ((3, 3), "queue")])
def test_a_request_that_no_queue_can_hold_is_400_and_names_the_limit(limits, key):
    engine = CountingEngine(n_vocab=CHAT_TOKENIZER.n_vocab)
    chat = loaded("chat", engine, tokenizer=CHAT_TOKENIZER, template=TEMPLATE)
    hello = [{"role": "user", "content": "hi"}]
    requests = [
        ("/v1/completions", {"model": "a", "prompt": ["a"] * 3}, {"prompt": ["a"] * 4}, "prompt"),
        ("/v1/completions", {"model": "a", "prompt": "a", "best_of": 3}, {"best_of": 4}, "prompt"),
        ("/v1/chat/completions", {"model": "chat", "messages": hello, "n": 3}, {"n": 4}, "n"),
        ("/score", {"model": "a", "text": "a" * 120}, {"text": "a" * 400}, "text"),
    ]
    with serving(Models(a=loaded("a"), chat=chat), queue=limits[0], queue_per_key=limits[1]) as client:
        for path, body, more, param in requests:
            refused = client.post(path, json=body | more)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), refused.text
            assert (
                f"more than the 3 that may wait at a time ({key} of this server)" in refused.json()["error"]["message"]
            )
            assert client.post(path, json=body).status_code == 200


def wait(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_client_that_goes_away_frees_its_slots(is_stream, caplog):
    with serving(Models(a=loaded("a", CountingEngine(n_ctx=4096, seconds=0.02)))) as client:
        complete(client, max_tokens=1)
        engine = engine_of(client)
        body = {"model": "a", "prompt": "a", "max_tokens": 3000, "n": 3, "stream": is_stream}
        with (
            contextlib.suppress(httpx.ReadTimeout),
            client.stream("POST", "/v1/completions", json=body, timeout=0.3) as answer,
        ):
            next(answer.iter_lines())  # then close the connection
        wait(lambda: engine.cancelled == 3)
        wait(lambda: not client.server.registry.entries["a"].version.in_use)
        ended = client.server.metrics.ended.labels("a", "gone")._value.get
        wait(lambda: ended() == 1)
    assert not [record for record in caplog.records if record.exc_info]


def test_an_invocation_whose_client_goes_away_is_counted_as_such():
    with serving(Models(chatbot=loaded("chatbot", CountingEngine(n_ctx=4096, seconds=0.02)))) as client:
        client.post("/v1/completions", json={"model": "chatbot", "prompt": "a", "max_tokens": 1})
        with contextlib.suppress(httpx.ReadTimeout):
            client.post("/invocations", json={"raw_text": "a"}, timeout=0.3)
        wait(lambda: client.server.metrics.ended.labels("chatbot", "gone")._value.get() == 1)


def test_the_end_of_a_stream_that_was_read_is_no_cancellation(client):
    before = client.server.metrics.ended.labels("a", "gone")._value.get()
    for _ in range(5):
        with client.stream("POST", "/v1/completions", json={"model": "a", "prompt": "a", "stream": True}) as answer:
            for line in answer.iter_lines():
                if line == "data: [DONE]":
                    break
    time.sleep(0.1)
    assert client.server.metrics.ended.labels("a", "gone")._value.get() == before


def test_models_are_listed_with_their_states(client):
    complete(client)
    models = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
    assert set(models) == {"a", "b", "chat", "wide"}
    assert models["a"]["state"] == "ready"
    assert models["a"]["max_model_len"] == 64
    assert models["a"]["chat_format"] == "transcript"
    assert all(type(model["created"]) is int and model["owned_by"] for model in models.values())
    assert client.get("/v1/models/a").json() == models["a"]


def test_the_tokenizer_routes_of_lm_evaluation_harness(client):
    info = client.get("/tokenizer_info", params={"model": "a"}).json()
    assert info == {"eos_token": "<|endoftext|>", "bos_token": None, "chat_template": None}
    tokens = client.post("/tokenize", json={"model": "a", "prompt": "é<|endoftext|>", "add_special_tokens": False})
    assert tokens.json()["tokens"] == [*TOKENIZER.encode("é"), END]
    text = client.post("/detokenize", json={"model": "a", "tokens": tokens.json()["tokens"]}).json()
    assert text == {"prompt": "é<|endoftext|>"}
    assert client.post("/detokenize", json={"model": "a", "tokens": [257]}).status_code == 400
    template = client.get("/tokenizer_info", params={"model": "chat"}).json()["chat_template"]
    assert "<|assistant|>" in template


def test_scores_of_tokens_and_words(client):
    answer = client.post("/score", json={"model": "a", "text": "ab é", "top": 1}).json()
    ids = [END, *TOKENIZER.encode("ab é")]
    expected = [logprob(*pair) for pair in itertools.pairwise(ids)]
    assert [token["id"] for token in answer["tokens"]] == ids[1:]
    assert [token["logprob"] for token in answer["tokens"]] == pytest.approx(expected)
    assert answer["logprob"] == pytest.approx(sum(expected))
    assert answer["perplexity"] == pytest.approx(math.exp(-sum(expected) / len(expected)))
    assert answer["bits_per_byte"] == pytest.approx(-sum(expected) / math.log(2) / 5)
    assert [word["word"] for word in answer["words"]] == ["ab", " é"]
    assert answer["words"][1]["logprob"] == pytest.approx(sum(expected[2:]))
    assert all(len(token["top"]) == 1 for token in answer["tokens"])
    for text, words in (("ab é \n", ["ab", " é \n"]), (" \nab ", [" \nab "]), (" \n", [" \n"])):
        answer = client.post("/score", json={"model": "a", "text": text}).json()
        assert [word["word"] for word in answer["words"]] == words


def test_special_tokens_of_a_scored_text_have_no_bytes(client):
    answer = client.post("/score", json={"model": "a", "text": "ab<|endoftext|>é"}).json()
    assert [token["id"] for token in answer["tokens"]] == [*TOKENIZER.encode("ab"), END, *TOKENIZER.encode("é")]
    assert answer["bits_per_byte"] == pytest.approx(-answer["logprob"] / math.log(2) / len("abé".encode()))
    answer = client.post("/score", json={"model": "a", "text": "<|endoftext|>"}).json()
    assert answer["bits_per_byte"] is None


@pytest.mark.parametrize("length", [1, 62, 63, 64, 65, 96, 97, 300])
def test_a_text_longer_than_the_context_is_scored_in_windows(client, length):
    text = ("abcdefghij" * 30)[:length]
    answer = client.post("/score", json={"model": "a", "text": text}).json()
    ids = [END, *TOKENIZER.encode(text)]
    expected = [logprob(*pair) for pair in itertools.pairwise(ids)]
    assert [token["logprob"] for token in answer["tokens"]] == pytest.approx(expected)
    assert "".join(token["token"] for token in answer["tokens"]) == text


def test_the_next_tokens_with_their_probabilities(client):
    answer = client.post("/next", json={"model": "a", "text": "ab", "top": 3}).json()
    assert [entry["token"] for entry in answer["next"]] == ["c", "d", "e"]
    assert answer["next"][0]["probability"] == pytest.approx(math.exp(logprob(65, 66)))


def test_the_routes_of_dixie():
    with serving(Models(chatbot=loaded("chatbot", CountingEngine(n_ctx=200)), b="broken")) as client:
        answer = client.post("/invocations", content=json.dumps({"raw_text": "a\n"}))
        assert answer.text.startswith("bcdef")
        assert len(TOKENIZER.encode(answer.text)) >= 100
        assert client.post("/invocations", json={"raw_text": "a", "model_key": "x"}).text == "UNKNOWN"
        assert client.post("/prime", json={"model_key": "b"}).text == "primed b"
        assert client.get("/ping").text == "Pong!"
        listed = client.get("/models/list").json()
        assert listed["active_model"] == {"key": "chatbot"}
        assert {"model_key": "chatbot", "num_inferences": 1} in listed["models"]
        assert isinstance(client.get("/gputemp").json(), list)


def test_administration(client):
    assert client.post("/admin/models/wide/load").json()["state"] == "ready"
    assert client.post("/admin/models/wide/unload").json()["state"] == "unloaded"
    error = client.post("/admin/models/b/load").json()["error"]
    assert error["message"] == "model b: b.json: no such file"
    assert client.post("/admin/models/wide/nothing").status_code == 404
    assert client.post("/admin/models/x/load").status_code == 404
    states = {model["key"]: model["state"] for model in client.get("/admin/models").json()["models"]}
    assert states["b"] == "failed"


def test_the_description_has_the_form_of_errors_that_are_sent(client):
    described = client.get("/openapi.json").json()
    error = described["components"]["schemas"]["ErrorBody"]
    fault = described["components"]["schemas"][error["properties"]["error"]["$ref"].rsplit("/", 1)[1]]
    sent = client.post("/v1/completions", json={"prompt": 1.5}).json()
    assert (sent.keys(), sent["error"].keys()) == (set(error["required"]), set(fault["required"]))
    for methods in described["paths"].values():
        for route in methods.values():
            assert route["responses"].keys() == {"200", "default"}
            assert route["responses"]["default"]["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")


def test_health_readiness_and_metrics(client):
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").status_code == 200
    assert [client.head(path).status_code for path in ("/health", "/ready", "/", "/v1/models")] == [200] * 4
    assert client.head("/v1/completions").status_code == 405
    complete(client)
    text = client.get("/metrics").text
    for name in ("gpt2_requests_total", "gpt2_first_token_seconds_count", "gpt2_token_seconds_count", "gpt2_queued",
                 "gpt2_slots", "gpt2_model_events_total", "gpt2_completion_tokens_total"):  # fmt: skip
        assert f"\n{name}{{" in text
    assert 'gpt2_requests_total{route="/v1/completions",status="200"}' in text


def test_not_ready_while_models_load_or_when_none_can_answer():
    release = threading.Event()
    slow = Models(a=lambda: release.wait(20) and loaded("a"))
    with serving(slow, load="start") as client:
        assert client.get("/ready").status_code == 503
        release.set()
        wait(lambda: client.get("/ready").status_code == 200)
    with serving(Models(a="broken"), load="start") as client:
        wait(lambda: client.get("/v1/models/a").json()["error"] == "broken")
        assert client.get("/ready").status_code == 503


def test_a_line_of_an_event_is_one_line_for_every_client():
    content = {"text": "a\u2028b\u2029c\x85d\x0be\x1cf \u00e9"}
    (line,) = dump(content).decode().splitlines()
    assert json.loads(line) == content
    assert "\u00e9" in line
