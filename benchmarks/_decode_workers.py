"""What generates in the processes of the decode benchmark: ours, transformers, llama.cpp, all with the same weights.

Each has `describe`, `variants`, `prepare` (loads one variant and warms it up), `generate` (seconds to the first token
and to the last) and `bandwidth` (of reading memory, as this framework does it).
"""

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _sizes, _workers
from benchmarks._sizes import SIZES

ENCODER, HUGGING_FACE = "encoder", "hf"
VOCABULARY = 280  # tokens with a text of their own; llama.cpp wants at least one merge
TEXT = "the quick brown fox jumps over the lazy dog and the other dogs that jump there " * 20


class Side:
    """options: folder (of the weights), size, n_ctx, prompt (tokens), length (new tokens)."""

    def __init__(self, folder: str, size: str, n_ctx: int, prompt: int, length: int, **more: Any):
        self.folder, self.size, self.n_ctx, self.length, self.more = Path(folder), SIZES[size], n_ctx, length, more
        self.prompt = prompt
        self.ready: dict[str, Any] = {}

    def prompts(self, batch: int) -> np.ndarray:
        return _sizes.tokens(0, batch=batch, n_ctx=self.prompt - 1, n_vocab=min(self.size.n_vocab, 250))

    def prepare(self, variant: str, batch: int) -> float:
        """Loads it and generates twice, once to compile; returns seconds."""
        start = time.perf_counter()
        if variant not in self.ready:
            self.ready[variant] = self.load(variant)
        self.generate(variant, batch)
        self.generate(variant, batch)
        return time.perf_counter() - start

    def drop(self, variant: str) -> None:
        self.ready.pop(variant, None)
        gc.collect()

    def load(self, variant: str) -> Any:
        raise NotImplementedError

    def generate(self, variant: str, batch: int) -> dict[str, Any]:
        raise NotImplementedError


