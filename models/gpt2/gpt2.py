"""GPT-2 (Radford et al. 2019): its keys, parameters, forward pass and loss.

Pre-layer-norm blocks, learned positions, GELU by its tanh approximation, output tied to the token embedding unless
`untied_head` is set. Where `n_hidden` differs from `n_embd`, projections lead into the blocks and out of them.
Parameters are float32; `precision` chooses what they are multiplied in. Softmax, layer norm statistics and loss
are always float32.

Letters of the shapes: B batch, T tokens, S cache slots, L layers, E embedding width, D width, C = 3 (query, key,
value), H heads, K head width, F feed-forward width, V vocabulary (padded).
"""

import math
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from pydantic import Field, model_validator

from models.gpt2 import kernels
from models.gpt2.attention import Implementation, attention, possible
from models.gpt2.cache import Cache, cached, extended, put
from models.gpt2.dropout import dropped
from models.gpt2.few_rows import RowMatrix
from models.gpt2.operations import DENSE, dense, gelu, layer_norm, nll, scores
from runtime.config import Problem, Section
from runtime.mesh import split
from runtime.params import LAYER, ParamSpec, map_specs

VOCAB_MULTIPLE = 64  # 50257 -> 50304: matrix units want whole tiles


class GPT2Config(Section):
    """Model."""

    model: Literal["GPT2"] = Field("GPT2", description="which entry of `models.MODELS`")
    n_ctx: int = Field(1024, gt=0, description="context length in tokens")
    n_vocab: int = Field(50257, gt=0, description="number of token ids")
    n_embd: int = Field(gt=0, description="width of the embeddings and, without n_hidden, of the blocks")
    n_layer: int = Field(gt=0, description="number of blocks")
    n_head: int | None = Field(None, gt=0, description="attention heads, which divide the blocks' width; null: it / 64")
    n_inner: int | None = Field(None, gt=0, description="width of the feed-forward layer; null is 4 times the blocks'")
    n_hidden: int | None = Field(
        None, gt=0, description="width of the blocks, projected to and from if it is not n_embd; null is n_embd"
    )
    untied_head: bool = Field(False, description="an output matrix of its own; false: the token embedding is used")
    embed_dropout: float = Field(0.1, ge=0, lt=1, description="dropout of the summed embeddings")
    attn_dropout: float = Field(0.1, ge=0, lt=1, description="dropout of the attention weights")
    res_dropout: float = Field(0.1, ge=0, lt=1, description="dropout of what each half of a block adds")
    noise: float = Field(0.0, ge=0, lt=1, description="share of training's input tokens replaced by random ones")
    scale_by_depth: bool = Field(True, description="initialise both residual projections 1/sqrt(2 n_layer) smaller")
    scale_by_in: bool = Field(True, description="initialise dense weights 1/sqrt(inputs) smaller (the seed's; hurts)")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "float32",
        description="type of the matrix products, auto: bfloat16 where it is faster; parameters and optimizer state"
        " stay float32",
    )
    predict_precision: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto", description="type of the weights while generating, int8 on CPUs only; auto: that of precision"
    )
    attention: Literal["auto", "reference", "blocked", "native", "cudnn", "flash"] = Field(
        "auto", description="attention program; auto takes the fastest that can run here and says which"
    )
    remat: Literal["none", "dots", "full"] = Field(
        "none", description="what the backward pass recomputes to save memory: nothing, all but matrix products, all"
    )
    scan_layers: bool | None = Field(
        None, description="one compiled block looped over (true) or each compiled (false: faster steps); null: by depth"
    )

    @model_validator(mode="after")
    def _check(self) -> "GPT2Config":
        name, width = "n_hidden" if self.n_hidden else "n_embd", self.width
        if self.n_head is None and width % 64:
            raise Problem("n_head", f"missing, and {name} {width} is not a multiple of 64; write n_head")
        if width % self.heads:
            divisors = [str(n) for n in range(1, width + 1) if width % n == 0 and n <= 64]
            raise Problem("n_head", f"{self.heads} does not divide {name} {width}; try {', '.join(divisors)}")
        return self

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

    @property
    def dtype(self) -> Any:
        assert self.precision != "auto", "the model_fn knows the device"
        return jnp.bfloat16 if self.precision == "bfloat16" else jnp.float32

    @property
    def scanned(self) -> bool:
        """Unrolled layers are faster, but compile longer, and XLA undoes their rematerialisation on some devices."""
        return self.n_layer > 24 or self.remat != "none" if self.scan_layers is None else self.scan_layers


