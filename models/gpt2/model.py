"""GPT-2 (Radford et al. 2019): forward pass, loss and scores.

Pre-layer-norm blocks, learned positions, tanh-approximated GELU unless `activation` names another function, output
tied to the token embedding unless `untied_head` is set. If `n_hidden` differs from `n_embd`, projections lead into and
out of the blocks. Parameters are float32; `precision` chooses the compute dtype of matrix products. Softmax, layer-norm
statistics and loss are always float32.

Letters of the shapes: B batch, T tokens, S cache slots, L layers, E embedding width, D width, C = 3 (query, key,
value), H heads, K head width, F feed-forward width, V vocabulary (padded).
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from estimator.parallel.mesh import constrain
from models.gpt2 import cpu_kernels, layers
from models.gpt2.attention import blockwise, flash_tpu, reference
from models.gpt2.attention.select_backend import Implementation
from models.gpt2.config import GPT2Config
from models.gpt2.config import parameters as parameters
from models.gpt2.decode.kv_cache import Cache, cache_dtype, cached_attention, extended
from models.gpt2.decode.quantized import packed_gelu_dense
from models.gpt2.layers import dropped
from models.gpt2.ops import ACTIVATIONS, EPSILON, layer_norm, nll, scores


def compute_dtype(config: GPT2Config) -> Any:
    """The dtype of matrix products."""
    assert config.precision != "auto", "the model_fn knows the device"
    return getattr(jnp, config.precision)


def unstack(stacked: dict[str, Any], n_layer: int) -> list[dict[str, Any]]:
    """Splits stacked layers into a list. Uses `lax.split`, because the gradient of indexing is a zero-filled stack."""
    leaves, tree = jax.tree.flatten(stacked)
    parts = zip(*(jax.lax.split(leaf, (1,) * n_layer) for leaf in leaves), strict=True)
    return [jax.tree.unflatten(tree, [leaf[0] for leaf in layer]) for layer in parts]


def cast(params: dict[str, Any], config: GPT2Config) -> dict[str, Any]:
    """Casts the weight matrices, those named "w", to the compute dtype.

    Vectors and embeddings stay float32 until they are used, because their gradients are sums over all tokens, which
    bfloat16 would round away.
    """
    dtype = compute_dtype(config)

    def convert(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if path[-1].key == "w" else leaf

    return jax.tree_util.tree_map_with_path(convert, params)


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
    """Returns final hidden states [B, T, E] and the cache extended by these tokens' keys and values.

    params: as `cast` or the `Sampler` makes them; `params["h"]` stacked, or a list (needed with a cache).
    cache: keys and values of earlier tokens, each row with its own length; or the number of positions of a new cache.
    segments_BT: int32, nondecreasing in each row; each segment is computed independently.
    key: PRNG key of the dropouts; None disables them.
    """
    n_tokens = tokens_BT.shape[1]
    positions_BT = cache.length[:, None] + jnp.arange(n_tokens) if isinstance(cache, Cache) else None
    places_BT = positions_BT if segments_BT is None else _places(segments_BT)
    wpe = params["wpe"][:n_tokens] if places_BT is None else params["wpe"][places_BT]
    embed_key, layers_key = (None, None) if key is None else jax.random.split(key)
    wte = params["wte"]  # its rows are replicated before the lookup; packed for generation, it is whole already
    wte = constrain(wte, "vocab", None) if isinstance(wte, jax.Array) else wte
    with jax.named_scope("embedding"):
        x_BTD = constrain((wte[tokens_BT] + wpe).astype(compute_dtype(config)), "batch", None, None)
    x_BTD = dropped(x_BTD, config.embed_dropout, embed_key)
    implementation = _possible(implementation)
    native = implementation == "native"
    linear = layers.native_linear if native else layers.linear
    if "in_proj" in params:
        x_BTD = constrain(linear("bte,ed->btd", x_BTD, params["in_proj"]), "batch", None, None)

    blocks = params["h"]
    layer_keys = None if layers_key is None else jax.random.split(layers_key, config.n_layer)
    attend = partial(attention, implementation=implementation, segments_BT=segments_BT)
    is_native_norm = native and config.layer_norm_epsilon == EPSILON
    norm = cpu_kernels.layer_norm if is_native_norm else partial(layer_norm, epsilon=config.layer_norm_epsilon)
    activate = cpu_kernels.gelu if native and config.activation == "gelu_new" else ACTIVATIONS[config.activation]
    scales = _query_scales(config)
    if isinstance(cache, Cache) and positions_BT is not None:
        attend = partial(cached_attention, slots_B=cache.slots, positions_BT=positions_BT, is_prompt=native)
    attend, norm = jax.named_scope("attention")(attend), jax.named_scope("normalization")(norm)  # for profiles
    normed, activated = partial(layers.normed_dense, norm), partial(layers.activated_dense, activate)
    if activate is cpu_kernels.gelu:
        activated = layers.native_gelu_dense if cache is None else packed_gelu_dense
    if cache is None:
        normed = layers.native_normed_dense if is_native_norm else normed
    dtype = compute_dtype(config) if cache is None else cache_dtype(config.precision, config.predict_precision)
    step = partial(_block, config=config, dtype=dtype, attend=attend, normed=normed, activated=activated, linear=linear)
    if cache is None:

        def layer_step(x_BTD, inputs):
            layer, layer_key, query_scale = inputs
            return step(x_BTD, layer, None, key=layer_key, query_scale=query_scale)[0], None

        layer_step = _rematerialized(layer_step, config)
        if _is_scanned(config) and isinstance(blocks, dict):
            x_BTD, _ = jax.lax.scan(layer_step, x_BTD, (blocks, layer_keys, scales))
        else:
            layer_step = jax.jit(layer_step, inline=True)  # is traced once, not for each layer; the program is the same
            for i, layer in enumerate(unstack(blocks, config.n_layer) if isinstance(blocks, dict) else blocks):
                inputs = layer, *(None if part is None else part[i] for part in (layer_keys, scales))
                x_BTD, _ = layer_step(x_BTD, inputs)
    else:
        earlier = zip(cache.k, cache.v, strict=True) if isinstance(cache, Cache) else [None] * config.n_layer
        kept = []
        for i, (layer, part) in enumerate(zip(blocks, earlier, strict=True)):
            x_BTD, part = step(x_BTD, layer, part, key=None, query_scale=None if scales is None else scales[i])
            kept.append(part)
        cache = extended(cache, kept, n_tokens)
    x_BTD = norm(x_BTD, **params["ln_f"])
    return linear("btd,de->bte", x_BTD, params["out_proj"]) if "out_proj" in params else x_BTD, cache


def attention(
    q_BTHK: jax.Array,
    k_BTHK: jax.Array,
    v_BTHK: jax.Array,
    *,
    implementation: Implementation,
    segments_BT: jax.Array | None = None,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(K)) v, each query seeing the keys up to its own position. Returns [B, T, H, K].

    segments_BT: int32 segment ids; tokens attend only within their segment.
    dropout: rate on the attention weights, applied if a key is given.
    """
    if implementation == "cudnn":
        mask = None if segments_BT is None else (segments_BT[:, :, None] == segments_BT[:, None])[:, None]
        return jax.nn.dot_product_attention(q_BTHK, k_BTHK, v_BTHK, mask=mask, is_causal=True, implementation="cudnn")
    if implementation == "flash":
        return flash_tpu.attention(q_BTHK, k_BTHK, v_BTHK, segments_BT)
    programs = {"reference": reference.attention, "blocked": blockwise.attention, "native": cpu_kernels.attention}
    return programs[implementation](q_BTHK, k_BTHK, v_BTHK, segments_BT=segments_BT, dropout=dropout, key=key)


