"""GPT-2's keys of the JSON file, the sizes that follow from them, and its parameters."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from estimator.config import ConfigError, Section
from estimator.parallel.param_spec import LAYER, ParamSpec
from models.gpt2.ops import EPSILON, Activation

VOCAB_MULTIPLE = 64  # 50257 -> 50304: whole tiles of the matrix units


class GPT2Config(Section):
    """Model."""

    model: Literal["GPT2"] = Field("GPT2", description="name of the model, an entry of `models.MODELS`")
    n_ctx: int = Field(1024, gt=0, le=2**22, description="context length in tokens")
    n_vocab: int = Field(50257, gt=0, le=2**27, description="number of token ids")
    n_embd: int = Field(gt=0, le=2**20, description="embedding width and, unless n_hidden is set, width of the blocks")
    n_layer: int = Field(gt=0, le=10_000, description="number of blocks")
    n_head: int | None = Field(
        None, gt=0, le=2**20, description="attention heads; must divide the width of the blocks; null: width / 64"
    )
    n_inner: int | None = Field(
        None, gt=0, le=2**22, description="feed-forward width; null: 4 times the width of the blocks"
    )
    n_hidden: int | None = Field(
        None,
        gt=0,
        le=2**20,
        description="width of the blocks, with projections from and to n_embd if they differ; null: n_embd",
    )
    untied_head: bool = Field(False, description="separate output matrix; false ties it to the token embedding")
    activation: Activation = Field(
        "gelu_new", description="feed-forward activation; gelu_new is GPT-2's tanh approximation, gelu is exact"
    )
    layer_norm_epsilon: float = Field(EPSILON, gt=0, description="epsilon of layer normalization")
    scale_attn_weights: bool = Field(True, description="divide attention scores by the square root of the head width")
    scale_attn_by_inverse_layer_idx: bool = Field(
        False, description="also divide attention scores by the 1-based layer index"
    )
    embed_dropout: float = Field(0.1, ge=0, lt=1, description="dropout rate of the summed embeddings")
    attn_dropout: float = Field(0.1, ge=0, lt=1, description="dropout rate of the attention weights")
    res_dropout: float = Field(0.1, ge=0, lt=1, description="dropout rate of each residual branch")
    noise: float = Field(0.0, ge=0, lt=1, description="fraction of training input tokens replaced by random tokens")
    scale_by_depth: bool = Field(
        True, description="scale the initialization of both residual projections by 1/sqrt(2 n_layer)"
    )
    scale: float | None = Field(
        None,
        gt=0,
        description="factor on the initialization of both residual projections, as in files of mid-2019;"
        " null: by scale_by_depth",
    )
    scale_by_in: bool = Field(
        True, description="scale the initialization of dense weights by 1/sqrt(inputs), as ConnorJL/GPT2 (hurts)"
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "float32",
        description="dtype of matrix products; auto: bfloat16 where it is fast, float16 with dynamic loss scaling on"
        " GPUs without it, else float32; parameters and optimizer state stay float32",
    )
    predict_precision: Literal["auto", "float32", "bfloat16", "float16", "int8"] = Field(
        "auto", description="dtype of the weights for generation, int8 only on CPUs; auto: same as precision"
    )
    attention: Literal["auto", "reference", "blocked", "native", "cudnn", "flash"] = Field(
        "auto", description="attention implementation; auto selects the fastest that can run and reports it"
    )
    remat: Literal["none", "dots", "full"] = Field(
        "none",
        description="what the backward pass recomputes to save memory: nothing, all but matrix products, everything",
    )
    scan_layers: bool | None = Field(
        None,
        description="compile one block and loop over it (true) or unroll layers (false: faster steps); null: by depth",
    )

    def conflicts(self) -> Iterator[ConfigError]:
        name, width = "n_hidden" if self.n_hidden else "n_embd", self.width
        if self.n_head is None and width % 64:
            yield ConfigError("n_head", f"missing, and {name} {width} is not a multiple of 64; write n_head")
        elif width % self.heads:
            divisors = [str(n) for n in range(1, width + 1) if width % n == 0 and n <= 64]
            yield ConfigError("n_head", f"{self.heads} does not divide {name} {width}; try {', '.join(divisors)}")

    @property
    def width(self) -> int:
        return self.n_hidden or self.n_embd

    @property
    def projected(self) -> bool:
        return self.width != self.n_embd

    @property
    def heads(self) -> int:
        return self.n_head or self.width // 64

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def inner(self) -> int:
        return self.n_inner or 4 * self.width

    @property
    def padded_vocab(self) -> int:
        return math.ceil(self.n_vocab / VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def parameters(config: GPT2Config) -> dict[str, Any]:
    """Declares every parameter."""
    c, D, E, L = config, config.width, config.n_embd, config.n_layer
    residual = c.scale or (1 / math.sqrt(2 * L) if c.scale_by_depth else 1.0)

    def vector(*dims: tuple[str, int], mean: float = 0.0) -> ParamSpec:
        names, sizes = zip(*dims, strict=True)
        return ParamSpec(shape=(L, *sizes), axes=(LAYER, *names), mean=mean)

    def matrix(*dims: tuple[str, int], rows: int = 1, scale: float = 1.0) -> ParamSpec:
        names, sizes = zip(*dims, strict=True)
        std = 0.02 * scale / (math.sqrt(math.prod(sizes[:rows])) if c.scale_by_in else 1.0)
        return ParamSpec(shape=(L, *sizes), axes=(LAYER, *names), std=std, decay=True, rows=rows)

    def once(spec: ParamSpec) -> ParamSpec:  # and not in each layer
        return replace(spec, shape=spec.shape[1:], axes=spec.axes[1:])

    embed, mlp = ("embed", D), ("mlp", c.inner)
    qkv, heads, width = ("qkv", 3), ("heads", c.heads), ("head_width", c.head_width)
    norm = {"g": vector(embed, mean=1.0), "b": vector(embed)}
    V, outer = c.padded_vocab, ("outer", E)
    table = ParamSpec(shape=(V, E), used=(c.n_vocab, E), axes=("vocab", "embed"), std=0.02, decay=True, rows=1)
    specs = {
        "wte": table,
        "wpe": ParamSpec(shape=(c.n_ctx, E), axes=("position", "embed"), std=0.01, decay=True, rows=1),
        "h": {
            "ln_1": norm,
            "attn": {
                "c_attn": {"w": matrix(embed, qkv, heads, width), "b": vector(qkv, heads, width)},
                "c_proj": {"w": matrix(heads, width, embed, rows=2, scale=residual), "b": vector(embed)},
            },
            "ln_2": norm,
            "mlp": {
                "c_fc": {"w": matrix(embed, mlp), "b": vector(mlp)},
                "c_proj": {"w": matrix(mlp, embed, scale=residual), "b": vector(embed)},
            },
        },
        "ln_f": {name: once(spec) for name, spec in norm.items()},
    }
    if c.untied_head:
        specs["lm_head"] = table
    if c.projected:
        specs["in_proj"] = {"w": once(matrix(outer, embed)), "b": once(vector(embed))}
        specs["out_proj"] = {"w": once(matrix(embed, outer)), "b": once(vector(outer))}
    return specs
