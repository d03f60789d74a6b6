"""The engine compared with the Sampler and a plain forward pass, for single requests and under load."""

import gc
import random
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.launching import wait_for
from helpers.sampling import generate
from helpers.tiny_gpt2 import TINY, random_params

from models import gpt2
from models.gpt2 import cpu_kernels, model
from models.gpt2.decode import slots
from models.gpt2.decode.sampler import Sampler, Settings
from serving.engine import Engine
from serving.request import (
    EngineClosed,
    EngineConfig,
    Finish,
    Handle,
    PromptScore,
    QueueFull,
    RequestError,
    SamplingParams,
    TokenEvent,
)

N_CTX = 96
LIMITS = EngineConfig(slots=3, queue=200, owner_queue=100, chunk=32)


def config(**more):
    return gpt2.Config(**(TINY | {"n_ctx": N_CTX, "untied_head": True} | more))


def tokens_of(n, seed):
    return np.random.default_rng(seed).integers(0, 100, n).tolist()


@pytest.fixture(scope="module")
def params():
    """Returns parameters for which the most likely token depends on both position and context."""
    drawn = random_params(config())
    tables = {name: 10 * drawn[name] for name in ("wte", "wpe")}
    norm = {"g": 1 + drawn["ln_f"]["g"], "b": 0 * drawn["ln_f"]["b"]}
    return drawn | tables | {"h": jax.tree.map(lambda x: 3 * x, drawn["h"]), "ln_f": norm}


@pytest.fixture(scope="module", params=["float32", "bfloat16", "int8"])
def precision(request):
    if request.param != "float32" and (obstacle := cpu_kernels.obstacle()):
        pytest.skip(obstacle)
    return request.param


@pytest.fixture(scope="module")
def sampler(params, precision):
    return Sampler(params, config(predict_precision=precision))


@pytest.fixture(scope="module")
def engine(sampler):
    engine = Engine(sampler, LIMITS)
    yield engine
    assert engine.close(timeout=60)
    assert engine.error is None


def alone(sampler, prompt, params):
    """Generates like main.py: with the Sampler, one row at a time."""
    settings = Settings(params.temperature, params.top_k, params.top_p, params.min_p, params.repetition_penalty,
                        params.frequency_penalty, params.presence_penalty, dict(params.logit_bias))  # fmt: skip
    options = {"length": params.max_tokens, "seed": params.seed or 0, "first_row": params.sample_index}
    return generate(sampler, [prompt], settings, **options)[0]


CASES = [
    (tokens_of(5, 0), SamplingParams(max_tokens=12, temperature=0)),
    (tokens_of(70, 1), SamplingParams(max_tokens=20, temperature=0)),
    (tokens_of(33, 2), SamplingParams(max_tokens=150, temperature=0)),  # exceeds the context twice
    (tokens_of(96, 3), SamplingParams(max_tokens=9, temperature=0)),  # the prompt is truncated
    (tokens_of(17, 4), SamplingParams(max_tokens=30, seed=2**31 + 5)),
    (tokens_of(17, 4), SamplingParams(max_tokens=30, seed=2**31 + 5, sample_index=3)),
    (tokens_of(40, 5), SamplingParams(max_tokens=25, temperature=0.8, top_k=20, seed=1)),
    (tokens_of(40, 5), SamplingParams(max_tokens=25, temperature=1.2, top_p=0.8, min_p=0.02, seed=2)),
    (tokens_of(8, 6), SamplingParams(max_tokens=30, temperature=0, repetition_penalty=1.3, logit_bias={4: 2, 9: -50})),
    (tokens_of(8, 7), SamplingParams(max_tokens=30, temperature=0, frequency_penalty=0.7, presence_penalty=0.3)),
    (tokens_of(80, 8), SamplingParams(max_tokens=40, temperature=0, repetition_penalty=1.1, seed=7)),
]


@pytest.fixture(scope="module")
def expected(sampler):
    answers = [alone(sampler, prompt, params) for prompt, params in CASES]
    assert sum(len(set(answer)) > 8 for answer in answers) > 6
    return answers


