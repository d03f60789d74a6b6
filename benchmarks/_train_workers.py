"""What trains in the processes of the training benchmarks: ours, the PyTorch peer, transformers' GPT-2.

Each has `describe`, `variants`, `prepare` (compiles one variant for one batch), `steps` (seconds a step of so many) and
`peaks` (products and copies as this framework does them).
"""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import _sizes, _workers
from benchmarks._sizes import SIZES

WARMUP = 2


class Side:
    """options: size, n_ctx, batch, which `work` changes; what else the side knows."""

    def __init__(self, size: str = "tiny", n_ctx: int = 16, batch: int = 2, **more: Any):
        self.size, self.n_ctx, self.batch, self.more = SIZES[size], n_ctx, batch, more
        self.done = 0

    def work(self, size: str, n_ctx: int) -> None:
        self.size, self.n_ctx = SIZES[size], n_ctx

    def tokens(self, step: int) -> Any:
        return _sizes.tokens(step, batch=self.batch, n_ctx=self.n_ctx, n_vocab=self.size.n_vocab)


class Ours(Side):
    """The Estimator's own compiled step, fed by its own thread."""

    def describe(self) -> dict[str, Any]:
        import jax

        from estimator.parallel import hardware

        device = jax.devices()[0]
        return {"platform": device.platform, "kind": device.device_kind, "peak": hardware.peak_flops(device)}

    def variants(self) -> list[str]:
        """Precisions to try: the program's own choice alone where it makes one."""
        from typing import get_args

        from models import gpt2

        field = gpt2.Config.model_fields["precision"]
        if any(change.startswith("precision=") for change in self.more.get("changes", ())):
            return ["as asked"]
        if "auto" in get_args(field.annotation):
            return ["auto"]
        return ["float32", "bfloat16"] if self.describe()["platform"] == "cpu" else ["bfloat16"]

    def prepare(self, variant: str, batch: int | None = None, **sizes: Any) -> dict[str, Any]:
        import jax
        import jax.numpy as jnp

        from estimator import config
        from estimator.estimator import Estimator
        from estimator.parallel import mesh, param_spec
        from estimator.system import malloc
        from estimator.training.prefetch import Prefetcher, StepPlan
        from estimator.training.run_config import RunConfig
        from estimator.training.train_step import TrainState
        from models import gpt2 as model
        from optimizers import OptimizerConfig

        self.close()
        _workers.forget_peak()
        self.batch = batch or self.batch
        self.n_ctx = sizes.pop("n_ctx", self.n_ctx)
        self.size = self.size._replace(**sizes)
        precision = {} if variant == "as asked" else {"precision": variant}
        keys = _sizes.values(self.size, n_ctx=self.n_ctx, batch=self.batch, **precision)
        for change in self.more.get("changes", ()):
            key, _, value = change.partition("=")
            keys[key] = _value(value)
        sections = [model.Config, OptimizerConfig, RunConfig]
        sizes_of, optimizer, run = config.parse_sections(keys, sections, source="the benchmark")
        total = run.max_steps or 1
        asked = model.Params(sizes_of, optimizer, total)
        estimator = Estimator(model.model_fn, asked, run, devices=jax.devices()[:1])  # as many as the peers use
        spec = estimator.spec("train")
        assert spec.optimizer
        transform = spec.optimizer.transform
        plan = estimator.plan(total_steps=total, first_step=0)
        start = time.perf_counter()

        def create(key: jax.Array) -> TrainState:
            weights = param_spec.initialize(spec.parameters, key)
            return TrainState(jnp.int32(0), weights, transform.init(weights))

        shardings = jax.tree.map(lambda leaf: leaf.sharding, plan.state)
        self.state = jax.jit(create, out_shardings=shardings)(jax.random.key(0))
        self.program, dims = estimator.program(spec, plan.accumulation, plan.state)
        self.feed = Prefetcher(
            lambda step: {"tokens": self.tokens(step)},
            StepPlan(0, total, max_steps_per_call=run.iterations, stops=()),
            sharding=mesh.split_dim(estimator.mesh, dims),
            accumulation=plan.accumulation,
            max_steps_per_call=run.iterations,
        )
        loss = self.steps(1)["loss"]
        malloc.release()  # as the Estimator does
        first = time.perf_counter() - start
        self.steps(WARMUP)
        told = [str(model.attention_choice(sizes_of, "train")), f"precision: {getattr(sizes_of, 'precision', '')}"]
        return {"seconds": first, "loss": loss, "accumulation": plan.accumulation, "told": told}

    def steps(self, count: int) -> dict[str, float]:
        import jax

        start, done, metrics = time.perf_counter(), 0, []
        while done < count:
            group = next(self.feed)
            self.state, told = self.program(self.state, group.batches, group.count)
            metrics.append(told["loss"])
            done += group.count
            if len(metrics) > 2:  # as TrainMonitor does: two calls may wait their turn
                jax.device_get(metrics[-3])
        jax.block_until_ready(self.state)
        loss = float(jax.numpy.ravel(metrics[-1])[-1])
        return {"seconds": (time.perf_counter() - start) / done, "loss": loss}

    def open(self, folder: str) -> None:
        from estimator.training.checkpoints import Checkpoints

        self.checkpoints = Checkpoints(folder, writer=True, keep_last=1)

    def save(self, step: int) -> dict[str, float]:
        """A step, then a save and steps until the checkpoint is whole.

        Seconds. call: of the save; longer: by how much save and next step take longer than the step before; durable:
        until whole; lost, cpu: until the end of the last step, without what so many steps take; cpu of all threads.
        """
        import jax

        jax.block_until_ready(self.state)
        cpu, alone = time.process_time(), self.steps(1)["seconds"]
        cpu_alone = time.process_time() - cpu
        start, cpu, done = time.perf_counter(), time.process_time(), 1
        self.checkpoints.save(step, self.state.parts())
        seconds = {"call": time.perf_counter() - start}
        with ThreadPoolExecutor(1) as executor:
            whole = executor.submit(self.checkpoints.wait)
            durable = executor.submit(lambda: time.perf_counter() - start)  # after the other
            self.steps(1)
            seconds["longer"] = time.perf_counter() - start - alone
            while not whole.done():
                self.steps(1)
                done += 1
        whole.result()
        lost, cpu = time.perf_counter() - start - done * alone, time.process_time() - cpu - done * cpu_alone
        return seconds | {"durable": durable.result(), "lost": lost, "cpu": cpu}

    def folder_bytes(self, folder: str) -> int:
        return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())

    def memory(self) -> int:
        import jax

        stats = jax.devices()[0].memory_stats() or {}
        return stats.get("peak_bytes_in_use", 0) or _workers.peak_resident()

    def peaks(self, n: int, copied: int) -> dict[str, float]:
        import jax
        import jax.numpy as jnp

        found = {}
        for dtype in (jnp.float32, jnp.bfloat16):
            x = jax.random.normal(jax.random.key(0), (n, n), dtype)
            product = jax.jit(partial(jnp.matmul, preferred_element_type=dtype))
            found[f"matmul_{jnp.dtype(dtype).name}"] = (
                2 * n**3 / _workers.best(lambda p=product, x=x: p(x, x).block_until_ready())
            )
        x = jnp.ones(copied // 4, jnp.float32)
        copy = jax.jit(lambda x: x * 2)
        found["copy"] = 2 * copied / _workers.best(lambda: copy(x).block_until_ready())
        return found

    def close(self) -> None:
        if hasattr(self, "feed"):
            self.feed.close()
            del self.feed, self.state, self.program


class Torch(Side):
    """The peer in PyTorch; a variant is "compile bf16 cudnn": how, in what, and on GPUs with which attention."""

    def _device(self) -> str:
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    def describe(self) -> dict[str, Any]:
        import torch

        gpu = torch.cuda.is_available()
        return {"platform": self._device(), "kind": torch.cuda.get_device_name() if gpu else "cpu"}

    def variants(self) -> list[str]:
        if self._device() == "cuda":
            return ["compile bf16 cudnn", "compile bf16 flash", "max-autotune bf16 cudnn", "eager bf16 flash"]
        return ["compile bf16", "compile f32", "eager bf16", "eager f32"]

    def prepare(self, variant: str, batch: int | None = None) -> dict[str, Any]:
        import torch

        self._clear()
        self.batch = batch or self.batch
        torch.set_float32_matmul_precision("high")
        torch.manual_seed(0)
        how, dtype, *backend = variant.split()
        start = time.perf_counter()
        model = self._model().to(self._device())
        loss = self._loss(model)
        if how != "eager":
            loss = torch.compile(loss, mode=None if how == "compile" else how, dynamic=False)
        from benchmarks._peer_gpt2 import training_step

        number = {"bf16": torch.bfloat16, "f32": torch.float32}[dtype]
        self.step = training_step(model, loss, dtype=number, backend=backend[0] if backend else None)
        told = self.steps(1)["loss"]
        first = time.perf_counter() - start
        self.steps(WARMUP)
        return {"seconds": first, "loss": told}

    def _clear(self) -> None:
        import torch

        self.step: Callable[..., Any] | None = None
        torch._dynamo.reset()
        _workers.forget_peak()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def _model(self) -> Any:
        from benchmarks._peer_gpt2 import GPT2

        return GPT2(self.size, self.n_ctx)

    def _loss(self, model: Any) -> Any:
        return model

    def steps(self, count: int) -> dict[str, float]:
        import torch

        assert self.step
        self._wait()
        loss, start = torch.tensor(0.0), time.perf_counter()
        for _ in range(count):
            tokens = torch.from_numpy(self.tokens(self.done)).long()
            if self._device() == "cuda":
                tokens = tokens.pin_memory().to("cuda", non_blocking=True)
            loss = self.step(tokens)
            self.done += 1
        self._wait()
        return {"seconds": (time.perf_counter() - start) / count, "loss": float(loss)}

    def _wait(self) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def memory(self) -> int:
        import torch

        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _workers.peak_resident()

    def peaks(self, n: int, copied: int) -> dict[str, float]:
        import torch

        found = {}
        device = self._device()
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(n, n).to(device, dtype)

            def product(x: Any = x) -> None:
                torch.mm(x, x)
                self._wait()

            found[f"matmul_{str(dtype).removeprefix('torch.')}"] = 2 * n**3 / _workers.best(product)
        x = torch.ones(copied // 4, device=device)
        y = torch.empty_like(x)

        def copy() -> None:
            y.copy_(x)
            self._wait()

        found["copy"] = 2 * copied / _workers.best(copy)
        return found


class Transformers(Torch):
    """transformers' own GPT-2, with the same step around it."""

    def variants(self) -> list[str]:
        return ["compile bf16", "eager bf16"] if self._device() == "cuda" else ["eager bf16", "eager f32"]

    def _model(self) -> Any:
        from transformers import GPT2Config, GPT2LMHeadModel

        size = self.size
        shape = {"n_layer": size.n_layer, "n_embd": size.n_embd, "n_head": size.n_head, "vocab_size": size.n_vocab}
        dropouts = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        config = GPT2Config(
            **shape, **dropouts, n_positions=self.n_ctx, use_cache=False, bos_token_id=None, eos_token_id=None
        )
        return GPT2LMHeadModel(config).train()

    def _loss(self, model: Any) -> Any:
        # It shifts the labels itself.
        return lambda tokens, targets: model(input_ids=tokens, labels=tokens).loss


def _value(text: str) -> Any:
    """As main.py reads what follows --set KEY=."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


SIDES = {"ours": Ours, "pytorch": Torch, "transformers": Transformers}

if __name__ == "__main__":
    _workers.serve(SIDES[sys.argv[1]](**json.loads(sys.argv[2])))