def _possible(implementation: Implementation) -> Implementation:
    """Replaces "native" on a mesh of several devices, because XLA cannot partition custom calls."""
    divided = not jax.sharding.get_abstract_mesh().empty
    return "blocked" if implementation == "native" and divided else implementation


def _query_scales(config: GPT2Config) -> jax.Array | None:
    """Factor on each layer's queries before attention, which divides by sqrt(K), float32 [L]; None for 1."""
    if config.scale_attn_weights and not config.scale_attn_by_inverse_layer_idx:
        return None
    scale = 1.0 if config.scale_attn_weights else math.sqrt(config.head_width)
    divisors = range(1, config.n_layer + 1) if config.scale_attn_by_inverse_layer_idx else [1] * config.n_layer
    return jnp.asarray([scale / divisor for divisor in divisors], jnp.float32)


def _is_scanned(config: GPT2Config) -> bool:
    """Whether to scan over layers: unrolled ones run faster but compile longer, and on some devices XLA undoes their
    rematerialization."""
    return config.n_layer > 24 or config.remat != "none" if config.scan_layers is None else config.scan_layers


def _places(segments_BT: jax.Array) -> jax.Array:
    """Position of each token within its segment, int32 [B, T]."""
    t = jnp.arange(segments_BT.shape[1])
    begins_BT = jnp.where(segments_BT != jnp.roll(segments_BT, 1, axis=1), t, 0)
    return t - jax.lax.cummax(begins_BT, axis=1)


