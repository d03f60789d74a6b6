"""Generation: prefill the prompts, then decode a chunk of tokens for all rows in one compiled call.

Rows are independent: a row's tokens depend on its prompt, the seed and its number, not on the other rows.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from estimator.errors import NOT_FINITE, UserError
from estimator.parallel.param_spec import named
from models.gpt2 import cpu_kernels, model
from models.gpt2.config import GPT2Config
from models.gpt2.decode import decoding_weights, drawing
from models.gpt2.decode.drawing import Settings as Settings
from models.gpt2.decode.drawing import bias_row, history_row
from models.gpt2.decode.kv_cache import Cache
from models.gpt2.decode.quantized import Storage

CHUNK = 16  # tokens between two looks of the host: stop strings are found this often
PROMPT_LENGTHS = (32,)  # prompts are padded to these or to multiples of the next, so that few lengths are compiled
PROMPT_MULTIPLE = 64
CACHE_MULTIPLE = 128


class Chunk(NamedTuple):
    """New tokens of each row, and, if asked for, their log-probabilities by the model, in nats."""

    tokens: list[list[int]]
    logprobs: list[list[float]]


class Sampler:
    """Generates from one set of weights; compiled programs are kept between calls."""

    def __init__(
        self,
        params: dict[str, Any],
        config: GPT2Config,
        *,
        end_of_text: int | None = None,
        n_known: int | None = None,
        merge: Callable[[dict[str, Any]], dict[str, Any]] = lambda params: params,
        keeps_params: bool = True,
    ):
        """params: as declared, after `merge`. end_of_text: the id that ends a row; None lets rows run on.

        n_known: ids below this are drawn, when the vocabulary is smaller than the model's n_vocab.
        keeps_params: as for `load`.
        """
        self.config, storage, self.note = resolved(config)
        config = self.config
        self.n_known = n_known or config.n_vocab
        self._merge, self._convert = merge, partial(decoding_weights.convert, config=config, storage=storage)
        self.load(params, keeps_params=keeps_params)
        self.is_native = storage is not None
        draw = partial(_draw, config=config, end_of_text=end_of_text, n_known=self.n_known)
        prefill = partial(_prefill, config=config, draw=draw, implementation="native" if storage else "reference")
        self._prefill = jax.jit(prefill, static_argnames=("positions", "with_logprobs"))
        decode = partial(_decode, config=config, draw=draw)
        self._decode = jax.jit(decode, static_argnames="with_logprobs", donate_argnames="cache")

    def load(self, params: dict[str, Any], *, keeps_params: bool = True) -> None:
        """Replaces the weights by newer ones, in the same shapes and places; nothing is compiled again.

        keeps_params: False empties `params`, so that each array can be freed as soon as it is converted.
        """
        leaves: dict[str, Any] = dict(named(self._merge(params)))
        if not keeps_params:
            params.clear()
        self.weights = self._convert(leaves)

    def unload(self) -> None:
        """Frees the memory of the weights until the next `load`."""
        self.weights = {}

    def stream(self, prompts: Sequence[Sequence[int]], **options: Any) -> Iterator[list[list[int]]]:
        """The tokens of `generate`."""
        return (chunk.tokens for chunk in self.generate(prompts, **options))

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        settings: Settings,
        length: int | None,
        seed: int,
        stopped: set[int],
        first_row: int = 0,
        with_logprobs: bool = False,
    ) -> Iterator[Chunk]:
        """Yields the new tokens of each row, up to CHUNK at a time, until every row has `length` or ended.

        prompts: at least one token each; of those longer than `longest_prompt(length)` the last tokens are used.
        length: None fills the context.
        stopped: rows that need no more tokens; the caller may add to it between two chunks.
        first_row: number of the first row; rows of one seed and number are the same however they are batched.
        Raises UserError for weights whose probabilities are not finite.
        """
        n_ctx = self.config.n_ctx
        length = length or max(1, n_ctx - max(map(len, prompts)))
        prompts = [prompt[-self.longest_prompt(length) :] for prompt in prompts]
        rows = [*map(list, prompts)]
        numbers = first_row + jnp.arange(len(rows))
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(numbers)
        bias = bias_row(settings.logit_bias, self.config.padded_vocab)[None] if settings.logit_bias else None
        constants: dict[str, Any] = {"keys": keys, "bias": bias, "with_logprobs": with_logprobs}
        constants["settings"] = settings._replace(logit_bias=None)
        made = np.zeros(len(rows), np.int32)
        while active := [row for row in range(len(rows)) if made[row] < length and row not in stopped]:
            windows = self._windows(rows, active, length - made)
            wanted = [len(windows[row]) + length - int(made[row]) for row in active]
            positions = min(n_ctx, _round_up(max(wanted), CACHE_MULTIPLE))
            left = np.zeros_like(made)  # tokens of each row in this context
            for row in active:
                left[row] = min(length - made[row], 1 + n_ctx - len(windows[row]))
            padded = np.zeros((len(rows), min(n_ctx, _padded(max(map(len, windows))))), np.int32)
            for row, window in enumerate(windows):
                padded[row, : len(window)] = window
            lengths = jnp.asarray([len(window) for window in windows], jnp.int32)
            history = self._history(prompts, rows) if settings.has_penalties else None
            state, new = self._prefill(
                self.weights, padded, lengths, history, made, left == 0, positions=positions, **constants
            )
            limits = np.minimum(left, 1)
            yield self._collect(rows, new, limits, stopped)
            made, left = made + limits, left - limits
            while (left[list(set(active) - stopped)] > 0).any():
                limits = np.minimum(left, CHUNK)
                done = state.done | np.isin(np.arange(len(rows)), list(stopped))
                cache, state = state.cache, state._replace(cache=None, done=done)
                state, new = self._decode(self.weights, cache, state, made, limits, **constants)
                yield self._collect(rows, new, limits, stopped)
                made, left = made + limits, left - limits

    def _windows(self, rows: list[list[int]], active: Collection[int], missing: np.ndarray) -> list[list[int]]:
        """The tokens that each row's context begins with; missing: [B], those that the row still gets.

        The positions cannot slide (they are learned), so a full context starts again from its last half: that of a
        row when its own is full, or else it would depend on the others. Until all are full, it waits.
        """
        sizes = [self.longest_prompt(count) if row in active else 1 for row, count in enumerate(missing.tolist())]
        return [row[-size:] for row, size in zip(rows, sizes, strict=True)]

    def _history(self, prompts: Sequence[Sequence[int]], rows: list[list[int]]) -> np.ndarray:
        pairs = zip(prompts, rows, strict=True)
        size = self.config.padded_vocab
        return np.stack([history_row(list(prompt), row[len(prompt) :], size) for prompt, row in pairs])

    def longest_prompt(self, length: int) -> int:
        """Tokens of a prompt that are used when `length` new ones follow: room for them, at most half, is kept."""
        return self.config.n_ctx - min(length, self.config.n_ctx // 2)

    def seen(self, count: int, *, length: int | None) -> int:
        """How many of a prompt's tokens are used; when the context is to be filled and is full already, half of it."""
        if length is None and count < self.config.n_ctx:
            return count
        return min(count, self.longest_prompt(length or self.config.n_ctx))

    @staticmethod
    def _collect(rows: list[list[int]], new: "Drawn", limits: np.ndarray, stopped: set[int]) -> Chunk:
        """Appends a chunk [B, n], in which -1 stands after a row's end, to the rows; returns the new tokens.

        limits: [B], how many tokens a row gets unless it ends.
        """
        tokens = np.asarray(new.token)
        chunks = [chunk[:limit] for chunk, limit in zip(tokens, limits.tolist(), strict=True)]
        if any((chunk == drawing.LOST).any() for chunk in chunks):
            raise UserError(NOT_FINITE)
        found = [chunk[chunk >= 0].tolist() for chunk in chunks]
        for row, (history, chunk) in enumerate(zip(rows, found, strict=True)):
            if row not in stopped:
                history.extend(chunk)
            if len(chunk) < limits[row]:
                stopped.add(row)
        logprobs = [] if new.logprob is None else np.asarray(new.logprob).tolist()
        return Chunk(found, [values[: len(chunk)] for values, chunk in zip(logprobs, found, strict=False)])