def parameters(config: GPT2Config) -> dict[str, Any]:
    """The declaration of every parameter."""
    c, D, E, L = config, config.width, config.n_embd, config.n_layer
    residual = 1 / math.sqrt(2 * L) if c.scale_by_depth else 1.0

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


def unstack(layers: dict[str, Any], n_layer: int) -> list[dict[str, Any]]:
    """Stacked layers as a list of layers; by `split`, as the gradient of an index is a stack filled with zeros."""
    leaves, tree = jax.tree.flatten(layers)
    parts = zip(*(jax.lax.split(leaf, (1,) * n_layer) for leaf in leaves), strict=True)
    return [jax.tree.unflatten(tree, [leaf[0] for leaf in layer]) for layer in parts]


def cast(params: dict[str, Any], config: GPT2Config) -> dict[str, Any]:
    """Matrices of the layers, and around them, in the type of the products.

    Vectors stay float32, and so do the embeddings until they are used: their gradients are sums over all tokens, which
    bfloat16 would lose.
    """
    specs = parameters(config)

    def convert(spec: ParamSpec, leaf: jax.Array) -> jax.Array:
        return leaf.astype(config.dtype) if spec.rows else leaf

    names = [name for name in ("h", "in_proj", "out_proj") if name in specs]
    return {**params, **{name: map_specs(convert, specs[name], params[name]) for name in names}}


def forward(
    params: dict[str, Any],
    tokens_BT: jax.Array,
    *,
    config: GPT2Config,
    implementation: Implementation = "reference",
    cache: Cache | int | None = None,
    segments_BT: jax.Array | None = None,
    key: jax.Array | None = None,
) -> tuple[jax.Array, Cache | None]:
    """Final hidden states [B, T, E], and the cache with the tokens' keys and values appended.

    params: as `cast` gives them, or `sample.py` makes them; `params["h"]` stacked, or a list (needed with a cache).
    cache: what earlier tokens left, each row's at its own length; or the number of slots of a new one.
    segments_BT: int32, never decreasing in a row; each segment is computed as if it stood alone.
    key: of the dropouts; None is none.
    """
    n_tokens = tokens_BT.shape[1]
    positions_BT = cache.length[:, None] + jnp.arange(n_tokens) if isinstance(cache, Cache) else None
    places_BT = positions_BT if segments_BT is None else _places(segments_BT)
    wpe = params["wpe"][:n_tokens] if places_BT is None else params["wpe"][places_BT]
    embed_key, layers_key = (None, None) if key is None else jax.random.split(key)
    wte = split(params["wte"], "vocab", None)  # whole rows, before any is looked up
    x_BTD = split((wte[tokens_BT] + wpe).astype(config.dtype), "batch", None, None)
    x_BTD = dropped(x_BTD, config.embed_dropout, embed_key)
    if config.projected:
        x_BTD = split(_dense("bte,ed->btd", x_BTD, params["in_proj"]), "batch", None, None)

    layers = params["h"]
    layer_keys = None if layers_key is None else jax.random.split(layers_key, config.n_layer)
    implementation = possible(implementation)
    attend = partial(attention, implementation=implementation, segments_BT=segments_BT)
    norm, activate = (kernels.layer_norm, kernels.gelu) if implementation == "native" else (layer_norm, gelu)
    step = partial(_block, config=config, attend=attend, norm=norm, activate=activate, positions_BT=positions_BT)
    if cache is None:

        def layer_step(x_BTD, layer_and_key):
            layer, layer_key = layer_and_key
            return step(x_BTD, layer, None, key=layer_key)[0], None

        layer_step = _rematerialized(layer_step, config)
        if config.scanned and isinstance(layers, dict):
            x_BTD, _ = jax.lax.scan(layer_step, x_BTD, (layers, layer_keys))
        else:
            for i, layer in enumerate(unstack(layers, config.n_layer) if isinstance(layers, dict) else layers):
                x_BTD, _ = layer_step(x_BTD, (layer, None if layer_keys is None else layer_keys[i]))
    else:
        earlier = zip(cache.k, cache.v, strict=True) if isinstance(cache, Cache) else [None] * config.n_layer
        kept = []
        for layer, slots in zip(layers, earlier, strict=True):
            x_BTD, slots = step(x_BTD, layer, slots, key=None)
            kept.append(slots)
        cache = extended(cache, kept, n_tokens)
    x_BTD = norm(x_BTD, **params["ln_f"])
    return _dense("btd,de->bte", x_BTD, params["out_proj"]) if config.projected else x_BTD, cache


