#!/usr/bin/env bash
# torchmetrics 1.9.0: the perplexity of float16 logits is inf, where cross_entropy of the same logits gives 16.9.
#
# Expected: Perplexity takes logits and "normalizes internally using softmax". float16 has room for logits and for their
#   losses, so the result is that of exp(cross_entropy) within the rounding of the logits. Half precision is supported
#   since 2023 (Lightning-AI/torchmetrics#2224).
# Observed: it takes the logarithm of the rounded probability. In float16 a probability below 3e-8 is 0, and one such
#   token, of 17.4 nats, among all batches of an evaluation makes the result inf. In float32 the same happens at 104
#   nats, where the model is sure and wrong. Converting the logits to float32 before update() is right; the metric's
#   own set_dtype changes nothing. The documentation has no word on precision.
# Why it matters: a GPT-2 that is evaluated in float16, or under autocast, returns such logits, and tokens of 17 nats are
#   in every page of web text: typing errors, names, broken encodings. The number looks like a diverged model.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q torchmetrics==1.9.0 torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PY'
import math

import torch
import torch.nn.functional as F
import torchmetrics
from torchmetrics.text import Perplexity

print("torchmetrics", torchmetrics.__version__, "torch", torch.__version__.split("+")[0])
VOCABULARY, TOKENS = 50_257, 1024


def perplexity(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """The metric over one batch."""
    metric = Perplexity()
    metric.update(logits[None], targets[None])
    return float(metric.compute())


torch.manual_seed(0)
logits = torch.randn(TOKENS, VOCABULARY)
targets = torch.randint(VOCABULARY, (TOKENS,))
logits[torch.arange(TOKENS), targets] += 9 + 2.5 * torch.randn(TOKENS)  # losses like those of text
rare = logits.clone()
rare[0, targets[0]] = logits[0].logsumexp(0) - 18  # one token of 18 nats
found = {}
for name, values in {"usual tokens": logits, "one of 18 nats": rare}.items():
    for dtype in (torch.float32, torch.float16):
        rounded = values.to(dtype)
        right = math.exp(F.cross_entropy(rounded.float(), targets))
        found[name, dtype] = perplexity(rounded, targets), right
        print(f"{name}, {dtype}: {found[name, dtype][0]:.3f}, exp of cross_entropy {right:.3f}")
        assert math.isfinite(right) and abs(perplexity(rounded.float(), targets) - right) < 1e-3 * right
assert math.isclose(*found["usual tokens", torch.float16], rel_tol=1e-2)
assert found["one of 18 nats", torch.float16][0] == math.inf, "the behavior has changed"
half = Perplexity().set_dtype(torch.float32)
half.update(rare.half()[None], targets[None])
assert float(half.compute()) == math.inf, "the behavior has changed"

certain = torch.zeros(1000, 10)
certain[:, 0] = 50
certain[0, 0] = 120
right = math.exp(F.cross_entropy(certain, torch.tensor([1] + [0] * 999)))
result = perplexity(certain, torch.tensor([1] + [0] * 999))
print(f"float32, one token of 1,000 at 120 nats: {result}, exp of cross_entropy {right:.3f}")
assert result == math.inf and right < 1.2, "the behavior has changed"
PY