class Drawn(NamedTuple):
    """Tokens, -1 where a row has ended, and their log-probabilities: [B], or of a chunk [B, CHUNK]."""

    token: jax.Array
    logprob: jax.Array | None


class State(NamedTuple):
    """What a step leaves to the next: the cache, the last tokens, ended rows, and what the penalties look at."""

    cache: Cache | None
    token: jax.Array
    done: jax.Array
    history: jax.Array | None


def _padded(prompt: int) -> int:
    return next((few for few in PROMPT_LENGTHS if prompt <= few), _round_up(prompt, PROMPT_MULTIPLE))


def _round_up(n: int, multiple: int) -> int:
    return math.ceil(n / multiple) * multiple


def resolved(config: GPT2Config) -> tuple[GPT2Config, Storage | None, str]:
    """The configuration that generates here, what quantized.py stores the matrices in, if it can, and what to say."""
    wanted = config.precision if config.predict_precision == "auto" else config.predict_precision
    obstacle = cpu_kernels.obstacle()
    if wanted == "int8" and obstacle:
        raise UserError(f'predict_precision "int8" {obstacle}; choose "auto"')
    if wanted == "float16" and jax.default_backend() == "cpu":
        wanted = "float32"  # CPUs have no products of it
    note = f"generating with weights in {wanted}"
    if jax.default_backend() != "cpu":
        return config.model_copy(update={"precision": wanted, "predict_precision": wanted}), None, note
    # XLA's products of few rows are slower in bfloat16.
    config = config.model_copy(update={"precision": "float32", "predict_precision": "float32" if obstacle else wanted})
    if obstacle:
        return config, None, f"generating with weights in float32, slower than it could be: the faster way {obstacle}"
    return config, wanted, note  # type: ignore[return-value]


