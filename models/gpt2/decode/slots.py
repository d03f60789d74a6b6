"""Many requests in one set of caches: the compiled programs that the server's engine calls.

On CPUs with the native kernels a row's results have the same bits however prompts are cut and rows are batched, those
of the `Sampler`; elsewhere the programs have one shape each, so that results do not depend on load either.

Letters of the shapes: B rows or tokens of a call, R slots, H heads, S positions, K head width, E width, V vocabulary.
"""

import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from estimator.parallel import mesh as meshes
from models.gpt2 import model
from models.gpt2.config import GPT2Config
from models.gpt2.decode import drawing, kv_cache
from models.gpt2.decode.drawing import Settings
from models.gpt2.decode.kv_cache import Cache, cache_dtype
from models.gpt2.decode.sampler import Sampler

STEPS = 16  # tokens of a row in one call, at most
STOPS = 8  # ids that end a row within a call; more are found by the caller
TOP = 20  # alternatives of a token
MOST_ROWS = 16  # of one decoding program
SHORT = 32  # tokens of the smallest prompt program
N_INTS = 9  # of a row, before its stops
SHAPE = set(GPT2Config.model_fields)  # keys of a run that compiled programs depend on, unlike init_from or lora_rank


@dataclass
class Row:
    """A request that is being decoded. seed: 32 bits. position: tokens in its slot. limit: tokens of the answer."""

    slot: int
    seed: int
    sample_index: int
    limit: int
    stops: Sequence[int] = ()
    settings: Settings = field(default_factory=Settings)
    has_bias: bool = False
    wants_logprob: bool = False
    wants_top: bool = False
    token: int = 0
    position: int = 0
    made: int = 0

    def numbers(self) -> tuple[list[int], list[float]]:
        stops = [*self.stops[:STOPS], *[-1] * (STOPS - len(self.stops))]
        seed = int(np.uint32(self.seed).view(np.int32))
        ints = [self.slot, self.token, self.position, self.made, self.limit, seed, self.sample_index]
        return [*ints, self.settings.top_k, self.has_bias, *stops], [
            *map(float, self.settings[:1] + self.settings[2:7])
        ]


class Piece(NamedTuple):
    """Some of a prompt's tokens, at positions from `start` on. targets: the tokens after each, to be scored."""

    slot: int
    start: int
    tokens: np.ndarray
    is_last: bool
    targets: np.ndarray | None = None


class Drawn(NamedTuple):
    """Log-probabilities of tokens and of the likeliest ones, best first: [..., 1] and [..., TOP] of tokens [...]."""

    token: Any
    logprob: Any
    top: Any
    top_logprobs: Any


class State(NamedTuple):
    """What the slots hold on the devices."""

    k: list[jax.Array]  # [R, H, S, K] of each layer
    v: list[jax.Array]
    hidden: jax.Array  # [R, E], after the last token of a prompt
    history: jax.Array  # int32 [R, V], see drawing.history_row
    bias: jax.Array  # float32 [R, V]


class _Rows(NamedTuple):
    """The numbers of rows in compiled code, [B] each; stops [B, STOPS]."""

    slot: jax.Array
    token: jax.Array
    position: jax.Array
    made: jax.Array
    limit: jax.Array
    seed: jax.Array
    sample_index: jax.Array
    has_bias: jax.Array
    stops: jax.Array
    settings: Settings