def test_answers_equal_those_of_the_sampler(engine, expected):
    for (prompt, params), tokens in zip(CASES, expected, strict=True):
        found, finish = engine.submit(prompt, params).result()
        assert found == tokens
        assert (finish.reason, finish.completion_tokens, finish.prompt_tokens) == ("length", len(tokens), len(prompt))


def test_prompts_without_room_for_the_answer_are_those_of_main_however_much_is_asked_for(engine, sampler, log_softmax):
    prompt, params = tokens_of(90, 9), SamplingParams(max_tokens=12, temperature=0, repetition_penalty=1.5)
    seen = prompt[-(N_CTX - 12) :]  # main.py shortens the prompt before it generates
    tokens = alone(sampler, seen, params)
    assert alone(sampler, prompt, params) == tokens
    for scores in (None, 0):
        handle = engine.submit(prompt, replace(params, prompt_logprobs=scores))
        *events, finish = handle
        assert [event.token for event in events if isinstance(event, TokenEvent)] == tokens
        assert (finish.prompt_tokens, finish.completion_tokens) == (90, 12)
    score, *_ = events
    assert_scores(score, prompt, log_softmax(prompt), top=0, atol=rounding(sampler.config.predict_precision))


def test_answers_do_not_depend_on_load(engine, expected):
    """Runs all cases four times in random order, mixed with requests that are cancelled at random moments."""
    chance = random.Random(0)
    jobs = [*range(len(CASES))] * 4 + [-1, -2, -3, -30] * 5
    chance.shuffle(jobs)

    def run(number):
        if number >= 0:
            return engine.submit(*CASES[number], owner=str(number % 3)).result()[0] == expected[number]
        prompt = tokens_of(chance.randrange(1, 90), 1000 + chance.randrange(1000))
        handle = engine.submit(prompt, SamplingParams(max_tokens=10**6))
        reasons = []
        for count, event in enumerate(handle):
            reasons += [event.reason] if isinstance(event, Finish) else []
            if count == abs(number):
                handle.cancel()
        return reasons == ["cancelled"]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(run, jobs))
    assert [job for job, is_right in zip(jobs, answers, strict=True) if not is_right] == []


@pytest.fixture(scope="module")
def log_softmax(params):
    """Returns the log-probabilities of a plain forward pass, float32 [T, V]."""

    @jax.jit
    def run(tokens):
        hidden, _ = model.forward(params, tokens[None], config=config())
        return jax.nn.log_softmax(model.logits(params, hidden[0], config=config()))

    return lambda tokens: np.asarray(run(jnp.asarray(tokens + [0] * (N_CTX - len(tokens)))))[: len(tokens)]


def rounding(precision):
    return {"float32": 1e-4, "bfloat16": 0.1, "int8": 0.3}[precision]


def scores_of(handle):
    (score,) = (event for event in handle if isinstance(event, PromptScore))
    return score


def assert_scores(score, tokens, table, *, top, atol):
    assert len(score.logprobs) == len(score.top) == len(tokens)
    assert (score.logprobs[0], score.top[0]) == (None, ())
    np.testing.assert_allclose(score.logprobs[1:], table[np.arange(len(tokens) - 1), tokens[1:]], atol=atol, rtol=0)
    for position, pairs in enumerate(score.top[1:]):
        assert len(pairs) == top
        assert [value for _, value in pairs] == sorted((value for _, value in pairs), reverse=True)
        for token, value in pairs:
            assert value == pytest.approx(table[position, token], abs=atol)
        for token, value in pairs:  # bitwise equal, so that clients can compare with the maximum
            assert token != tokens[position + 1] or value == score.logprobs[position + 1]


@pytest.mark.parametrize("length", [1, 2, 50, N_CTX])
def test_prompts_are_scored_as_by_a_plain_forward_pass(engine, precision, log_softmax, length):
    tokens = tokens_of(length, 20 + length)
    handle = engine.submit(tokens, SamplingParams(max_tokens=0, prompt_logprobs=5))
    assert_scores(scores_of(handle), tokens, log_softmax(tokens), top=5, atol=rounding(precision))


