"""Checks a new accelerator: correctness, the fastest variants, and a profile.

python -m benchmarks.gpu                        all parts, one after the other; on a CPU at tiny sizes
python -m benchmarks.gpu --part correctness     losses, gradients and tokens against the CPU of the same machine
python -m benchmarks.gpu --part train           {attention} x {scan, unrolled} x {float32, bfloat16 logits}
python -m benchmarks.gpu --part profile         kernels of a step by time; the embedding's gradient in four ways
python -m benchmarks.gpu --part decode          microseconds of a token, by batch and precision

Each part takes under ten minutes and ends with a line of JSON. The peers are timed by benchmarks.train_step and
benchmarks.decode. --model, --batch and --n_ctx choose other sizes, --out DIR keeps the profile.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import numpy as np

import optimizers
from benchmarks import _decode_workers, _gpu_checks, _sizes
from benchmarks._report import finish, processor, say, table
from benchmarks._sizes import SIZES
from benchmarks._workers import best
from estimator.parallel import hardware, param_spec
from estimator.training.fused_step import train_step
from estimator.training.train_step import TrainState
from models import gpt2 as model
from models.gpt2 import model as gpt2
from models.gpt2.attention.select_backend import Implementation

STEPS = 10
SHOWN = 40  # kernels of a profile
LOGITS = ("float32", "bfloat16")


class Work(NamedTuple):
    """The model and sizes that all parts measure."""

    name: str
    batch: int
    n_ctx: int
    steps: int
    small: bool
    smoke: bool


def main() -> None:
    parts = {"correctness": correctness, "train": train, "profile": profile, "decode": decode}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=parts, nargs="*", default=list(parts))
    parser.add_argument("--model", choices=SIZES, help="124M; on a CPU tiny")
    parser.add_argument("--batch", type=int, metavar="N")
    parser.add_argument("--n_ctx", type=int, metavar="N")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keeps the profile here")
    parser.add_argument("--smoke", action="store_true", help="the smallest of everything, and fewer variants")
    arguments = parser.parse_args()
    small = arguments.smoke or jax.default_backend() == "cpu"
    name = arguments.model or ("tiny" if small else "124M")
    batch, n_ctx = SIZES[name].cpu if small else SIZES[name].gpu
    work = Work(name, arguments.batch or batch, arguments.n_ctx or n_ctx, 2 if small else STEPS, small, arguments.smoke)
    for part in arguments.part:
        start = time.perf_counter()
        unit, figure, details = parts[part](work, arguments.out)
        finish(
            f"gpu_{part}",
            unit,
            figure,
            {},
            device=processor() if jax.default_backend() == "cpu" else jax.devices()[0].device_kind,
            packages=("jax", "jaxlib", "jax-cuda13-plugin", "jax-cuda12-plugin", "nvidia-cudnn-cu13", "optax"),
            details=details | {"work": work._asdict(), "seconds": time.perf_counter() - start},
        )


def config_of(work: Work, **changes: Any) -> Any:
    keys = _sizes.values(SIZES[work.name], n_ctx=work.n_ctx, batch=work.batch) | changes
    return model.Config(**{key: value for key, value in keys.items() if key in model.Config.model_fields})


def implementations() -> list[Implementation]:
    """The attention programs that can run here."""
    native = {"gpu": {"cudnn"}, "tpu": {"flash"}}.get(jax.default_backend(), set())
    return [name for name in get_args(Implementation) if name in {"reference", "blocked"} | native]


def loss_of(config: Any, implementation: Implementation, logits: str) -> Callable[..., Any]:
    """(params, batch, key) -> (sum, weight), the scores of the vocabulary in float32 (the model's own) or bfloat16."""
    if logits == "float32":
        return partial(gpt2.loss, config=config, implementation=implementation)

    def loss(values: Any, batch: Any, key: Any) -> tuple[jax.Array, jax.Array]:
        tokens, targets = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
        hidden, _ = gpt2.forward(gpt2.cast(values, config), tokens, config=config, implementation=implementation)
        scores = jnp.einsum("btd,vd->btv", hidden, values["wte"].astype(hidden.dtype))
        scores = jnp.where(jnp.arange(config.padded_vocab) < config.n_vocab, scores, -jnp.inf)
        chosen = jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0].astype(jnp.float32)
        nll = jax.nn.logsumexp(scores.astype(jnp.float32), axis=-1) - chosen
        return nll.sum(), jnp.float32(nll.size)

    return loss