class Slots:
    """The slots of a sampler's model, `count` of which are decoded together; `spare` ones hold earlier prompts."""

    def __init__(self, sampler: Sampler, *, count: int, spare: int, chunk: int):
        self._weights, self.config, self.is_native = sampler.weights, sampler.config, sampler.is_native
        config, self._count = self.config, count
        self.n_slots = count + (spare if self.is_native else 0)
        self.chunk = max(SHORT, min(chunk, config.n_ctx))
        # Elsewhere a padded piece at the end of the context is written in whole.
        self._positions = config.n_ctx + (0 if self.is_native else self.chunk)
        sharding = self._weights["ln_f"]["g"].sharding
        mesh = sharding.mesh if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1 else None
        self._state = self._new_state(mesh)

        static = Static(config, config.model_dump_json(include=SHAPE), sampler.n_known, self.is_native)
        self._prefill, self._first, self._decode = (
            partial(_compiled(function, mesh), static=static) for function in (_prefill, _first, _decode)
        )
        self._read, self._write, self._set = (
            _compiled(function, mesh) for function in (kv_cache.of_slot, _write, _set)
        )

    @property
    def most_rows(self) -> int:
        """Rows of one call of `decode`."""
        return self._buckets()[-1]

    @property
    def most_tokens(self) -> int:
        """Prompt tokens of one call of `prefill`, four times those of a chunk where several prompts go together."""
        return 4 * self.chunk if self.is_native else self.chunk

    @property
    def nbytes(self) -> int:
        return sum(leaf.nbytes for leaf in jax.tree.leaves((self._weights, self._state)))

    @staticmethod
    def slot_bytes(config: GPT2Config) -> int:
        """Keys and values of one slot, its history and its bias."""
        kept = 2 * config.n_layer * config.n_ctx * config.width * _dtype(config).itemsize
        return kept + 8 * config.padded_vocab

    def warm(self) -> None:
        """Compiles the programs that most requests need; nothing is changed in a slot that matters."""
        for size in self._sizes():
            lengths = [min(self.config.n_ctx, size - start) for start in range(0, size, self.config.n_ctx)]
            lengths = lengths[: self.n_slots if self.is_native else 1]
            self.prefill([Piece(slot, 0, np.zeros(n, np.int32), is_last=True) for slot, n in enumerate(lengths)])
        for count in self._buckets():
            rows = [Row(slot, 0, 0, limit=2) for slot in range(min(count, self.n_slots))]
            self.first(rows)
            self.decode(rows, 1)

    def prefill(self, pieces: Sequence[Piece]) -> list[Drawn] | None:
        """Computes pieces of prompts, of different slots; where kernels are not native, one at a time.

        Returns the scores of each piece's targets, if it has any; all have, or none.
        """
        assert self.is_native or len(pieces) == 1
        total = sum(len(piece.tokens) for piece in pieces)
        size = next(size for size in self._sizes() if size >= total)
        tokens, positions, slots = np.zeros(size, np.int32), np.zeros(size, np.int32), np.full(size, -1, np.int32)
        ends, targets = np.full(size, self.n_slots, np.int32), np.zeros(size, np.int32)
        at = 0
        for piece in pieces:
            n = len(piece.tokens)
            part = slice(at, at + n)
            tokens[part], slots[part] = piece.tokens, piece.slot
            positions[part] = np.arange(piece.start, piece.start + n)
            if piece.targets is not None:
                targets[part] = piece.targets
            at += n
            if piece.is_last:
                ends[at - 1] = piece.slot
        scored = targets if pieces[0].targets is not None else None
        if not self.is_native:  # one row of many tokens
            tokens, positions, slots = tokens[None], positions[:1], slots[:1]
        self._state, scores = self._prefill(self._weights, self._state, tokens, positions, slots, ends, scored)
        if scores is None:
            return None
        scores, bounds = Drawn(*map(np.asarray, scores)), np.cumsum([0, *(len(piece.tokens) for piece in pieces)])
        return [Drawn(*(x[a:b] for x in scores)) for a, b in itertools.pairwise(bounds)]

    def first(self, rows: Sequence[Row]) -> Drawn:
        """Draws the first token [B, 1] after each row's prompt."""
        order, arrays = self._arrays(rows)
        self._state, drawn = self._first(self._weights, self._state, *arrays, self._wants(rows))
        return self._taken(rows, order, drawn, 1, has_input=False)

    def decode(self, rows: Sequence[Row], steps: int) -> Drawn:
        """Up to `steps` more tokens of each row, [B, steps]; -1 after a row's end."""
        order, arrays = self._arrays(rows)
        steps = min(steps, STEPS)
        self._state, drawn = self._decode(self._weights, self._state, *arrays, self._wants(rows), steps)
        return self._taken(rows, order, drawn, steps, has_input=True)

    def copy(self, source: int, target: int, count: int) -> None:
        """The first `count` positions of a slot to another one, rounded up to a power of two."""
        count = min(max(128, 1 << (count - 1).bit_length()), self._positions)
        self._state = self._write(self._state, self._read(self._state.k, self._state.v, source, count=count), target)

    def set_drawing(self, slot: int, history: np.ndarray, bias: np.ndarray) -> None:
        """What penalties and bias look at in a slot, [V] each."""
        self._state = self._set(self._state, slot, history, bias)

    def _new_state(self, mesh: Any) -> State:
        config = self.config
        shape = (self.n_slots, config.heads, self._positions, config.head_width)
        place = NamedSharding(mesh, PartitionSpec(None, "tensor")) if mesh else None
        make: Callable[[], jax.Array] = jax.jit(lambda: jnp.zeros(shape, _dtype(config)), out_shardings=place)
        k, v = [make() for _ in range(config.n_layer)], [make() for _ in range(config.n_layer)]
        others = (
            (config.n_embd, model.compute_dtype(config)),
            (config.padded_vocab, jnp.int32),
            (config.padded_vocab, jnp.float32),
        )
        return State(k, v, *(jnp.zeros((self.n_slots, size), dtype) for size, dtype in others))

    def _sizes(self) -> list[int]:
        """Tokens of the prompt programs."""
        return sorted({SHORT, self.chunk, self.most_tokens})

    def _buckets(self) -> list[int]:
        """Rows of the decoding programs."""
        most = min(self._count, MOST_ROWS)
        return [*(n for n in (1, 2, 4, 8) if n < most), most] if self.is_native else [self.n_slots]

    def _arrays(self, rows: Sequence[Row]) -> tuple[list[int], tuple[np.ndarray, np.ndarray]]:
        """Which of the program's rows are these, and the numbers of all."""
        size = next(size for size in self._buckets() if size >= len(rows))
        order = list(range(len(rows))) if self.is_native else [row.slot for row in rows]
        ints, floats = np.zeros((size, N_INTS + STOPS), np.int32), np.zeros((size, 6), np.float32)
        ints[:], floats[:] = Row(-1, 0, 0, 0, settings=Settings(0.0)).numbers()  # padding, which draws no noise
        for at, row in zip(order, rows, strict=True):
            ints[at], floats[at] = row.numbers()
        return order, (ints, floats)

    @staticmethod
    def _wants(rows: Sequence[Row]) -> int:
        return 2 if any(row.wants_top for row in rows) else int(any(row.wants_logprob for row in rows))

    @staticmethod
    def _taken(rows: Sequence[Row], order: list[int], drawn: Drawn, steps: int, *, has_input: bool) -> Drawn:
        """The rows' part of the drawn tokens; advances the rows. has_input: their tokens went into the slots."""
        drawn = Drawn(*(np.asarray(x)[order, :steps] for x in drawn))
        for row, tokens in zip(rows, drawn.token, strict=True):
            new = tokens[tokens >= 0]
            row.position += len(new) if has_input else 0
            row.made += len(new)
            row.token = int(new[-1]) if len(new) else row.token
        return drawn


