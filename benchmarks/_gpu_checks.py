"""What a new device must have right, and the ways to compute an embedding's gradient there."""

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _decode_workers, _sizes
from benchmarks._sizes import SIZES, Size
from benchmarks._workers import ROOT, as_a_user_starts_it, best
from estimator.parallel import param_spec
from estimator.tokenization.train_bpe import train_byte_bpe
from models import gpt2 as model
from models.gpt2 import model as gpt2
from models.gpt2.attention.select_backend import Implementation

EXACT = 1e-5  # relative difference of float32 between devices
ROUNDED = 3e-2  # of bfloat16 from float32, in the norm of the whole gradient
STEPS = 300
Row = dict[str, Any]


def gradients(small: bool, programs: list[Implementation], *, smoke: bool = False) -> list[Row]:
    """Loss and gradient by every attention program and precision here against float32 on the CPU."""
    size = Size(1, 32, 2, 300, (2, 16), (2, 16)) if small else Size(4, 256, 4, 2048, (4, 256), (4, 256))
    batch, n_ctx = size.cpu
    tokens = _sizes.tokens(0, batch=batch, n_ctx=n_ctx, n_vocab=size.n_vocab)
    cpu, here = jax.devices("cpu")[0], jax.devices()[0]

    def result(device: Any, precision: str, implementation: Implementation, products: str) -> tuple[float, np.ndarray]:
        keys = _sizes.values(size, n_ctx=n_ctx, batch=batch, precision=precision)
        config = model.Config(**{key: value for key, value in keys.items() if key in model.Config.model_fields})
        with jax.default_device(cpu):
            weights = param_spec.initialize(gpt2.parameters(config), jax.random.key(0))
        placed = jax.device_put((weights, {"tokens": jnp.asarray(tokens)}), device)

        def mean(values: Any, batch: Any) -> jax.Array:
            total, weight = gpt2.loss(values, batch, None, config=config, implementation=implementation)
            return total / weight

        with jax.default_matmul_precision(products):
            loss, gradient = jax.jit(jax.value_and_grad(mean))(*placed)
        leaves = [np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(gradient)]
        return float(loss), np.concatenate(leaves)

    reference = result(cpu, "float32", "reference", "highest")
    rows: list[Row] = []
    ways = (("float32", "highest"), ("float32", "default"), ("bfloat16", "default"))
    for precision, products in ways[-1:] if smoke else ways:
        for implementation in programs:
            name = f"{precision}, {implementation}, products {products}"
            try:
                loss, gradient = result(here, precision, implementation, products)
            except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError, TypeError, RuntimeError) as error:
                cannot = precision == "float32" and implementation in ("cudnn", "flash")
                rows.append({"what": name, "good": cannot, "error": str(error).strip().splitlines()[0][:80]})
                continue
            of_loss = abs(loss - reference[0]) / abs(reference[0])
            of_gradient = float(np.linalg.norm(gradient - reference[1]) / np.linalg.norm(reference[1]))
            bound = EXACT if products == "highest" else ROUNDED
            good = bool(of_loss < bound and of_gradient < 10 * bound and np.isfinite(of_gradient))
            rows.append({"what": name, "good": good, "loss_differs": of_loss, "gradient_differs": of_gradient})
    return rows


def generation(small: bool) -> list[Row]:
    """The likeliest tokens by this device and by the CPU, in float32."""
    length, n_ctx = (8, 64) if small else (64, 256)
    found = []
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder, jax.default_matmul_precision("highest"):
        side = _decode_workers.Ours(folder, "tiny" if small else "small", n_ctx, 8, length, gguf=[])
        side.write()
        for device in (jax.devices("cpu")[0], jax.devices()[0]):
            side.drop("f32")
            side.ready["f32"] = side.load("f32", device=device)
            found.append(side.generate("f32", 2)["tokens"])
    same = next((i for i, pair in enumerate(zip(*found, strict=True)) if pair[0] != pair[1]), length)
    return [{"what": f"{length} likeliest tokens in float32", "good": same == length, "same": same}]