def test_new_tokens_have_the_log_probabilities_of_the_model(engine, precision, log_softmax):
    prompt = tokens_of(10, 30)
    params = SamplingParams(max_tokens=20, seed=1, temperature=0.5, presence_penalty=1.0, logprobs=4, prompt_logprobs=0)
    score, *events, finish = engine.submit(prompt, params)
    assert isinstance(score, PromptScore)
    assert isinstance(finish, Finish)
    tokens = [event.token for event in events]
    table, atol = log_softmax(prompt + tokens)[len(prompt) - 1 :], rounding(precision)
    for event, row in zip(events, table, strict=False):
        assert event.logprob == pytest.approx(row[event.token], abs=atol)
        assert len(event.top) == 4
        assert event.top[0][1] == pytest.approx(row.max(), abs=atol)
        assert all(value == event.logprob for token, value in event.top if token == event.token)


def test_alternatives_are_the_likeliest_of_the_vocabulary_however_many_rows_the_table_has(params, log_softmax):
    known = 60
    engine = Engine(Sampler(params, config(), n_known=known), LIMITS)
    prompt = [token % known for token in tokens_of(10, 31)]
    wanted = SamplingParams(max_tokens=3, temperature=0, logprobs=20, prompt_logprobs=20)
    score, *events, _ = engine.submit(prompt, wanted)
    assert engine.close(timeout=60)
    table = log_softmax(prompt + [event.token for event in events])
    for pairs, row in zip([*score.top[1:], *(event.top for event in events)], table[:-1], strict=True):
        np.testing.assert_allclose([value for _, value in pairs], -np.sort(-row[:known])[:20], atol=1e-4)
        np.testing.assert_allclose(row[[token for token, _ in pairs]], [value for _, value in pairs], atol=1e-4)


@pytest.fixture(scope="module")
def plain(params):
    return Sampler(params, config())


@pytest.fixture(scope="module")
def quick(plain):
    engine = Engine(plain, LIMITS)
    yield engine
    assert engine.close(timeout=60)


def computed(engine, prompt, params):
    """Returns the events of a request, and the number of its prompt tokens that were computed."""
    before = engine.stats().computed_prompt_tokens
    events = list(engine.submit(prompt, params))
    return events, engine.stats().computed_prompt_tokens - before


def answer(events):
    return [event for event in events if not isinstance(event, Finish)]


def test_common_beginnings_are_computed_once(plain):
    engine = Engine(plain, LIMITS)
    begin, params = tokens_of(50, 40), SamplingParams(max_tokens=8, temperature=0)
    turns = [[*begin, i, *tokens_of(19, 41 + i)] for i in range(4)]
    events, count = computed(engine, turns[0], params)
    assert count == 70
    again, count = computed(engine, turns[0], params)
    assert count == 1
    assert answer(again) == answer(events)
    assert (again[0].cached_tokens, again[-1].cached_tokens, again[-1].prompt_tokens) == (69, 69, 70)
    for turn in turns[1:]:
        events, count = computed(engine, turn, params)
        assert count == 20
        assert [event.token for event in answer(events)] == alone(plain, turn, params)
    longer = turns[0] + [event.token for event in answer(again)] + tokens_of(5, 45)
    events, count = computed(engine, longer, params)
    assert count == len(longer) - 70  # the response tokens were cached as well
    assert [event.token for event in answer(events)] == alone(plain, longer, params)
    assert engine.close(timeout=60)


def test_beginnings_of_scored_prompts_are_computed_once(plain):
    begin = tokens_of(50, 50)
    texts = [[*begin, i, *tokens_of(19, 51 + i)] for i in range(3)]
    params = SamplingParams(max_tokens=0, prompt_logprobs=2)
    scores = []
    for text in texts:
        fresh = Engine(plain, LIMITS)
        scores.append(scores_of(fresh.submit(text, params)))
        fresh.close()
    engine = Engine(plain, LIMITS)
    for expected, (text, count) in zip(scores, zip(texts, (70, 21, 21), strict=True), strict=True):
        events, computed_tokens = computed(engine, text, params)
        assert computed_tokens == count
        assert answer(events) == [expected]
    fewer, count = computed(engine, texts[1], SamplingParams(max_tokens=0, prompt_logprobs=1))
    assert count == 1
    assert fewer[0].top == tuple(pairs[:1] for pairs in scores[1].top)
    assert computed(engine, texts[1], SamplingParams(max_tokens=0, prompt_logprobs=3))[1] == 70
    assert engine.close(timeout=60)


