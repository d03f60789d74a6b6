#!/usr/bin/env bash
# JAX 0.10.1: jax.nn.dot_product_attention(last_query, keys, values, is_causal=True) looks at the first key only.
#
# Expected: one query with the keys of all tokens so far is a step of generation with a cache: the query is the last
#   token, and may look at every key. The documentation names the lengths T and S of queries and keys, lets them differ,
#   and says of is_causal "causal attention will be applied", with no word on which key belongs to which query.
# Observed: query i looks at the keys up to i counted from the start, so the result for one query is exactly the first
#   value, whatever the query; of two queries the second sees two keys. That is the mask of PyTorch's "upper left",
#   which says so; FlashAttention since 2.1 aligns to the lower right. No error and no warning. flax.nnx's function of
#   the same name does the same.
# Why it matters: a model whose forward pass takes is_causal=True is right in training and for the prompt, where T is S,
#   and generates from its first token only once keys are cached. The text is grammatical for a small model, and the
#   loss shows nothing. Leave is_causal out for one query, or pass a mask.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q jax==0.10.1 ml_dtypes==0.6.0 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import inspect

import jax
import numpy as np

print("jax", jax.__version__)
attention = jax.nn.dot_product_attention
words = inspect.getdoc(attention).split("is_causal:")[1].split("query_seq_lengths:")[0]
print("documentation of is_causal:", " ".join(words.split()))
assert not {"align", "aligned", "corner", "left", "upper", "top", "last"} & set(words.lower().split())
queries, keys, values = (jax.random.normal(key, (1, 6, 2, 4)) for key in jax.random.split(jax.random.key(0), 3))
right = attention(queries, keys, values, is_causal=True)
last = attention(queries[:, -1:], keys, values, is_causal=True)
two = attention(queries[:, -2:], keys, values, is_causal=True)
free = attention(queries[:, -1:], keys, values)
print("last query, first head: all at once", right[0, -1, 0].round(3), "alone", last[0, 0, 0].round(3))
print("the first value:", values[0, 0, 0].round(3))
assert np.allclose(free, right[:, -1:], atol=1e-5)
assert np.allclose(last, values[:, :1], atol=1e-6), "the behavior has changed"
assert np.abs(last - right[:, -1:]).max() > 0.5 and np.abs(two - right[:, -2:]).max() > 0.5, "the behavior has changed"
PY