def whole_program(small: bool) -> list[Row]:
    """main.py trains, evaluates, generates, and continues: exit codes, and that the loss fell."""
    size, steps = ("tiny", 4) if small else ("124M", STEPS)
    batch, n_ctx = SIZES[size].cpu if small else (16, 512)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="gpu-") as temporary:
        folder = Path(temporary)
        train_byte_bpe([], n_vocab=257, out=folder / "encoder")
        (folder / "text").mkdir()
        (folder / "text" / "text.txt").write_text(
            "\n".join(path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("docs/*.md")))
        )
        keys = _sizes.values(SIZES[size], n_ctx=n_ctx, batch=batch, folder=str(folder / "run"), precision="bfloat16")
        keys |= {"input": "text", "data_path": str(folder / "text"), "encoder_path": str(folder / "encoder")}
        keys |= {"max_steps": steps, "train_steps": steps, "log_steps": 1, "eval_steps": 1, "warmup_steps": 2}
        keys |= {"lr": 1e-3, "predict_path": str(folder / "samples.txt")}
        path = folder / "x.json"
        path.write_text(json.dumps(keys))
        modes: list[list[str]] = [[], ["--evaluate"], ["--predict_text", "The", "--length", "16"]]
        for mode in modes[:1] if small else modes:
            command = [sys.executable, "main.py", "--model", str(path), *mode]
            command, environment = as_a_user_starts_it(command, dict(os.environ))
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
            row: Row = {"what": " ".join(["main.py", *mode[:1]]), "good": done.returncode == 0}
            rows.append(row)
            if done.returncode:
                row["error"] = (done.stderr.strip().splitlines() or [""])[-1][:80]
        if rows[0]["good"]:
            lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
            losses = [line["loss"] for line in lines if line["split"] == "train"]
            rows.append({"what": f"{steps} steps lower the loss", "good": losses[-1] < losses[0], "loss": losses[-1]})
    return rows


def embedding_gradients(tokens: int, size: Size) -> list[Row]:
    """Milliseconds of the sum of `tokens` vectors into the rows of a vocabulary, and how far from float64 it is."""
    ids = _sizes.tokens(0, batch=1, n_ctx=tokens - 1, n_vocab=size.n_vocab)[0]
    vectors = np.random.default_rng(0).standard_normal((tokens, size.n_embd), np.float32)
    rows_count = size.padded_vocab
    exact = np.zeros((rows_count, size.n_embd))
    np.add.at(exact, ids, vectors)

    def scatter(ids: jax.Array, vectors: jax.Array) -> jax.Array:
        return jnp.zeros((rows_count, size.n_embd), vectors.dtype).at[ids].add(vectors)

    def sort(ids: jax.Array, vectors: jax.Array) -> jax.Array:
        order = jnp.argsort(ids)
        return jax.ops.segment_sum(vectors[order], ids[order], rows_count, indices_are_sorted=True)

    def one_hot(ids: jax.Array, vectors: jax.Array) -> jax.Array:
        chosen = (jnp.arange(rows_count)[:, None] == ids).astype(vectors.dtype)
        return jnp.matmul(chosen, vectors, preferred_element_type=jnp.float32)

    ways = {
        "scatter-add float32": (scatter, jnp.float32),
        "scatter-add bfloat16": (scatter, jnp.bfloat16),
        "sort, segment sum": (sort, jnp.float32),
        "one-hot bfloat16": (one_hot, jnp.bfloat16),
    }
    rows: list[Row] = []
    for name, (function, dtype) in ways.items():
        row: Row = {"embedding gradient": name}
        rows.append(row)
        arguments = (jnp.asarray(ids), jnp.asarray(vectors, dtype))
        try:
            program = jax.jit(function)
            result = np.asarray(program(*arguments), np.float64)
            row["ms"] = 1e3 * best(partial(lambda program, a: jax.block_until_ready(program(*a)), program, arguments))
        except jax.errors.JaxRuntimeError as error:
            row["error"] = str(error).strip().splitlines()[0][:80]
            continue
        row["differs"] = float(np.linalg.norm(result - exact) / np.linalg.norm(exact))
    return rows