def compiled_step(work: Work, config: Any, loss: Callable[..., Any]) -> tuple[Any, TrainState, Any]:
    """The program of one step, its state, its batch."""
    specs = gpt2.parameters(config)
    keys = _sizes.values(SIZES[work.name], n_ctx=work.n_ctx, batch=work.batch)
    settings = {key: value for key, value in keys.items() if key in optimizers.OptimizerConfig.model_fields}
    optimizer = optimizers.make(optimizers.OptimizerConfig(**settings), specs, total_steps=1000)
    program = jax.jit(train_step(loss, optimizer, accumulation=1, seed=0), donate_argnums=0)

    def create(key: jax.Array) -> TrainState:
        weights = param_spec.initialize(specs, key)
        return TrainState(jnp.int32(0), weights, optimizer.transform.init(weights))

    tokens = _sizes.tokens(0, batch=work.batch, n_ctx=work.n_ctx, n_vocab=config.n_vocab)
    return program, jax.jit(create)(jax.random.key(0)), {"tokens": jnp.asarray(tokens)[None]}


def run(program: Any, state: TrainState, batch: Any, steps: int) -> tuple[TrainState, float, float]:
    """State, seconds of a step, loss."""
    start, metrics = time.perf_counter(), {}
    for _ in range(steps):
        state, metrics = program(state, batch)
    jax.block_until_ready(state)
    return state, (time.perf_counter() - start) / steps, float(metrics["loss"])


def correctness(work: Work, out: Path | None) -> tuple[str, float | None, dict[str, Any]]:
    """Everything that differs by device or by program, as relative differences from float32 on the CPU."""
    rows = _gpu_checks.gradients(work.small, implementations()[: 1 if work.smoke else None], smoke=work.smoke)
    rows += [] if work.smoke else _gpu_checks.generation(work.small)
    rows += _gpu_checks.whole_program(work.small)
    say("\n" + table(rows))
    wrong = [row["what"] for row in rows if not row["good"]]
    say("wrong: " + ", ".join(wrong) if wrong else "all as it should be")
    return "checks that failed", float(len(wrong)), {"rows": rows, "wrong": wrong}


def train(work: Work, out: Path | None) -> tuple[str, float | None, dict[str, Any]]:
    """The matrix of variants in bfloat16; what does not fit or cannot run is in the table too."""
    rows: list[dict[str, Any]] = []
    tokens = work.batch * work.n_ctx
    flops = SIZES[work.name].flops_per_token(work.n_ctx)
    peak = hardware.peak_flops(jax.devices()[0])
    products = peaks(work.small)
    for implementation in implementations()[: 1 if work.smoke else None]:
        for scanned in (False,) if work.smoke else (False, True):
            for logits in LOGITS[-1:] if work.smoke else LOGITS:
                config = config_of(work, precision="bfloat16", scan_layers=scanned)
                row: dict[str, Any] = {"attention": implementation, "layers": "scan" if scanned else "unrolled"}
                row["logits"] = logits
                rows.append(row)
                try:
                    row |= timed(work, config, loss_of(config, implementation, logits))
                except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError) as error:
                    row["error"] = str(error).strip().splitlines()[0][:120]
                    continue
                row["tokens_per_s"] = tokens / row["step_ms"] * 1e3
                row["mfu"] = peak and row["tokens_per_s"] * flops / peak
                row["of_matmul"] = row["tokens_per_s"] * flops / products["matmul_bfloat16"]
                say(table([row]))
    say("\n" + table(rows) + "\n" + table([{key: value / 1e9 for key, value in products.items()}]))
    fastest = max((row["tokens_per_s"] for row in rows if "tokens_per_s" in row), default=None)
    return f"tokens/s, {work.name}, the fastest variant", fastest, {"rows": rows, "per_s": products}


def timed(work: Work, config: Any, loss: Callable[..., Any]) -> dict[str, Any]:
    program, state, batch = compiled_step(work, config, loss)
    start = time.perf_counter()
    program = program.lower(state, batch).compile()
    analysis = program.memory_analysis()
    compiled = time.perf_counter() - start
    state, _, first = run(program, state, batch, 1)
    state, _, _ = run(program, state, batch, 2)
    state, seconds, last = run(program, state, batch, work.steps)
    return {
        "step_ms": 1e3 * seconds,
        "compile_s": compiled,
        "working_MB": analysis.temp_size_in_bytes / 1e6,
        "first_loss": first,
        "last_loss": last,
    }