def _block(x_BTD, layer, earlier, *, config: GPT2Config, dtype, attend, normed, activated, linear, key, query_scale):
    """x + attention(ln_1(x)), then + mlp(ln_2(.)); `earlier` are this layer's keys and values of earlier tokens.

    dtype: of queries, keys and values. query_scale: factor on the queries; None is 1.
    """
    attn_key, res_key, mlp_key = (None, None, None) if key is None else jax.random.split(key, 3)
    attn, mlp = layer["attn"], layer["mlp"]

    qkv_BTCHK = normed("btd,dchk->btchk", x_BTD, layer["ln_1"], attn["c_attn"]).astype(dtype)
    parts = jax.lax.split(qkv_BTCHK, (1, 1, 1), 2)
    q, k, v = (constrain(part[:, :, 0], "batch", None, "heads", None) for part in parts)
    if query_scale is not None:
        q = (q * query_scale).astype(q.dtype)
    if earlier is None:
        a_BTHK = attend(q, k, v, dropout=config.attn_dropout, key=attn_key)
    else:
        a_BTHK, k, v = attend(q, k, v, *earlier)
    a_BTD = linear("bthk,hkd->btd", a_BTHK.astype(x_BTD.dtype), attn["c_proj"])
    x_BTD = constrain(x_BTD + dropped(a_BTD, config.res_dropout, res_key), "batch", None, None)

    h_BTF = constrain(normed("btd,df->btf", x_BTD, layer["ln_2"], mlp["c_fc"]), "batch", None, "mlp")
    m_BTD = activated("btf,fd->btd", h_BTF, mlp["c_proj"])
    return constrain(x_BTD + dropped(m_BTD, config.res_dropout, mlp_key), "batch", None, None), (k, v)


def _rematerialized(function, config: GPT2Config):
    if config.remat == "none":
        return function
    policy = jax.checkpoint_policies.save_only_these_names(layers.DENSE) if config.remat == "dots" else None
    # Inside a scan nothing can be merged with the forward pass; outside, it must be prevented.
    return jax.checkpoint(function, policy=policy, prevent_cse=not _is_scanned(config))


def logits(params: dict[str, Any], hidden: jax.Array, *, config: GPT2Config) -> jax.Array:
    """Logits of the next token, float32 [..., V]; -inf for padding ids."""
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

    batch: "tokens" int32 [B, T + 1] (token t + 1 is the target of position t); optional "weights" [B, T], and
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
    loss_of = cpu_kernels.nll if _possible(implementation) == "native" else nll
    loss_of = jax.named_scope("cross_entropy")(loss_of)
    nll_BT = loss_of(hidden_BTD, params.get("lm_head", params["wte"]), targets_BT, config.n_vocab)
    weights_BT = batch.get("weights", jnp.ones_like(nll_BT))
    if segments is not None:
        weights_BT = weights_BT * (segments[:, 1:] == segments[:, :-1])
    return (nll_BT * weights_BT).sum(), weights_BT.sum()
