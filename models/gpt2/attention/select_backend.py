"""Selects the attention implementation for a platform."""

from typing import Literal, NamedTuple

import jax.numpy as jnp

from estimator.errors import UserError
from models.gpt2 import cpu_kernels

Implementation = Literal["reference", "blocked", "native", "cudnn", "flash"]


class Choice(NamedTuple):
    """An attention implementation and the reason for it."""

    implementation: Implementation
    reason: str

    def __str__(self) -> str:
        return f"attention: {self.implementation} ({self.reason})"


def choose(requested: str, *, platform: str, dtype: jnp.dtype, head_width: int, n_ctx: int, dropout: float) -> Choice:
    """Resolves `requested` ("auto" or a name) on a platform ("cpu", "gpu", "tpu").

    "auto" selects the fastest that can run. Raises UserError if the named implementation cannot run.
    """
    fastest = {"cpu": "native", "gpu": "cudnn", "tpu": "flash"}.get(platform, "blocked")
    wanted: Implementation = fastest if requested == "auto" else requested  # type: ignore[assignment]
    match wanted:
        case "native":
            is_half = dtype == jnp.float16
            obstacle = 'has no precision "float16"' if is_half else cpu_kernels.obstacle(platform)
        case "cudnn":
            obstacle = _cudnn_obstacle(platform, dtype, head_width, n_ctx, dropout)
        case "flash":
            obstacle = _flash_obstacle(platform, n_ctx, dropout)
        case _:
            obstacle = None
    if requested == "auto":
        return Choice("blocked", f"{wanted} {obstacle}") if obstacle else Choice(wanted, f"fastest on {platform}")
    if obstacle:
        raise UserError(f'attention: "{requested}" {obstacle}; set attention to "auto"')
    return Choice(wanted, "asked for")


def _cudnn_obstacle(platform: str, dtype: jnp.dtype, head_width: int, n_ctx: int, dropout: float) -> str | None:
    if platform != "gpu":
        return f"needs an NVIDIA GPU, and this is {platform}"
    if dtype != jnp.bfloat16:
        return 'needs precision "bfloat16"'
    if head_width % 8 or head_width > 128:
        return f"needs a head width divisible by 8 and at most 128, and it is {head_width} (width of a block / n_head)"
    if n_ctx % 2:
        return f"needs an even n_ctx, and it is {n_ctx}"
    if dropout:
        return "has no attention dropout; attn_dropout 0 makes it possible"
    return None


def _flash_obstacle(platform: str, n_ctx: int, dropout: float) -> str | None:
    if platform != "tpu":
        return f"needs a TPU, and this is {platform}"
    if n_ctx % 128:
        return f"needs an n_ctx divisible by 128, and it is {n_ctx}"
    if dropout:
        return "has no attention dropout; attn_dropout 0 makes it possible"
    return None