def _dtype(config: GPT2Config) -> jnp.dtype:
    """Of keys and values."""
    return jnp.dtype(cache_dtype(config.precision, config.predict_precision))


@dataclass(frozen=True)
class Static:
    """What programs are compiled for. Configs of one JSON compile to the same code, wherever their weights are from."""

    config: GPT2Config = field(compare=False)
    json: str
    n_known: int
    is_native: bool


@functools.cache
def _compiled(function: Callable[..., Any], mesh: Any) -> Callable[..., Any]:
    """One for all models of a process: those of one shape, as a newer checkpoint's, are compiled once."""
    names = set(inspect.signature(function).parameters)
    static = {"static", "count"} & names
    within = meshes.with_mesh(mesh, function) if mesh else function
    return jax.jit(within, donate_argnames="state" if "state" in names else (), static_argnames=tuple(static))


def _unpacked(ints: jax.Array, floats: jax.Array) -> _Rows:
    slot, token, position, made, limit, seed, index, top_k, has_bias = ints[:, :N_INTS].T
    temperature, *others = floats.T
    seed = jax.lax.bitcast_convert_type(seed, jnp.uint32)
    settings = Settings(temperature, top_k, *others)
    return _Rows(slot, token, position, made, limit, seed, index, has_bias != 0, ints[:, N_INTS:], settings)


def _prefill(weights, state, tokens, positions, slots, ends, targets, *, static):
    """The state with the tokens' keys and values, and `hidden` of the slots `ends` [tokens]; scores of the targets."""
    cache = Cache(state.k, state.v, positions, slots)
    tokens_BT = tokens[:, None] if static.is_native else tokens
    implementation = "native" if static.is_native else "reference"
    hidden, cache = model.forward(weights, tokens_BT, config=static.config, cache=cache, implementation=implementation)
    assert isinstance(cache, Cache)
    hidden = hidden.reshape(-1, hidden.shape[-1])
    last = state.hidden.at[ends].set(hidden.astype(state.hidden.dtype), mode="drop")
    scores = None
    if targets is not None:
        scores = _scored(model.logits(weights, hidden, config=static.config), targets, 2, n_known=static.n_known)
    return state._replace(k=cache.k, v=cache.v, hidden=last), scores


def _first(weights, state, ints, floats, wants, *, static):
    rows = _unpacked(ints, floats)
    hidden_BE = state.hidden[rows.slot]
    history, new = _draw(weights, hidden_BE, state, rows, rows.slot < 0, wants, static=static)
    return state._replace(history=history), jax.tree.map(lambda x: x[:, None], new)


