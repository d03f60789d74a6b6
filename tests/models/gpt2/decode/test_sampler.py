"""Cached generation compared with recomputing everything for each token."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.sampling import GREEDY, generate
from helpers.tiny_gpt2 import random_params, tiny

from estimator.errors import UserError
from models.gpt2 import model
from models.gpt2.decode import drawing
from models.gpt2.decode.sampler import Sampler, Settings


@partial(jax.jit, static_argnames="config")
def next_likeliest(params, config, window, last):
    """Computes the next token from the whole window, padded to n_ctx; causal masking hides later positions."""
    hidden, _ = model.forward(params, window[None], config=config)
    return jnp.argmax(model.logits(params, hidden[0, last], config=config))


def naive_greedy(params, config, prompt, length):
    row = list(prompt)
    for _ in range(length):
        window = row[-config.n_ctx :]
        padded = jnp.asarray(window + [0] * (config.n_ctx - len(window)))
        row.append(int(next_likeliest(params, config, padded, len(window) - 1)))
    return row[len(prompt) :]


def test_cached_decoding_equals_naive_decoding_for_prompts_of_unequal_length():
    config = tiny(n_ctx=64)
    params = random_params(config)
    prompts = [[5], [7, 8, 9, 10, 11], list(range(20))]
    sampler = Sampler(params, config)
    rows = generate(sampler, prompts, GREEDY, length=40)
    assert rows == [naive_greedy(params, config, prompt, 40) for prompt in prompts]


def test_generation_goes_on_past_the_context_from_its_last_half():
    config = tiny(n_ctx=16)
    params = random_params(config)
    sampler = Sampler(params, config)
    (row,) = generate(sampler, [[3, 4]], GREEDY, length=50)
    assert len(row) == 50
    # The prompt and 15 tokens fill the context; after that, each window starts from the last 8 tokens.
    history, expected = [3, 4], []
    while len(expected) < 50:
        window = history[-8:] if len(history) > 2 else history
        new = naive_greedy(params, config, window, min(50 - len(expected), 17 - len(window)))
        history += new
        expected += new
    assert row == expected


@pytest.mark.parametrize(
    "settings",
    [GREEDY, Settings(temperature=1.0), Settings(temperature=0.8, repetition_penalty=1.3, presence_penalty=0.5)],
)
def test_rows_past_the_context_do_not_depend_on_the_others(settings):
    config = tiny(n_ctx=16)
    sampler = Sampler(random_params(config), config, end_of_text=7)
    prompts = [[3, 4], [5] * 13, [2, 9, 8, 1, 6], [1] * 30]

    def rows(prompts, first_row):
        made: list[tuple[list[int], list[float]]] = [([], []) for _ in prompts]
        options = {"settings": settings, "length": 45, "seed": 5, "stopped": set(), "with_logprobs": True}
        for chunk in sampler.generate(prompts, first_row=first_row, **options):
            for (tokens, values), more, logprobs in zip(made, chunk.tokens, chunk.logprobs, strict=True):
                tokens += more
                values += logprobs
        return made

    together = rows(prompts, 0)
    alone = [rows([prompt], number)[0] for number, prompt in enumerate(prompts)]
    assert [tokens for tokens, _ in together] == [tokens for tokens, _ in alone]
    assert any(len(tokens) == 45 for tokens, _ in alone)
    for (_, values), (_, expected) in zip(together, alone, strict=True):
        np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_a_long_prompt_keeps_its_last_tokens():
    config = tiny(n_ctx=16)
    params = random_params(config)
    sampler = Sampler(params, config)
    long = list(range(1, 41))
    assert sampler.longest_prompt(4) == 12
    assert [sampler.seen(count, length=4) for count in (3, 12, 40)] == [3, 12, 12]
    assert [sampler.seen(count, length=None) for count in (3, 15, 16, 40)] == [3, 15, 8, 8]
    assert generate(sampler, [long], GREEDY, length=4) == generate(sampler, [long[-12:]], GREEDY, length=4)


def test_samples_repeat_with_their_seed_and_do_not_depend_on_their_batch():
    config = tiny()
    sampler = Sampler(random_params(config), config)
    four = generate(sampler, [[1, 2]] * 4, Settings(), length=12, seed=3)
    assert len(set(map(tuple, four))) == 4
    assert generate(sampler, [[1, 2]] * 4, Settings(), length=12, seed=3) == four
    assert generate(sampler, [[1, 2]] * 2, Settings(), length=12, seed=3, first_row=2) == four[2:]
    assert generate(sampler, [[1, 2]] * 4, Settings(), length=12, seed=4) != four


def test_rows_end_at_end_of_text_without_it():
    config = tiny(n_ctx=64)
    params = random_params(config)
    (free,) = generate(Sampler(params, config), [[1]], GREEDY, length=40)
    end = free[10]
    (row,) = generate(Sampler(params, config, end_of_text=end), [[1]], GREEDY, length=40)
    assert row == free[: free.index(end)]


def test_rows_that_the_caller_stops_get_no_more_tokens():
    config = tiny(n_ctx=64)
    sampler = Sampler(random_params(config), config)
    stopped, lengths = set(), [0, 0]
    for chunk in sampler.stream([[1], [2]], settings=Settings(), length=60, seed=0, stopped=stopped):
        lengths = [n + len(new) for n, new in zip(lengths, chunk, strict=True)]
        if lengths[0] > 1:
            stopped.add(0)
    assert lengths[0] < 20
    assert lengths[1] == 60


FILTERS = [
    (0.7, 5, 1.0, 0.0),
    (1.3, 0, 0.8, 0.0),
    (1.0, 10, 0.5, 0.0),
    (1.0, 0, 1.0, 0.0),
    (1.0, 1000, 1e-6, 0.0),
    (0.8, 0, 1.0, 0.1),
    (2.0, 20, 0.9, 0.3),
]


@pytest.mark.parametrize("settings", FILTERS)
def test_filters_keep_what_transformers_keeps(settings):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    temperature, top_k, top_p, min_p = settings
    scores = np.random.default_rng(0).normal(size=(4, 100)).astype(np.float32) * 3
    theirs = transformers.TemperatureLogitsWarper(temperature)(None, torch.tensor(scores))
    if top_k:
        theirs = transformers.TopKLogitsWarper(top_k)(None, theirs)
    if top_p < 1:
        theirs = transformers.TopPLogitsWarper(top_p)(None, theirs)
    if min_p:
        theirs = transformers.MinPLogitsWarper(min_p)(None, theirs)
    expected = torch.softmax(theirs, -1).numpy()
    ours = np.asarray(drawing.filtered(jnp.asarray(scores), Settings(*settings)))
    np.testing.assert_allclose(ours / ours.sum(-1, keepdims=True), expected, rtol=1e-4, atol=1e-7)


def test_the_smallest_nucleus_is_the_likeliest_token():
    settings = Settings(1.0, 0, 1e-300, 0.0)  # zero in float32
    kept = np.asarray(drawing.filtered(jnp.asarray([[0.0, 2.0, 1.0]]), settings))
    assert (kept > 0).tolist() == [[False, True, False]]


def test_rows_with_different_settings_do_not_change_each_other():
    scores = jnp.asarray(np.random.default_rng(0).normal(size=(len(FILTERS) + 1, 100)), jnp.float32) * 3
    columns = [jnp.asarray(column) for column in zip(*FILTERS, (0.0, 0, 1.0, 0.0), strict=True)]
    keys = jax.random.split(jax.random.key(0), len(scores))
    together = drawing.sample(scores, keys, Settings(*columns))
    for i, settings in enumerate([*FILTERS, (0.0, 0, 1.0, 0.0)]):
        assert drawing.sample(scores[i : i + 1], keys[i : i + 1], Settings(*settings)) == together[i]


@pytest.mark.parametrize("penalty", [1.3, 0.7])
def test_the_repetition_penalty_is_that_of_transformers(penalty):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    scores = np.random.default_rng(0).normal(size=(1, 100)).astype(np.float32) * 3  # including negative ones
    prompt, answer = [5, 7, 5], [9, 9, 11]
    theirs = transformers.RepetitionPenaltyLogitsProcessor(penalty)(
        torch.tensor([prompt + answer]), torch.tensor(scores)
    )
    history = drawing.history_row(prompt, answer, 100)[None]
    ours = drawing.penalized(jnp.asarray(scores), history, Settings(repetition_penalty=penalty))
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6)


def test_frequency_and_presence_penalties_follow_openai():
    """OpenAI's guide: mu[j] - c[j] * frequency - float(c[j] > 0) * presence, with c the counts in the answer."""
    scores = np.random.default_rng(0).normal(size=(1, 50)).astype(np.float32)
    history = drawing.history_row([1, 2, 2], [2, 3, 3, 3], 50)[None]
    ours = drawing.penalized(jnp.asarray(scores), history, Settings(frequency_penalty=0.5, presence_penalty=-0.25))
    expected = scores.copy()
    expected[0, 2] -= 0.5 - 0.25
    expected[0, 3] -= 1.5 - 0.25
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_generation_with_penalties_and_bias_equals_transformers():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = tiny(n_ctx=64)
    params = random_params(config)
    processor, bias = transformers.RepetitionPenaltyLogitsProcessor(1.2), {3: 1.5, 8: -100.0}
    row = [5, 6, 7]
    for _ in range(20):
        padded = jnp.asarray([row + [0] * (64 - len(row))])
        hidden, _ = model.forward(params, padded, config=config)
        scores = np.asarray(model.logits(params, hidden[0, len(row) - 1], config=config)).copy()
        scores[list(bias)] += list(bias.values())
        theirs = processor(torch.tensor([row]), torch.tensor(scores[None]))
        row.append(int(theirs.argmax()))
    settings = Settings(0.0, repetition_penalty=1.2, logit_bias=bias)
    assert generate(Sampler(params, config), [[5, 6, 7]], settings, length=20) == [row[3:]]