def test_samples_of_one_prompt_share_its_computation(plain):
    engine = Engine(plain, LIMITS)
    prompt = tokens_of(64, 60)
    handles = [engine.submit(prompt, SamplingParams(max_tokens=5, seed=1, sample_index=i)) for i in range(3)]
    answers = [handle.result()[0] for handle in handles]
    assert answers == [alone(plain, prompt, SamplingParams(max_tokens=5, seed=1, sample_index=i)) for i in range(3)]
    assert engine.stats().computed_prompt_tokens == 66
    assert engine.close(timeout=60)


def test_an_answer_ends_with_its_stop_token(plain, quick):
    engine, tokens = quick, alone(plain, *CASES[2])
    stop = tokens[5]
    params = SamplingParams(max_tokens=100, temperature=0, stop_ids=frozenset([stop, 99]))
    found, finish = engine.submit(CASES[2][0], params).result()
    end = tokens.index(stop) + 1
    if 99 not in tokens[:end]:
        assert found == tokens[:end]
    assert finish.reason == "stop"
    many = frozenset(range(100))  # more than the device can compare
    found, finish = engine.submit(CASES[2][0], SamplingParams(max_tokens=100, temperature=0, stop_ids=many)).result()
    assert (found, finish.reason) == (tokens[:1], "stop")


def test_without_max_tokens_the_context_is_filled(quick):
    found, finish = quick.submit(tokens_of(90, 1), SamplingParams(max_tokens=None)).result()
    assert (len(found), finish.reason) == (N_CTX - 90, "length")


@pytest.fixture
def busy(plain):
    """An engine with a single slot, which is occupied by a long request."""
    engine = Engine(plain, EngineConfig(slots=1, queue=4, owner_queue=3, chunk=32))
    long = engine.submit([1], SamplingParams(max_tokens=10**6), owner="long")
    next(iter(long))
    yield engine, long
    long.cancel()
    engine.close(drain=False)


def test_owners_are_served_in_turn_and_the_queue_is_bounded(busy):
    engine, long = busy
    order, lock = [], threading.Lock()

    def note(name):
        def on_event(event):
            if isinstance(event, TokenEvent):
                with lock:
                    order.append(name)

        return on_event

    one = SamplingParams(max_tokens=1)
    for name in ("a1", "a2", "a3", "b1"):
        engine.submit([2], one, owner=name[0], on_event=note(name))
    for owner in "ac":
        with pytest.raises(QueueFull, match="try again") as error:
            engine.submit([2], one, owner=owner)
        assert 1 <= error.value.retry_after <= 120
    assert (engine.stats().queued, engine.stats().running) == (4, 1)
    long.cancel()
    engine.close(timeout=60)
    assert order[:3] in (["a1", "b1", "a2"], ["b1", "a1", "a2"])


def test_a_request_does_not_run_any_more_when_its_caller_learns_of_the_end(plain):
    engine, running = Engine(plain, LIMITS), []
    params = SamplingParams(max_tokens=2)
    engine.submit([1], params, on_event=lambda event: running.append(engine.stats().running))
    assert engine.close()
    assert running == [1, 1, 0]


def test_cancelled_and_late_requests_end(busy):
    engine, long = busy
    waiting = engine.submit([2])
    late = engine.submit([2], timeout=0.01)
    waiting.cancel()
    assert waiting.result()[1].reason == "cancelled"
    _, finish = late.result()
    assert (finish.reason, finish.code, finish.message) == (
        "error",
        "timeout",
        "the request took longer than its limit of 0.01 s",
    )
    long.cancel()
    *_, finish = long
    assert finish.reason == "cancelled"
    long.cancel()
    assert engine.submit([2], SamplingParams(max_tokens=1)).result()[1].reason == "length"
    assert engine.stats().finished == {"stop": 0, "length": 1, "cancelled": 2, "error": 1}