class Ours(Side):
    """What `main.py --predict_text` generates with."""

    def write(self) -> None:
        """Random weights as transformers and llama.cpp read them, before the others come."""
        import jax

        from estimator.parallel import param_spec
        from estimator.tokenization.train_bpe import train_byte_bpe
        from models import gpt2 as model
        from models.gpt2 import model as gpt2
        from models.gpt2.convert import gguf, hf

        config = model.Config(**self._keys(model.Config.model_fields))
        weights = param_spec.initialize(gpt2.parameters(config), jax.random.key(0))
        hf.write(self.folder / HUGGING_FACE, weights, config, encoder=None, dtype="f32")
        train_byte_bpe([TEXT], n_vocab=VOCABULARY, out=self.folder / ENCODER)
        for dtype in self.more["gguf"]:
            file = self.folder / f"{dtype}.gguf"
            gguf.write(file, weights, config, encoder=self.folder / ENCODER, dtype=dtype, name="random")

    def describe(self) -> dict[str, Any]:
        import jax

        from estimator.parallel import hardware

        device = jax.devices()[0]
        chip = hardware.chip(device.device_kind)
        bandwidth = chip.bandwidth if chip else None
        return {"platform": device.platform, "kind": device.device_kind, "bandwidth": bandwidth}

    def variants(self) -> list[str]:
        from models.gpt2 import cpu_kernels

        return ["f32", "bf16", *([] if cpu_kernels.obstacle() else ["int8"])]

    def _keys(self, known: Any, **more: Any) -> dict[str, Any]:
        keys = _sizes.values(self.size, n_ctx=self.n_ctx, batch=1, folder=str(self.folder / "run"), **more)
        return {key: value for key, value in keys.items() if key in known}

    def load(self, variant: str, device: Any = None) -> Any:
        import jax

        from estimator.estimator import Estimator
        from estimator.training.run_config import RunConfig
        from models import gpt2 as model
        from optimizers import OptimizerConfig

        source = {"init_from": str(self.folder / HUGGING_FACE)}
        precision = {"f32": "float32", "bf16": "bfloat16"}.get(variant, variant)
        config = model.Config(**self._keys(model.Config.model_fields, predict_precision=precision, **source))
        run = RunConfig(**self._keys(RunConfig.model_fields))
        asked = model.Params(config, OptimizerConfig(), 1)
        devices = [device or jax.devices()[0]]
        return Estimator(model.model_fn, asked, run, devices=devices).predictor(end_of_text=None)

    def generate(self, variant: str, batch: int) -> dict[str, Any]:
        from models.gpt2.decode.sampler import Settings

        settings = Settings(temperature=0.0)
        start = time.perf_counter()
        first, rows = None, [[] for _ in range(batch)]
        prompts = self.prompts(batch).tolist()
        for chunk in self.ready[variant].stream(prompts, settings=settings, length=self.length, seed=0, stopped=set()):
            first = first or time.perf_counter() - start
            for row, new in zip(rows, chunk, strict=True):
                row.extend(new)
        assert {len(row) for row in rows} == {self.length}
        return {"seconds": time.perf_counter() - start, "first": first, "tokens": rows[0]}

    def bandwidth(self, size: int) -> float:
        import jax
        import jax.numpy as jnp

        x = jnp.ones((size // 4096, 1024), jnp.float32)
        read = jax.jit(lambda x: x.max())
        return size / _workers.best(lambda: read(x).block_until_ready())

    def memory(self) -> int:
        import jax

        stats = jax.devices()[0].memory_stats() or {}
        return stats.get("peak_bytes_in_use", 0) or _workers.peak_resident()


class Transformers(Side):
    """generate() of transformers; a variant is "bf16 static": the type and the cache."""

    def _device(self) -> str:
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    def variants(self) -> list[str]:
        return ["f32 dynamic", "bf16 dynamic", "f32 static", "bf16 static"]

    def load(self, variant: str) -> Any:
        import torch
        from transformers import GPT2LMHeadModel

        dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[variant.split()[0]]
        model: Any = GPT2LMHeadModel.from_pretrained(self.folder / HUGGING_FACE, dtype=dtype)
        return model.eval().to(self._device())

    def generate(self, variant: str, batch: int) -> dict[str, Any]:
        import torch

        model, prompts = self.ready[variant], torch.from_numpy(self.prompts(batch)).long().to(self._device())
        options: dict[str, Any] = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        if variant.endswith("static"):
            options["cache_implementation"] = "static"

        def seconds(length: int) -> tuple[float, Any]:
            start = time.perf_counter()
            with torch.inference_mode():
                mask = torch.ones_like(prompts)
                out = model.generate(prompts, attention_mask=mask, max_new_tokens=length, **options)
            tokens = out[:, self.prompt :].cpu()
            assert tokens.shape == (len(prompts), length)
            return time.perf_counter() - start, tokens

        first = seconds(1)[0]
        whole, tokens = seconds(self.length)
        return {"seconds": whole, "first": first, "tokens": tokens[0].tolist()}

    def bandwidth(self, size: int) -> float:
        import torch

        x = torch.ones(size // 4, device=self._device())
        return size / _workers.best(lambda: float(x.max()))

    def memory(self) -> int:
        import torch

        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _workers.peak_resident()


class LlamaCpp(Side):
    """llama.cpp through llama-cpp-python; a variant is the type of the matrices in our GGUF export."""

    def variants(self) -> list[str]:
        return list(self.more["gguf"])

    def load(self, variant: str) -> Any:
        import llama_cpp

        path = str(self.folder / f"{variant}.gguf")
        layers = -1 if llama_cpp.llama_supports_gpu_offload() else 0
        threads = _workers.cores()
        return llama_cpp.Llama(path, n_ctx=self.n_ctx, n_threads=threads, n_gpu_layers=layers, verbose=False)

    def generate(self, variant: str, batch: int) -> dict[str, Any]:
        if batch > 1:
            raise ValueError("its Python interface generates one row at a time")
        model, tokens, first = self.ready[variant], [], None
        model.reset()  # it would find the prompt in its cache, which the other sides compute
        start = time.perf_counter()
        for token in model.generate(self.prompts(1)[0].tolist(), temp=0.0, top_k=1, repeat_penalty=1.0, reset=True):
            first = first or time.perf_counter() - start
            tokens.append(token)
            if len(tokens) == self.length:
                break
        return {"seconds": time.perf_counter() - start, "first": first, "tokens": tokens}

    def memory(self) -> int:
        return _workers.peak_resident()


SIDES = {"ours": Ours, "transformers": Transformers, "llama.cpp": LlamaCpp}

if __name__ == "__main__":
    _workers.serve(SIDES[sys.argv[1]](**json.loads(sys.argv[2])))