def test_log_probabilities_are_those_of_the_model_without_the_settings():
    config = tiny(n_ctx=64)
    params = random_params(config)
    options = {"settings": Settings(0.7, top_k=5, presence_penalty=1.0), "length": 20, "seed": 1, "stopped": set()}
    chunks = list(Sampler(params, config).generate([[5, 6], [7]], with_logprobs=True, **options))
    for row, prompt in enumerate(([5, 6], [7])):
        tokens = prompt + [token for chunk in chunks for token in chunk.tokens[row]]
        logprobs = [value for chunk in chunks for value in chunk.logprobs[row]]
        hidden, _ = model.forward(params, jnp.asarray([tokens]), config=config)
        expected = jax.nn.log_softmax(model.logits(params, hidden, config=config)[0])
        first = len(prompt)
        expected = expected[jnp.arange(first - 1, len(tokens) - 1), jnp.asarray(tokens[first:])]
        np.testing.assert_allclose(logprobs, expected, rtol=1e-4, atol=1e-5)


def test_draws_follow_the_probabilities():
    scores = jnp.log(jnp.asarray([[0.5, 0.3, 0.15, 0.05]]))
    keys = jax.random.split(jax.random.key(0), 20_000)
    draws = np.asarray(drawing.sample(jnp.repeat(scores, 20_000, 0), keys, Settings()))
    np.testing.assert_allclose(np.bincount(draws) / 20_000, [0.5, 0.3, 0.15, 0.05], atol=0.012)  # 3.4 sigma


