"""The log-likelihood of given tokens, for tasks and for `--score`.

Letters of the shapes: B batch, T tokens, K targets, D width, V vocabulary (padded).
"""

from typing import Any

import jax
import jax.numpy as jnp

from estimator.parallel.mesh import constrain
from models.gpt2.attention.select_backend import Implementation
from models.gpt2.config import GPT2Config
from models.gpt2.model import cast, forward, logits


def score(
    params: dict[str, Any],
    batch: dict[str, jax.Array],
    *,
    config: GPT2Config,
    implementation: Implementation = "reference",
) -> tuple[jax.Array, jax.Array]:
    """(log-likelihood of each target in nats, whether it is the likeliest token): float32 and bool [B, K].

    batch: "tokens" int32 [B, T]; "targets" int32 [B, K], the tokens that follow position "first" int32 [B] and the
    next ones (only these positions reach the output matrix); optional "segments" int32 [B, T], see `forward`.
    """
    params, targets_BK = cast(params, config), batch["targets"]
    options = {"config": config, "implementation": implementation, "segments_BT": batch.get("segments")}
    hidden_BTD, _ = forward(params, batch["tokens"], **options)
    places_BK = jnp.minimum(batch["first"][:, None] + jnp.arange(targets_BK.shape[1]), hidden_BTD.shape[1] - 1)
    hidden_BKD = jnp.take_along_axis(hidden_BTD, places_BK[..., None], axis=1)
    scores_BKV = constrain(logits(params, hidden_BKD, config=config), "batch", None, "vocab")
    chosen_BK1 = jnp.take_along_axis(scores_BKV, targets_BK[..., None], axis=-1)
    # Of equal scores the first one counts, as for argmax, which is slow on CPUs.
    is_earlier = jnp.arange(scores_BKV.shape[-1]) < targets_BK[..., None]
    is_ahead = (scores_BKV > chosen_BK1) | ((scores_BKV == chosen_BK1) & is_earlier)
    return chosen_BK1[..., 0] - jax.nn.logsumexp(scores_BKV, axis=-1), ~is_ahead.any(axis=-1)