def test_a_closing_engine_ends_what_it_cannot_finish(busy):
    engine, long = busy
    assert engine.close(timeout=0.05) is False
    *_, finish = long
    assert (finish.reason, finish.code) == ("error", "shutdown")
    with pytest.raises(EngineClosed):
        engine.submit([1])


def test_a_failing_device_ends_all_requests(plain, monkeypatch):
    engine = Engine(plain, LIMITS)
    monkeypatch.setattr(engine._model, "decode", lambda *_: 1 / 0)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    _, finish = engine.submit([1]).result()
    assert (finish.reason, finish.code) == ("error", "internal")
    assert "division" in finish.message
    with pytest.raises(EngineClosed, match="division"):
        engine.submit([1])
    assert engine.close()


def test_weights_whose_probabilities_are_not_finite_end_requests_with_an_error(params):
    broken = Sampler(params | {"ln_f": jax.tree.map(lambda x: x * jnp.nan, params["ln_f"])}, config())
    engine = Engine(broken, LIMITS)
    cases = [{"temperature": 0}, {"temperature": 1}, {"prompt_logprobs": 2, "max_tokens": 0}, {"prompt_logprobs": 0}]
    for handle in [engine.submit(tokens_of(50, 1), SamplingParams(**case)) for case in cases]:
        (finish,) = handle
        assert (finish.reason, finish.code) == ("error", "internal")
        assert "probabilities are not finite" in finish.message
    assert engine.stats().running == 0
    assert engine.close()
    assert engine.error is None


def test_a_closed_engine_is_freed_without_a_garbage_collection(plain):
    engine = Engine(plain, LIMITS)
    gc.collect()
    gc.disable()
    try:
        handle = engine.submit([1], SamplingParams(max_tokens=2))
        handle.result()
        engine.close()
        freed = weakref.ref(engine)
        del engine
        assert freed() is None
    finally:
        gc.enable()
    handle.cancel()


def test_models_of_one_shape_share_compiled_programs(params, quick):
    def answered(engine):
        tokens, _ = engine.submit(tokens_of(5, 1), SamplingParams(4, temperature=0)).result()
        return tokens, slots._compiled(slots._decode, None)._cache_size()

    sampler = Sampler(params, config(init_from="somewhere/else", lr_scale={"wte": 0.5}))
    other = Engine(sampler, quick.config)
    assert answered(quick) == answered(other)
    assert other.close(timeout=60)


def test_a_receiver_that_is_gone_is_a_cancellation(quick):
    def gone(event):
        raise RuntimeError("Event loop is closed")

    before = quick.stats().finished["cancelled"]
    quick.submit([1], SamplingParams(max_tokens=10**6), on_event=gone)
    wait_for(lambda: quick.stats().finished["cancelled"] > before, seconds=60)


WRONG = [
    ([], {}, "prompt"),
    ([0] * (N_CTX + 1), {}, "prompt"),
    ([100], {}, "prompt"),
    ([-1], {}, "prompt"),
    ([1], {"temperature": -1}, "temperature"),
    ([1], {"temperature": float("nan")}, "temperature"),
    ([1], {"top_p": 0}, "top_p"),
    ([1], {"repetition_penalty": 0}, "repetition_penalty"),
    ([1], {"repetition_penalty": 1e-300}, "repetition_penalty"),
    ([1], {"seed": 2**32}, "seed"),
    ([1], {"logprobs": 21}, "logprobs"),
    ([1], {"logit_bias": {100: 1.0}}, "logit_bias"),
    ([1], {"logit_bias": {1: float("inf")}}, "logit_bias"),
]


@pytest.mark.parametrize(("prompt", "values", "param"), WRONG)
def test_wrong_requests_name_their_parameter(quick, prompt, values, param):
    with pytest.raises(RequestError) as error:
        quick.submit(prompt, SamplingParams(**values))
    assert error.value.param == param


def test_a_request_with_on_event_cannot_be_waited_for():
    handle = Handle(lambda: None, lambda event: None)
    handle.deliver(Finish("stop"))
    with pytest.raises(RuntimeError, match="go to its on_event"):
        handle.result()
    handle = Handle(lambda: None)
    handle.deliver(Finish("stop"))
    assert handle.result() == ([], Finish("stop"))
