#!/usr/bin/env bash
# google-metrax 0.2.4: AUCROC of a perfect classifier is 0.5 if its probabilities are below 0.005 or close to each
#   other.
#
# Expected: the area depends on the order of the scores alone, "across all possible classification thresholds", as the
#   docstring says. sklearn 1.9.1 gives 1.0 for each of these.
# Observed: scores are compared with 200 thresholds from 0 to 1 (num_thresholds), 0.005 apart. Scores between two of
#   them are ties: all below 0.005 or above 0.995 are one. AUCPR is then the share of positives. Nothing is reported.
# Why it matters: rare events, and the probabilities that a language model gives to an answer, to a next token, or to
#   "this is machine text", are often below 0.005. The detector looks like a coin.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q google-metrax==0.2.4 clu==0.0.12 flax==0.12.8 \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 scikit-learn==1.9.1
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import jax.numpy as jnp
from metrax import AUCPR, AUCROC
from sklearn.metrics import average_precision_score, roc_auc_score

print({name: version(name) for name in ("google-metrax", "jax", "scikit-learn")})
LABELS = [0, 0, 0, 1]
for scores in ([0.1, 0.2, 0.3, 0.9], [0.0001, 0.0002, 0.0003, 0.004], [0.503, 0.504, 0.505, 0.506]):
    roc, precision = (
        float(metric.from_model_output(jnp.array(scores), jnp.array(LABELS)).compute()) for metric in (AUCROC, AUCPR)
    )
    print(f"{scores}: metrax {roc:.3f} and {precision:.3f}, sklearn {roc_auc_score(LABELS, scores):.3f} and "
          f"{average_precision_score(LABELS, scores):.3f}")
    assert roc_auc_score(LABELS, scores) == average_precision_score(LABELS, scores) == 1
    expected = (1, 1) if scores[3] == 0.9 else (0.5, 0.25)
    assert abs(roc - expected[0]) < 1e-4 and abs(precision - expected[1]) < 1e-2, "the behavior has changed"
PY