def _decode(weights, state, ints, floats, wants, steps, *, static):
    """Up to `steps` more tokens of each row, as Drawn [B, STEPS]; stops early when every row has ended."""
    rows = _unpacked(ints, floats)

    def more(carry):
        i, _, _, is_done, _ = carry
        return (i < steps) & ~is_done.all()

    def step(carry):
        i, state, rows, is_done, chunk = carry
        slots = jnp.where(is_done, -1, rows.slot) if static.is_native else None
        cache = Cache(state.k, state.v, rows.position, slots)
        hidden_BTE, cache = model.forward(weights, rows.token[:, None], config=static.config, cache=cache)
        assert isinstance(cache, Cache)
        state = state._replace(k=cache.k, v=cache.v)
        history, new = _draw(weights, hidden_BTE[:, 0], state, rows, is_done, wants, static=static)
        made = rows.made + ~is_done
        is_done |= (new.token[:, None] == rows.stops).any(-1) | (made >= rows.limit)
        moved = rows._replace(token=jnp.maximum(new.token, 0), position=rows.position + (made - rows.made), made=made)
        chunk = jax.tree.map(lambda chunk, column: chunk.at[:, i].set(column), chunk, new)
        return i + 1, state._replace(history=history), moved, is_done, chunk

    shape = len(ints), STEPS
    sizes = ((jnp.float32,), (jnp.int32, TOP), (jnp.float32, TOP))
    chunk = Drawn(jnp.full(shape, -1, jnp.int32), *(jnp.zeros((*shape, *more), dtype) for dtype, *more in sizes))
    _, state, _, _, chunk = jax.lax.while_loop(more, step, (0, state, rows, rows.slot < 0, chunk))
    return state, chunk


def _draw(weights, hidden_BE, state, rows, is_done, wants, *, static) -> tuple[jax.Array, Drawn]:
    """The history with each row's next token, and the tokens, -1 for rows that are done."""
    scores_BV = model.logits(weights, hidden_BE, config=static.config)
    keys = jax.vmap(_key)(rows.seed, rows.sample_index, rows.made)
    settings = rows.settings
    is_penalized = (settings.repetition_penalty != 1) | (settings.frequency_penalty != 0)
    is_penalized |= settings.presence_penalty != 0
    biased_BV = jax.lax.cond(
        rows.has_bias.any(),
        lambda: scores_BV + jnp.where(rows.has_bias[:, None], state.bias[rows.slot], 0),
        lambda: scores_BV,
    )
    penalized_BV = jax.lax.cond(
        is_penalized.any(),
        lambda: drawing.penalized(biased_BV, state.history[rows.slot], settings),
        lambda: biased_BV,
    )
    token_B = drawing.draw(penalized_BV, keys, settings, n_known=static.n_known)
    scored = _scored(scores_BV, token_B, wants, n_known=static.n_known)
    history = state.history.at[jnp.where(is_done, len(state.history), rows.slot), token_B].add(1, mode="drop")
    return history, scored._replace(token=jnp.where(is_done, -1, token_B))


def _key(seed: jax.Array, sample_index: jax.Array, made: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), sample_index), made)


def _scored(scores_BV: jax.Array, token_B: jax.Array, wants: Any, *, n_known: int) -> Drawn:
    """wants: 0 is nothing (zeros), 1 the tokens' own log-probabilities, 2 the likeliest tokens below `n_known` too."""
    shape = (len(token_B), TOP)

    def top() -> tuple[jax.Array, jax.Array]:
        known_BV = jnp.where(jnp.arange(scores_BV.shape[-1]) < n_known, scores_BV, -jnp.inf)
        values, ids = jax.lax.top_k(known_BV, min(TOP, scores_BV.shape[-1]))
        missing = ((0, 0), (0, TOP - ids.shape[-1]))
        return jnp.pad(ids, missing), jnp.pad(values, missing, constant_values=-jnp.inf)

    none = (jnp.zeros(shape, jnp.int32), jnp.zeros(shape))
    ids, values = jax.lax.cond(jnp.asarray(wants) > 1, top, lambda: none)
    logprob, total = jax.lax.cond(
        jnp.asarray(wants) > 0,
        lambda: drawing.log_probabilities(scores_BV, token_B),
        lambda: (jnp.zeros(shape[0]), jnp.zeros((shape[0], 1))),
    )
    return Drawn(token_B, logprob, ids, values - total)


def _write(state, parts, target):
    k, v = kv_cache.with_slot(state.k, state.v, parts, target)
    return state._replace(k=k, v=v)


def _set(state, slot, history, bias):
    return state._replace(history=state.history.at[slot].set(history), bias=state.bias.at[slot].set(bias))
