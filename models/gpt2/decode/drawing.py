"""How the next token is drawn from its scores: one implementation for the sampler and the server's engine.

The order is that of transformers: bias, penalties, temperature, top_k, top_p, min_p. Rows are independent: what one
row asks for changes no bit of another's. Letters of the shapes: B rows, V vocabulary.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from estimator.generation.completion import Settings as Settings

LOST = -2  # instead of a token, where the probabilities are not finite
IN_PROMPT = 2**24  # in a history: the prompt has the token; below, how often the answer has it


def bias_row(logit_bias: Mapping[int, float], n_vocab: int) -> np.ndarray:
    """float32 [V]"""
    row = np.zeros(n_vocab, np.float32)
    row[list(logit_bias)] = list(logit_bias.values())
    return row


def history_row(prompt: list[int], answer: list[int], n_vocab: int) -> np.ndarray:
    """What the penalties look at, int32 [V]: how often the answer has each token, and IN_PROMPT."""
    counts = np.bincount(answer, minlength=n_vocab).astype(np.int32)
    counts[prompt] += IN_PROMPT
    return counts


def draw(
    scores_BV: jax.Array,
    keys_B: jax.Array,
    settings: Settings,
    *,
    history_BV: jax.Array | None = None,
    bias_BV: jax.Array | None = None,
    n_known: int | None = None,
) -> jax.Array:
    """A token id below `n_known` for each row of scores, int32 [B]; LOST where the scores are not finite."""
    if bias_BV is not None:
        scores_BV = scores_BV + bias_BV
    if history_BV is not None:
        scores_BV = penalized(scores_BV, history_BV, settings)
    if n_known is not None and n_known < scores_BV.shape[-1]:
        scores_BV = jnp.where(jnp.arange(scores_BV.shape[-1]) < n_known, scores_BV, -jnp.inf)
    return sample(scores_BV, keys_B, settings)


def sample(scores_BV: jax.Array, keys_B: jax.Array, settings: Settings) -> jax.Array:
    """A token id for each row of scores, int32 [B]; LOST where the scores are not finite."""
    is_random = jnp.asarray(settings.temperature) > 0

    def drawn() -> jax.Array:
        noise_BV = jax.vmap(lambda key: jax.random.gumbel(key, scores_BV.shape[1:]))(keys_B)
        token_B = _first_largest(jnp.log(filtered(scores_BV, settings)) + noise_BV)
        return jnp.where(is_random, token_B, _first_largest(scores_BV))

    return jax.lax.cond(is_random.any(), drawn, lambda: _first_largest(scores_BV))


def penalized(scores_BV: jax.Array, history_BV: jax.Array, settings: Settings) -> jax.Array:
    """Scores after the three penalties."""
    repetition, frequency, presence = map(_column, settings[4:7])

    def penalties(scores_BV: jax.Array) -> jax.Array:
        count_BV = history_BV % IN_PROMPT
        divided_BV = jnp.where(scores_BV > 0, scores_BV / repetition, scores_BV * repetition)
        scores_BV = jnp.where(history_BV > 0, divided_BV, scores_BV)
        return scores_BV - frequency * count_BV - presence * (count_BV > 0)

    is_used = (repetition != 1) | (frequency != 0) | (presence != 0)
    return jax.lax.cond(is_used.any(), penalties, lambda scores_BV: scores_BV, scores_BV)


def filtered(scores_BV: jax.Array, settings: Settings) -> jax.Array:
    """Probabilities after temperature, top_k, top_p, then min_p, not renormalized: float32 [B, V], 0 where cut."""
    temperature, top_k, top_p, min_p = map(_column, settings[:4])
    p = jax.nn.softmax(scores_BV / jnp.maximum(temperature, 1e-6), axis=-1)

    def likeliest(p):
        reached = _threshold(p, lambda kept: (kept > 0).sum(-1, keepdims=True) >= top_k)
        return jnp.where((p >= reached) | (top_k == 0), p, 0)

    def nucleus(p):
        share = jnp.maximum(top_p, 1e-9) * p.sum(-1, keepdims=True)
        reached = _threshold(p, lambda kept: kept.sum(-1, keepdims=True) >= share)
        return jnp.where((p >= reached) | (top_p >= 1), p, 0)

    p = jax.lax.cond((top_k > 0).any(), likeliest, lambda p: p, p)
    p = jax.lax.cond((top_p < 1).any(), nucleus, lambda p: p, p)
    return jnp.where(p >= min_p * p.max(-1, keepdims=True), p, 0)


def log_probabilities(scores_BV: jax.Array, token_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A token's log-probability by the model in nats, float32 [B], and log of the sum of exponentials, [B, 1]."""
    total_B1 = jax.nn.logsumexp(scores_BV, axis=-1, keepdims=True)
    return (jnp.take_along_axis(scores_BV, token_B[:, None], axis=-1) - total_B1)[:, 0], total_B1


def _column(setting: Any) -> jax.Array:
    """[1, 1] or [B, 1]"""
    return jnp.asarray(setting).reshape(-1, 1)


def _first_largest(x_BV: jax.Array) -> jax.Array:
    """argmax, int32 [B], LOST where the maximum is not finite.

    As two plain reductions: XLA's own goes through a row one by one on CPUs.
    """
    n, largest_B1 = x_BV.shape[-1], x_BV.max(-1, keepdims=True)
    token_B = jnp.where(x_BV == largest_B1, jnp.arange(n, dtype=jnp.int32), n - 1).min(-1)
    return jnp.where(jnp.isfinite(largest_B1[:, 0]), token_B, LOST)


def _threshold(p_BV: jax.Array, enough) -> jax.Array:
    """The largest value [B, 1] such that the entries of p that reach it are `enough`; 0 when all are too few.

    Bisects over the bits of the float (positive floats are ordered as their bits are): exact, ties stay together,
    and 31 passes cost less than sorting the vocabulary.
    """

    def halve(_, bounds):
        low, high = bounds
        middle = low + (high - low) // 2
        kept = jnp.where(p_BV >= jax.lax.bitcast_convert_type(middle, jnp.float32), p_BV, 0)
        reached = enough(kept)
        return jnp.where(reached, middle, low), jnp.where(reached, high, middle)

    low = jnp.zeros((p_BV.shape[0], 1), jnp.int32)
    high = jnp.full_like(low, np.float32(1.0).view(np.int32) + 1)
    low, _ = jax.lax.fori_loop(0, 31, halve, (low, high))
    return jax.lax.bitcast_convert_type(low, jnp.float32)
