"""Cached generation against recomputing everything for every token."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_gpt2 import random_params, tiny

from models.gpt2 import gpt2, sample
from models.gpt2.sample import Sampler, Settings


@partial(jax.jit, static_argnames="config")
def next_likeliest(params, config, window, last):
    """From the whole window, padded to the context: later positions are not seen."""
    hidden, _ = gpt2.forward(params, window[None], config=config)
    return jnp.argmax(gpt2.logits(params, hidden[0, last], config=config))


def naive_greedy(params, config, prompt, length):
    row = list(prompt)
    for _ in range(length):
        window = row[-config.n_ctx :]
        padded = jnp.asarray(window + [0] * (config.n_ctx - len(window)))
        row.append(int(next_likeliest(params, config, padded, len(window) - 1)))
    return row[len(prompt) :]


def generate(sampler, prompts, settings, **options):
    rows = [[] for _ in prompts]
    options = {"seed": 0, "stopped": set()} | options
    for chunk in sampler.stream(prompts, settings=settings, **options):
        for row, new in zip(rows, chunk, strict=True):
            row.extend(new)
    return rows


GREEDY = Settings(temperature=0.0)


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
    # The context fills with the prompt and 15 tokens; then each window starts from the last 8.
    history, expected = [3, 4], []
    while len(expected) < 50:
        window = history[-8:] if len(history) > 2 else history
        new = naive_greedy(params, config, window, min(50 - len(expected), 17 - len(window)))
        history += new
        expected += new
    assert row == expected


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


@pytest.mark.parametrize("settings", [(0.7, 5, 1.0), (1.3, 0, 0.8), (1.0, 10, 0.5), (1.0, 0, 1.0), (1.0, 1000, 1e-6)])
def test_filters_keep_what_transformers_keeps(settings):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    temperature, top_k, top_p = settings
    scores = np.random.default_rng(0).normal(size=(4, 100)).astype(np.float32) * 3
    theirs = transformers.TemperatureLogitsWarper(temperature)(None, torch.tensor(scores))
    if top_k:
        theirs = transformers.TopKLogitsWarper(top_k)(None, theirs)
    if top_p < 1:
        theirs = transformers.TopPLogitsWarper(top_p)(None, theirs)
    expected = torch.softmax(theirs, -1).numpy()
    ours = np.asarray(sample.filtered(jnp.asarray(scores), Settings(*settings)))
    np.testing.assert_allclose(ours / ours.sum(-1, keepdims=True), expected, rtol=1e-4, atol=1e-7)


def test_draws_follow_the_probabilities():
    scores = jnp.log(jnp.asarray([[0.5, 0.3, 0.15, 0.05]]))
    keys = jax.random.split(jax.random.key(0), 20_000)
    draws = np.asarray(sample.sample(jnp.repeat(scores, 20_000, 0), keys, Settings()))
    np.testing.assert_allclose(np.bincount(draws) / 20_000, [0.5, 0.3, 0.15, 0.05], atol=0.012)  # 3.4 sigma


def test_noise_does_not_repeat_when_positions_do():
    config = tiny(n_ctx=16)
    flat = jax.tree.map(jnp.zeros_like, random_params(config))
    (row,) = generate(Sampler(flat, config), [[1]], Settings(), length=80)
    assert len(set(row)) > 40  # of 100 equally likely tokens, 80 draws show 55 on average
    assert row[20:30] not in [row[i : i + 10] for i in range(80) if i != 20]


def test_ids_beyond_the_vocabulary_are_not_drawn():
    config = tiny(n_ctx=64)
    flat = jax.tree.map(jnp.zeros_like, random_params(config))
    (row,) = generate(Sampler(flat, config, n_known=7), [[1]], Settings(), length=60)
    assert max(row) == 6