def peaks(small: bool) -> dict[str, float]:
    """FLOP/s of products, bytes/s of a copy."""
    n, copied = (256, 1 << 20) if small else (8192, 1 << 30)
    found = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        x = jax.random.normal(jax.random.key(0), (n, n), dtype)
        product = jax.jit(jnp.matmul)
        seconds = best(lambda product=product, x=x: product(x, x).block_until_ready())
        found[f"matmul_{jnp.dtype(dtype).name}"] = 2 * n**3 / seconds
    x = jnp.ones(copied // 4, jnp.float32)
    copy = jax.jit(lambda x: x * 2)
    return found | {"copy": 2 * copied / best(lambda: copy(x).block_until_ready())}


def profile(work: Work, out: Path | None) -> tuple[str, float | None, dict[str, Any]]:
    """Kernels of the program's own choice of everything, and the embedding's gradient alone."""
    embedding = _gpu_checks.embedding_gradients(work.batch * work.n_ctx, SIZES[work.name])
    say(table(embedding))
    config = config_of(work, precision="bfloat16")
    implementation = model.attention_choice(config, "train").implementation
    program, state, batch = compiled_step(work, config, loss_of(config, implementation, "float32"))
    state, _, _ = run(program, state, batch, 3)
    with tempfile.TemporaryDirectory(prefix="profile-") as temporary:
        folder = out or Path(temporary)
        with jax.profiler.trace(str(folder)):
            state, seconds, _ = run(program, state, batch, 3)
        rows = kernels(folder, steps=3)
    say("\n" + table(rows[:SHOWN]))
    products = [
        row for row in rows if any(part in row["kernel"].lower() for part in ("gemm", "dot", "cublas", "nvjet"))
    ]
    details = {"kernels": rows[:SHOWN], "embedding_gradient": embedding, "step_ms": 1e3 * seconds}
    details |= {"busy_ms": sum(row["ms_per_step"] for row in rows)}
    details |= {"products_ms": sum(row["ms_per_step"] for row in products)}
    return "ms of a step while it is profiled", 1e3 * seconds, details


def kernels(folder: Path, *, steps: int) -> list[dict[str, Any]]:
    """Name, milliseconds a step and calls a step, the dearest first, of what the device (or the CPU's threads) did."""
    files = sorted(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not files:
        return []
    planes = list(jax.profiler.ProfileData.from_file(str(files[-1])).planes)
    chosen = [plane for plane in planes if plane.name.startswith("/device:")] or planes
    times: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for plane in chosen:
        for line in plane.lines:
            if line.name in ("XLA Modules", "Steps", "Framework Ops", "XLA Ops", "python"):
                continue  # the same time once more, by other names
            for event in line.events:
                times[event.name] += event.duration_ns
                calls[event.name] += 1
    return [
        {"kernel": name[:90], "ms_per_step": nanoseconds / 1e6 / steps, "calls": calls[name] / steps}
        for name, nanoseconds in times.most_common()
    ]


def decode(work: Work, out: Path | None) -> tuple[str, float | None, dict[str, Any]]:
    """The predictor's loop, by batch and precision."""
    length, n_ctx = (8, 64) if work.small else (256, 1024)
    batches = (1,) if work.smoke else (1, 2) if work.small else (1, 8, 64, 256)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        side = _decode_workers.Ours(folder, work.name, n_ctx, 8, length, gguf=[])
        side.write()
        for variant in ("bf16",) if work.small else ("f32", "bf16"):
            for batch in batches:
                side.prepare(variant, batch)
                runs = [side.generate(variant, batch) for _ in range(3)]
                seconds = float(np.median([(run["seconds"] - run["first"]) / (length - 1) for run in runs]))
                row = {"precision": variant, "batch": batch, "us_per_token": 1e6 * seconds}
                row |= {"tokens_per_s": batch / seconds, "first_ms": 1e3 * float(np.median([r["first"] for r in runs]))}
                rows.append(row)
                say(table([row]))
    say("\n" + table(rows))
    return (
        "tokens/s at batch 1, bfloat16",
        next(r["tokens_per_s"] for r in rows if r["precision"] == "bf16"),
        {"rows": rows},
    )


if __name__ == "__main__":
    sys.exit(main())