def _prefill(
    weights, tokens_BT, lengths_B, history_BV, made, done_B, *, positions, config, draw, implementation, **constants
) -> tuple[State, Drawn]:
    """Runs the prompts and draws the first token of each row, [B, 1]."""
    hidden_BTD, cache = model.forward(weights, tokens_BT, config=config, cache=positions, implementation=implementation)
    assert isinstance(cache, Cache)
    # Padding wrote positions beyond each row's length; they are not seen, and later tokens overwrite them.
    cache = cache._replace(length=lengths_B)
    last_BD = jnp.take_along_axis(hidden_BTD, (lengths_B - 1)[:, None, None], axis=1)[:, 0]
    state = State(cache, lengths_B, done_B, history_BV)
    state, new = draw(weights, last_BD, made, state, **constants)
    return state, jax.tree.map(lambda x: x[:, None], new)


def _decode(weights, cache, state, made, limits, *, config, draw, with_logprobs, **constants) -> tuple[State, Drawn]:
    """Up to limits [B] more tokens of the rows, [B, CHUNK]; stops early when every row has ended."""
    constants |= {"with_logprobs": with_logprobs}

    def more(carry):
        i, state, _ = carry
        return (i < limits.max()) & ~state.done.all()

    def step(carry):
        i, state, chunk = carry
        tokens_BT = jnp.maximum(state.token, 0)[:, None]
        state = state._replace(done=state.done | (i >= limits))
        # A row that waits for others has no position left: it writes to its last one.
        length = jnp.minimum(state.cache.length, state.cache.k[0].shape[2] - 1)
        cache = state.cache._replace(length=length)
        hidden_BTD, cache = model.forward(weights, tokens_BT, config=config, cache=cache)
        state, new = draw(weights, hidden_BTD[:, 0], made + i, state._replace(cache=cache), **constants)
        return i + 1, state, jax.tree.map(lambda chunk, column: chunk.at[:, i].set(column), chunk, new)

    shape = state.token.shape[0], CHUNK
    chunk = Drawn(jnp.full(shape, -1, jnp.int32), jnp.zeros(shape) if with_logprobs else None)
    _, state, chunk = jax.lax.while_loop(more, step, (0, state._replace(cache=cache), chunk))
    return state, chunk


def _draw(
    weights, hidden_BD, made, state, *, keys, bias, settings, with_logprobs, config, end_of_text, n_known
) -> tuple[State, Drawn]:
    """The token number made [B] of each row, -1 where it has ended or ends now.

    Its noise is that of the row's key and `made`, not of its position: positions come again in a long text.
    """
    scores_BV = model.logits(weights, hidden_BD, config=config)
    keys = jax.vmap(jax.random.fold_in)(keys, made)
    token = drawing.draw(scores_BV, keys, settings, history_BV=state.history, bias_BV=bias, n_known=n_known)
    logprob = drawing.log_probabilities(scores_BV, token)[0] if with_logprobs else None
    history = state.history
    if history is not None:
        history = history.at[jnp.arange(len(token)), token].add(1)
    done = state.done if end_of_text is None else state.done | (token == end_of_text)
    token = jnp.where(done, -1, token)
    return State(state.cache, token, done, history), Drawn(token, logprob)
