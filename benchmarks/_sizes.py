"""The models that are measured, and tokens to feed them with."""

from typing import Any, NamedTuple

import numpy as np


class Size(NamedTuple):
    """A GPT-2. cpu, gpu: (sequences, tokens of each) of a training step there."""

    n_layer: int
    n_embd: int
    n_head: int
    n_vocab: int
    cpu: tuple[int, int]
    gpu: tuple[int, int]

    @property
    def padded_vocab(self) -> int:
        return -(-self.n_vocab // 64) * 64

    def flops_per_token(self, n_ctx: int) -> float:
        """Of a training step, attention in full: 6 N + 12 L D T (Chowdhery et al. 2022, appendix B)."""
        matrices = 12 * self.n_layer * self.n_embd**2 + self.padded_vocab * self.n_embd
        return 6 * matrices + 12 * self.n_layer * self.n_embd * n_ctx


SIZES = {
    "tiny": Size(1, 32, 2, 512, (2, 16), (2, 16)),
    "small": Size(6, 384, 6, 8192, (8, 256), (64, 256)),
    "124M": Size(12, 768, 12, 50257, (4, 256), (64, 1024)),
    "355M": Size(24, 1024, 16, 50257, (2, 256), (32, 1024)),
    "774M": Size(36, 1280, 20, 50257, (1, 256), (16, 1024)),
    "1558M": Size(48, 1600, 25, 50257, (1, 256), (8, 1024)),
}


def values(size: Size, *, n_ctx: int, batch: int, folder: str = "unused", **changes: Any) -> dict[str, Any]:
    """The keys of a JSON file that trains it as GPT-2 is trained for speed: AdamW, clipping, no dropout."""
    sizes = {"n_layer": size.n_layer, "n_embd": size.n_embd, "n_head": size.n_head, "n_vocab": size.n_vocab}
    keys: dict[str, Any] = {"model": "GPT2", "n_ctx": n_ctx, "train_batch_size": batch, "model_path": folder, **sizes}
    keys |= {"embed_dropout": 0.0, "attn_dropout": 0.0, "res_dropout": 0.0, "scale_by_in": False}
    keys |= {"opt_name": "adam", "lr": 3e-4, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1, "grad_clip": 1.0}
    return keys | {"max_steps": 1_000_000} | changes


def tokens(step: int, *, batch: int, n_ctx: int, n_vocab: int) -> np.ndarray:
    """int32 [batch, n_ctx + 1]: ids that come about as often as words do (Zipf), the same for every side; eight batches
    in turn."""
    draw = np.random.default_rng(step % 8)
    return np.exp(draw.uniform(0, np.log(n_vocab), (batch, n_ctx + 1))).astype(np.int32) % n_vocab
