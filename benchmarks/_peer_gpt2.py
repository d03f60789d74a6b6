"""The peer of the training benchmarks: GPT-2 in PyTorch, as one who knows PyTorch would write it for speed.

Pre-layer-norm blocks, GELU by its tanh approximation, learned positions, biases everywhere, the output tied to the
embedding, the vocabulary padded to a multiple of 64. Attention is `scaled_dot_product_attention`, the optimizer fused
AdamW, and torch.compile and autocast come from the caller.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks._sizes import Size


class Block(nn.Module):
    def __init__(self, width: int, heads: int, layers: int):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for linear in (self.qkv, self.up, self.out, self.down):
            residual = linear in (self.out, self.down)
            nn.init.normal_(linear.weight, std=0.02 / (2 * layers) ** 0.5 if residual else 0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        parts = self.qkv(self.norm_1(x)).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.gelu(self.up(self.norm_2(x)), approximate="tanh"))


class GPT2(nn.Module):
    def __init__(self, size: Size, n_ctx: int):
        super().__init__()
        self.tokens = nn.Embedding(size.padded_vocab, size.n_embd)
        self.positions = nn.Embedding(n_ctx, size.n_embd)
        self.blocks = nn.ModuleList(Block(size.n_embd, size.n_head, size.n_layer) for _ in range(size.n_layer))
        self.norm = nn.LayerNorm(size.n_embd)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.01)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean negative log-likelihood of the targets, in nats; tokens and targets are [batch, length]."""
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = functional.linear(self.norm(x), self.tokens.weight)
        return functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def attention(backend: str | None) -> Any:
    """The context in which attention is computed by this backend alone."""
    if backend is None:
        return contextlib.nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel([{"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}[backend]])


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """Decay for matrices only, as ours has it."""
    decayed = [value for value in model.parameters() if value.dim() > 1]
    others = [value for value in model.parameters() if value.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)


def training_step(
    model: nn.Module,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    *,
    dtype: torch.dtype,
    backend: str | None = None,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function tokens [batch, length + 1] -> loss (not waited for) of one step: forward, backward, clip, AdamW.

    loss: (tokens, targets) -> mean; the model itself or its compiled form.
    """
    optimizer = adamw(model)
    parameters = list(model.parameters())
    kind = parameters[0].device.type

    def step(tokens: torch.Tensor) -> torch.Tensor:
        with attention(backend), torch.autocast(kind, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            value = loss(tokens[:, :-1], tokens[:, 1:])
        with attention(backend):
            value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value.detach()

    return step
