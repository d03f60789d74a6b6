#!/usr/bin/env bash
# google-metrax 0.2.4: the perplexity of two batches is 1.49, and of the same two rows in one batch 1.78, if one is
#   padded.
#
# Expected: the formula of the docstring, exp of the weighted sum of negative log-probabilities by the sum of the
#   weights, however the tokens come in batches: merge is there to give the result of all.
# Observed: a batch is reduced to its mean, and merge weighs the means by the number of rows. A row with one token
#   that counts and a row with four tokens that count are worth the same, as soon as they come in different batches.
#   The value depends on the size of the batches and on the order of the rows. Without padding it is right.
# Why it matters: the weights are how padding is left out. The last batch of a test set, and short documents, get more
#   weight than they have, and the perplexity of one GPT-2 changes with the batch size of its evaluation.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q google-metrax==0.2.4 clu==0.0.12 flax==0.12.8 \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import math
from importlib.metadata import version

import jax.numpy as jnp
from metrax import Perplexity

print({name: version(name) for name in ("google-metrax", "jax")})
PROBABILITIES = [0.5, 0.9]  # of the right token, all along the first and the second row


def perplexity(rows: list[int], weights: list[list[float]]) -> Perplexity:
    """The metric of one batch with these rows."""
    right = jnp.array([[PROBABILITIES[row]] * 4 for row in rows])
    logits = jnp.log(jnp.stack([right, 1 - right], axis=-1))
    return Perplexity.from_model_output(logits, jnp.zeros((len(rows), 4), int), jnp.array(weights), from_logits=True)


for weights in ([[1.0, 1, 1, 1], [1.0, 0, 0, 0]], [[1.0, 1, 1, 1], [1.0, 1, 1, 1]]):
    loss = -sum(math.log(p) * sum(each) for p, each in zip(PROBABILITIES, weights, strict=True))
    right = math.exp(loss / sum(map(sum, weights)))
    together = float(perplexity([0, 1], weights).compute())
    merged = float(perplexity([0], weights[:1]).merge(perplexity([1], weights[1:])).compute())
    print(f"weights {weights}: right {right:.4f}, one batch {together:.4f}, two batches {merged:.4f}")
    assert abs(together - right) < 1e-4
    if weights[1][3]:
        assert abs(merged - right) < 1e-4
    else:
        assert right > 1.77 and merged < 1.5, "the behavior has changed"
PY
