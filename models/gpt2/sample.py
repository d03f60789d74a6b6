"""Generation: prefill the prompts, then decode a chunk of tokens for all rows in one compiled call.

Rows are independent: a row's tokens depend on its prompt, the seed and its number, not on what runs beside it.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.gpt2 import gpt2, kernels
from models.gpt2.few_rows import Storage, row_matrix
from models.gpt2.gpt2 import GPT2Config
from runtime.errors import UserError
from runtime.params import map_specs

CHUNK = 16  # tokens between two looks of the host: stop strings are found this often
PROMPT_LENGTHS = (16, 32)  # prompts are padded to these or to multiples of the next, so that few lengths are compiled
PROMPT_MULTIPLE = 64
CACHE_MULTIPLE = 128


class Settings(NamedTuple):
    """How the next token is drawn.

    temperature: 0 takes the likeliest. top_k: among the k likeliest, ties included; 0 is all. top_p: among the
    smallest set of likeliest tokens that has at least this probability (Holtzman et al. 2019); 1 is all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


class Sampler:
    """Generates from one set of weights; compiled programs are kept between calls."""

    def __init__(
        self, params: dict[str, Any], config: GPT2Config, *, end_of_text: int | None = None, n_known: int | None = None
    ):
        """params: as declared. end_of_text: the id that ends a row; None lets rows run on.

        n_known: ids below this are drawn, when the vocabulary is smaller than the model's n_vocab.
        """
        self.config, storage, self.note = _resolved(config)
        config = self.config
        convert = partial(_row_matrices, storage=storage) if storage else _decoding_weights
        self._weights = jax.jit(partial(convert, config=config))(params)
        draw = partial(_draw, config=config, end_of_text=end_of_text, n_known=n_known or config.n_vocab)
        prefill = partial(_prefill, config=config, draw=draw, implementation="native" if storage else "reference")
        self._prefill = jax.jit(prefill, static_argnames="slots")
        self._decode = jax.jit(partial(_decode, config=config, draw=draw), donate_argnames="cache")

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        settings: Settings,
        length: int | None,
        seed: int,
        stopped: set[int],
        first_row: int = 0,
    ) -> Iterator[list[list[int]]]:
        """Yields the new tokens of each row, up to CHUNK at a time, until every row has `length` or ended.

        prompts: at least one token each; of those longer than `longest_prompt(length)` the last tokens are used.
        length: None fills the context.
        stopped: rows that need no more tokens; the caller may add to it between two chunks.
        first_row: number of the first row; rows of one seed and number are the same however they are batched.
        """
        n_ctx = self.config.n_ctx
        length = length or max(1, n_ctx - max(map(len, prompts)))
        rows = [list(prompt) for prompt in prompts]
        numbers = first_row + jnp.arange(len(rows))
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(numbers)
        made = 0
        while made < length and len(stopped) < len(rows):
            # The positions cannot slide (they are learned), so a full context starts again from its last half.
            windows = [row[-self.longest_prompt(length - made) :] for row in rows]
            longest = max(map(len, windows))
            slots = min(n_ctx, _round_up(longest + length - made, CACHE_MULTIPLE))
            done = jnp.asarray([row in stopped for row in range(len(rows))])
            padded = np.zeros((len(rows), min(n_ctx, _padded(longest))), np.int32)
            for row, window in enumerate(windows):
                padded[row, : len(window)] = window
            lengths = jnp.asarray([len(window) for window in windows], jnp.int32)
            cache, token, done = self._prefill(self._weights, padded, lengths, keys, made, done, settings, slots=slots)
            yield self._collect(rows, np.asarray(token)[:, None], stopped)
            made, used = made + 1, longest
            while made < length and used < slots and len(stopped) < len(rows):
                limit = min(CHUNK, length - made, slots - used)
                done |= np.isin(np.arange(len(rows)), list(stopped))
                cache, token, done, tokens = self._decode(
                    self._weights,
                    cache=cache,
                    token=token,
                    keys=keys,
                    made=made,
                    done=done,
                    settings=settings,
                    limit=limit,
                )
                yield self._collect(rows, np.asarray(tokens)[:, :limit], stopped)
                made, used = made + limit, used + limit

    def longest_prompt(self, length: int) -> int:
        """Tokens of a prompt that are used when `length` new ones follow: room for them, at most half, is kept."""
        return self.config.n_ctx - min(length, self.config.n_ctx // 2)

    def seen(self, count: int, *, length: int | None) -> int:
        """How many of a prompt's tokens are used; when the context is to be filled and is full already, half of it."""
        if length is None and count < self.config.n_ctx:
            return count
        return min(count, self.longest_prompt(length or self.config.n_ctx))

    @staticmethod
    def _collect(rows: list[list[int]], tokens: np.ndarray, stopped: set[int]) -> list[list[int]]:
        """Appends a chunk [B, n], in which -1 stands after a row's end, to the rows; returns what is new."""
        new = [chunk[chunk >= 0].tolist() for chunk in tokens]
        for row, (history, chunk) in enumerate(zip(rows, new, strict=True)):
            if row not in stopped:
                history.extend(chunk)
            if len(chunk) < tokens.shape[1]:
                stopped.add(row)
        return new


def _padded(prompt: int) -> int:
    return next((few for few in PROMPT_LENGTHS if prompt <= few), _round_up(prompt, PROMPT_MULTIPLE))


def _round_up(n: int, multiple: int) -> int:
    return math.ceil(n / multiple) * multiple


def _resolved(config: GPT2Config) -> tuple[GPT2Config, Storage | None, str]:
    """The configuration that generates here, what few_rows.py stores the matrices in, if it can, and what to say."""
    wanted = config.precision if config.predict_precision == "auto" else config.predict_precision
    obstacle = kernels.obstacle()
    if wanted == "int8" and obstacle:
        raise UserError(f'predict_precision "int8" {obstacle}; choose "auto"')
    note = f"generating with weights in {wanted}"
    if jax.default_backend() != "cpu":
        return config.model_copy(update={"precision": wanted}), None, note
    config = config.model_copy(update={"precision": "float32"})  # XLA's products of few rows are slower in bfloat16
    if obstacle:
        return config, None, f"generating with weights in float32, slower than it could be: the faster way {obstacle}"
    return config, wanted, note  # type: ignore[return-value]


def _decoding_weights(params: dict[str, Any], *, config: GPT2Config) -> dict[str, Any]:
    """Weights in the type of the products, layer by layer: converted once and not at every token."""
    params = gpt2.cast(params, config)
    tables = {name: params[name].astype(config.dtype) for name in ("wte", "lm_head") if name in params}
    return {**params, **tables, "h": gpt2.unstack(params["h"], config.n_layer)}


def _row_matrices(params: dict[str, Any], *, storage: Storage, config: GPT2Config) -> dict[str, Any]:
    """The same for few_rows.py."""
    convert = partial(row_matrix, storage=storage)
    specs = gpt2.parameters(config)

    def stored(name: str, value: Any) -> Any:
        return map_specs(lambda spec, leaf: convert(leaf, rows=spec.rows) if spec.rows else leaf, specs[name], value)

    layers = [stored("h", layer) for layer in gpt2.unstack(params["h"], config.n_layer)]
    around = {name: stored(name, params[name]) for name in ("in_proj", "out_proj") if name in params}
    tables = {name: convert(params[name].T, rows=1, is_table=True) for name in ("wte", "lm_head") if name in params}
    return {**params, **around, **tables, "h": layers}


def _prefill(weights, tokens_BT, lengths_B, keys_B, made, done_B, settings, *, slots, config, draw, implementation):
    """Runs the prompts; returns their cache, the next token of each row, and which rows have ended."""
    hidden_BTD, cache = gpt2.forward(weights, tokens_BT, config=config, cache=slots, implementation=implementation)
    assert cache is not None
    # Padding wrote slots beyond each row's length; they are not seen, and later tokens overwrite them.
    cache = cache._replace(length=lengths_B)
    last_BD = jnp.take_along_axis(hidden_BTD, (lengths_B - 1)[:, None, None], axis=1)[:, 0]
    token_B, done_B = draw(weights, last_BD, keys_B, made, done_B, settings)
    return cache, token_B, done_B


def _decode(weights, cache, token, keys, made, done, settings, limit, *, config, draw):
    """Up to `limit` more tokens of each row, as int32 [B, CHUNK]; stops early when every row has ended."""

    def more(carry):
        i, _, _, done, _ = carry
        return (i < limit) & ~done.all()

    def step(carry):
        i, cache, token, done, tokens = carry
        hidden_BTD, cache = gpt2.forward(weights, jnp.maximum(token, 0)[:, None], config=config, cache=cache)
        token, done = draw(weights, hidden_BTD[:, 0], keys, made + i, done, settings)
        return i + 1, cache, token, done, tokens.at[:, i].set(token)

    tokens = jnp.full((token.shape[0], CHUNK), -1, jnp.int32)
    _, cache, token, done, tokens = jax.lax.while_loop(more, step, (0, cache, token, done, tokens))
    return cache, token, done, tokens


def _draw(weights, hidden_BD, keys_B, made, done_B, settings, *, config, end_of_text, n_known):
    """The token number `made` of each row, -1 where it has ended or ends now.

    Its noise is that of the row's key and `made`, not of its position: positions come again in a long text.
    """
    scores_BV = gpt2.logits(weights, hidden_BD, config=config)
    scores_BV = jnp.where(jnp.arange(config.padded_vocab) < n_known, scores_BV, -jnp.inf)
    keys_B = jax.vmap(partial(jax.random.fold_in, data=made))(keys_B)
    token_B = sample(scores_BV, keys_B, settings)
    if end_of_text is not None:
        done_B = done_B | (token_B == end_of_text)
    return jnp.where(done_B, -1, token_B), done_B


def sample(scores_BV: jax.Array, keys_B: jax.Array, settings: Settings) -> jax.Array:
    """A token id for each row of scores, int32 [B]."""

    def drawn() -> jax.Array:
        noise_BV = jax.vmap(lambda key: jax.random.gumbel(key, scores_BV.shape[1:]))(keys_B)
        return _first_largest(jnp.log(filtered(scores_BV, settings)) + noise_BV)

    return jax.lax.cond(jnp.asarray(settings.temperature) > 0, drawn, lambda: _first_largest(scores_BV))


def _first_largest(x_BV: jax.Array) -> jax.Array:
    """argmax, int32 [B], as two plain reductions: XLA's own goes through a row one by one on CPUs."""
    n = x_BV.shape[-1]
    return jnp.where(x_BV == x_BV.max(-1, keepdims=True), jnp.arange(n, dtype=jnp.int32), n - 1).min(-1)


def filtered(scores_BV: jax.Array, settings: Settings) -> jax.Array:
    """Probabilities after temperature, then top_k, then top_p, not renormalised: float32 [B, V], 0 where cut."""
    temperature = jnp.maximum(settings.temperature, 1e-6)
    p = jax.nn.softmax(scores_BV / temperature, axis=-1)

    def likeliest(p):
        return jnp.where(p >= _threshold(p, lambda kept: (kept > 0).sum(-1, keepdims=True) >= settings.top_k), p, 0)

    def nucleus(p):
        share = settings.top_p * p.sum(-1, keepdims=True)
        return jnp.where(p >= _threshold(p, lambda kept: kept.sum(-1, keepdims=True) >= share), p, 0)

    p = jax.lax.cond(jnp.asarray(settings.top_k) > 0, likeliest, lambda p: p, p)
    return jax.lax.cond(jnp.asarray(settings.top_p) < 1, nucleus, lambda p: p, p)


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