def test_noise_does_not_repeat_when_positions_do():
    config = tiny(n_ctx=16)
    flat = jax.tree.map(jnp.zeros_like, random_params(config))
    (row,) = generate(Sampler(flat, config), [[1]], Settings(), length=80)
    assert len(set(row)) > 40  # 80 draws from 100 equally likely tokens show 55 distinct ones on average
    assert row[20:30] not in [row[i : i + 10] for i in range(80) if i != 20]


def test_ids_beyond_the_vocabulary_are_not_drawn():
    config = tiny(n_ctx=64)
    flat = jax.tree.map(jnp.zeros_like, random_params(config))
    (row,) = generate(Sampler(flat, config, n_known=7), [[1]], Settings(), length=60)
    assert max(row) == 6


def test_weights_whose_probabilities_are_not_finite_are_refused():
    config = tiny()
    params = random_params(config)
    for value in (jnp.nan, jnp.inf):
        sampler = Sampler(params | {"ln_f": {**params["ln_f"], "b": params["ln_f"]["b"] + value}}, config)
        for settings in (GREEDY, Settings(1.0), Settings(0.8, top_k=5, top_p=0.9)):
            with pytest.raises(UserError, match="probabilities are not finite"):
                generate(sampler, [[3, 4], [5]], settings, length=4)