def _places(segments_BT: jax.Array) -> jax.Array:
    """int32 [B, T]: how far each token is from the first of its segment."""
    t = jnp.arange(segments_BT.shape[1])
    begins_BT = jnp.where(segments_BT != jnp.roll(segments_BT, 1, axis=1), t, 0)
    return t - jax.lax.cummax(begins_BT, axis=1)


def _block(x_BTD, layer, slots, *, config: GPT2Config, attend, norm, activate, positions_BT, key):
    """x + attention(ln_1(x)), then + mlp(ln_2(.)); `slots` are this layer's keys and values of earlier tokens."""
    attn_key, res_key, mlp_key = (None, None, None) if key is None else jax.random.split(key, 3)
    attn, mlp = layer["attn"], layer["mlp"]

    h_BTD = norm(x_BTD, **layer["ln_1"])
    qkv_BTCHK = _dense("btd,dchk->btchk", h_BTD, attn["c_attn"])
    q, k, v = (split(part[:, :, 0], "batch", None, "heads", None) for part in jax.lax.split(qkv_BTCHK, (1, 1, 1), 2))
    if slots is None:
        a_BTHK = attend(q, k, v, dropout=config.attn_dropout, key=attn_key)
    else:
        k, v = (put(slot, new, positions_BT) for slot, new in zip(slots, (k, v), strict=True))
        a_BTHK = cached(q, k, v, positions_BT=positions_BT)
    a_BTD = _dense("bthk,hkd->btd", a_BTHK, attn["c_proj"])
    x_BTD = split(x_BTD + dropped(a_BTD, config.res_dropout, res_key), "batch", None, None)

    h_BTD = norm(x_BTD, **layer["ln_2"])
    h_BTF = split(_dense("btd,df->btf", h_BTD, mlp["c_fc"]), "batch", None, "mlp")
    m_BTD = _dense("btf,fd->btd", activate(h_BTF), mlp["c_proj"])
    return split(x_BTD + dropped(m_BTD, config.res_dropout, mlp_key), "batch", None, None), (k, v)


def _dense(dims: str, x: jax.Array, weights: dict[str, Any]) -> jax.Array:
    w, b = weights["w"], weights["b"]
    return w.product(x) + b if isinstance(w, RowMatrix) else dense(dims, x, w, b)


def _rematerialized(function, config: GPT2Config):
    if config.remat == "none":
        return function
    policy = jax.checkpoint_policies.save_only_these_names(DENSE) if config.remat == "dots" else None
    # Inside a scan nothing can be merged with the forward pass; outside, it must be prevented.
    return jax.checkpoint(function, policy=policy, prevent_cse=not config.scanned)


def logits(params: dict[str, Any], hidden: jax.Array, *, config: GPT2Config) -> jax.Array:
    """Scores of the next token, float32 [..., V]; ids of the padding are -inf."""
    return scores(hidden, params.get("lm_head", params["wte"]), n_vocab=config.n_vocab)


def loss(
    params: dict[str, Any],
    batch: dict[str, jax.Array],
    key: jax.Array | None,
    *,
    config: GPT2Config,
    implementation: Implementation = "reference",
) -> tuple[jax.Array, jax.Array]:
    """(sum of the negative log-likelihoods in nats, sum of the weights) over the batch's targets.

    batch: "tokens" int32 [B, T + 1], token t + 1 being the target of position t; optional "weights" [B, T], and
    "segments" int32 [B, T + 1], see `forward`: the first token of a segment is no target.
    """
    inputs_BT, targets_BT = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
    if key is not None and config.noise:
        replaced_key, ids_key, key = jax.random.split(key, 3)
        random_BT = jax.random.randint(ids_key, inputs_BT.shape, 0, config.n_vocab, inputs_BT.dtype)
        inputs_BT = jnp.where(jax.random.bernoulli(replaced_key, config.noise, inputs_BT.shape), random_BT, inputs_BT)
    params = cast(params, config)
    segments = batch.get("segments")
    within = None if segments is None else segments[:, :-1]
    hidden_BTD, _ = forward(
        params, inputs_BT, config=config, implementation=implementation, segments_BT=within, key=key
    )
    loss_of = kernels.nll if possible(implementation) == "native" else nll
    nll_BT = loss_of(hidden_BTD, params.get("lm_head", params["wte"]), targets_BT, config.n_vocab)
    weights_BT = batch.get("weights", jnp.ones_like(nll_BT))
    if segments is not None:
        weights_BT = weights_BT * (segments[:, 1:] == segments[:, :-1])
    return (nll_BT * weights_BT).sum(), weights_BT.sum()
