"""Measures what CPUs do most: attention, and products against XLA's, packed ones of generation and those of training.

python -m benchmarks.products                        layers of 124M: feed-forward of 1 to 512 rows, attention
python -m benchmarks.products --width 3072 --outputs 768 --rows 1 16

Both sides run in this process in turns, with 2 MB pages, as main.py does. XLA has no product with int8 matrices.
"""

if __name__ == "__main__":  # before the imports that take time
    from estimator.system import malloc_settings

    malloc_settings.use()

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks._report import finish, processor, say, table
from estimator.errors import UserError, run_program
from models.gpt2 import cpu_kernels
from models.gpt2.decode import kernels
from models.gpt2.decode.quantized import quantize_matrix

STORAGES = ("float32", "bfloat16", "int8")
LAYERS, HEADS, HEAD_WIDTH = 12, 12, 64
CACHED = ((1, 64), (16, 64), (16, 160), (1, 500))  # rows, and the position of their token
PROMPT = 512  # tokens
ROUNDS = 9
ROUND_SECONDS = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=positive, default=768, metavar="N", help="inputs (%(default)s)")
    parser.add_argument("--outputs", type=positive, default=3072, metavar="N", help="%(default)s")
    parser.add_argument("--rows", type=positive, nargs="+", default=[1, 8, 16, 32, 128, 512], metavar="N")
    parser.add_argument("--smoke", action="store_true", help="the smallest of everything")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.width, arguments.outputs, arguments.rows = 64, 48, [1, 3]
    if obstacle := cpu_kernels.obstacle():
        raise UserError(f"products of packed matrices: {obstacle}")
    rows = [row for count in arguments.rows for row in measured(count, arguments.width, arguments.outputs)]
    say("\n" + table(rows))
    last = {row["storage"]: row for row in rows if row["rows"] == arguments.rows[-1]}["bfloat16"]
    finish(
        "products",
        f"G operations/s of [{last['rows']}, {arguments.width}] x [{arguments.width}, {arguments.outputs}] in bfloat16",
        last["ours"],
        {"XLA": last["XLA"]},
        device=processor(),
        packages=("jax", "jaxlib"),
        details={
            "rows": rows,
            "training": training_rows(arguments.smoke, arguments.width, arguments.outputs),
            "attention": attention_rows(arguments.smoke),
        },
    )


def positive(text: str) -> int:
    """A whole number above 0."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def measured(count: int, width: int, outputs: int) -> list[dict[str, Any]]:
    """A row of the table for each storage: medians over the rounds, in G operations/s."""
    x, matrix = (
        jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(count, width), (width, outputs)])
    )
    operations = 2 * count * width * outputs
    rows: list[dict[str, Any]] = []
    for storage in STORAGES:
        packed = quantize_matrix(matrix, rows=1, storage=storage)
        sides: dict[str, Callable[[], jax.Array]] = {"ours": caller(lambda x, w: w.product(x), x, packed)}
        if storage != "int8":
            low = matrix.astype(storage)
            sides["XLA"] = caller(
                lambda x, w: jnp.dot(x.astype(w.dtype), w, preferred_element_type=jnp.float32), x, low
            )
        seconds = in_turns(sides)
        rates = {side: operations / value / 1e9 for side, value in seconds.items()}
        rows.append({"storage": storage, "rows": count, **rates})
        say(f"{storage}, {count} rows: " + ", ".join(f"{side} {rate:,.1f}" for side, rate in rates.items()))
    return rows


def training_rows(smoke: bool, width: int, outputs: int) -> list[dict[str, Any]]:
    """G operations/s of a layer's product in bfloat16 and of its two gradients."""
    tokens = 8 if smoke else 2 * PROMPT
    shapes = {"te": (tokens, width), "ef": (width, outputs), "tf": (tokens, outputs)}
    arrays = {dims: jax.random.normal(jax.random.key(0), shape, jnp.bfloat16) for dims, shape in shapes.items()}
    rows: list[dict[str, Any]] = []
    for form in ("te,ef->tf", "tf,ef->te", "te,tf->ef"):
        a, b = (arrays[dims] for dims in form.partition("->")[0].split(","))
        sides = {
            "ours": caller(lambda a, b, form=form: cpu_kernels.product(form, a, b), a, b),
            "XLA": caller(lambda a, b, form=form: jnp.einsum(form, a, b), a, b),
        }
        operations = 2 * tokens * width * outputs
        rows.append({"form": form} | {side: operations / value / 1e9 for side, value in in_turns(sides).items()})
    say(f"\ntraining, {tokens} tokens, bfloat16, G operations/s\n" + table(rows))
    return rows


def attention_rows(smoke: bool) -> list[dict[str, Any]]:
    """Milliseconds of all layers' attention with keys and values in either type: medians over the rounds."""
    types = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
    rows: list[dict[str, Any]] = []
    for count, position in CACHED[:1] if smoke else CACHED:
        seconds = in_turns({name: cached_caller(count, position, dtype) for name, dtype in types.items()})
        rows.append({"rows": count, "position": position, **{name: 1e3 * value for name, value in seconds.items()}})
    prompt = jax.random.normal(jax.random.key(0), (1, 8 if smoke else PROMPT, HEADS, HEAD_WIDTH))
    sides = {name: caller(cpu_kernels.attention, *[prompt.astype(dtype)] * 3) for name, dtype in types.items()}
    seconds = {name: LAYERS * 1e3 * value for name, value in in_turns(sides).items()}
    rows.append({"rows": prompt.shape[1], "position": "a prompt", **seconds})
    say(f"\nattention of {LAYERS} layers, ms\n" + table(rows))
    return rows


def cached_caller(count: int, position: int, dtype: Any) -> Callable[[], jax.Array]:
    """Attention of a token of each row to its slot, in each layer: together they are too large for the caches."""
    tokens = jax.random.normal(jax.random.key(0), (count, HEADS, HEAD_WIDTH), dtype)
    places = {"slots_N": jnp.arange(count, dtype=jnp.int32), "positions_N": jnp.full(count, position, jnp.int32)}

    def layers(tokens: jax.Array, caches: list[tuple[jax.Array, jax.Array]]) -> tuple[jax.Array, list[Any]]:
        kept = []
        for k, v in caches:
            tokens, *changed = kernels.cached_attention(tokens, tokens, tokens, k, v, **places, is_prompt=False)
            kept.append(changed)
        return tokens, kept

    compiled = jax.jit(layers, donate_argnums=1)
    shape = (count, HEADS, position + 1, HEAD_WIDTH)
    caches: list[Any] = [(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(LAYERS)]

    def call() -> jax.Array:
        out, caches[:] = compiled(tokens, caches)
        return out

    return call


def caller(function: Callable[..., jax.Array], *arguments: object) -> Callable[[], jax.Array]:
    compiled = jax.jit(function)
    return lambda: compiled(*arguments)


def in_turns(sides: dict[str, Callable[[], jax.Array]]) -> dict[str, float]:
    """Seconds of a call of each side, the median over the rounds."""
    calls, rounds = {}, {side: [] for side in sides}
    for side, call in sides.items():
        call().block_until_ready()
        start = time.perf_counter()
        call().block_until_ready()
        calls[side] = max(1, int(ROUND_SECONDS / (time.perf_counter() - start)))
    for _ in range(ROUNDS):
        for side, call in sides.items():
            start = time.perf_counter()
            result = call()
            for _ in range(calls[side] - 1):
                result = call()
            result.block_until_ready()
            rounds[side].append((time.perf_counter() - start) / calls[side])
    return {side: statistics.median(found) for side, found in rounds.items()}


if __name__ == "__main__":
    run_program(main)
