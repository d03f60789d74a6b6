#!/usr/bin/env bash
# JAX 0.10.1: lax.top_k puts NaN first or last by the sign of the NaN, and takes -0.0 for smaller than 0.0.
#
# Expected: the first result of top_k is that of jnp.argmax: NaN first, as for sort(descending=True), and of equal
#   values the lower index, as the docstring says ("If two elements are equal, the lower-index element appears first").
# Observed: top_k compares by bits, in the total order of IEEE 754: -NaN < -inf < -0.0 < 0.0 < inf < NaN. A NaN with the
#   sign set is the smallest value, and top_k([-0.0, 0.0], 1) is index 1. argmax and sort know no sign of NaN or zero.
# Why it matters: 0/0 and inf - inf give a NaN with the sign set on x86 processors, and jnp.nan has it clear. Logits
#   with a NaN from such an operation give a valid token under top-k, where greedy decoding by argmax points at the NaN;
#   a test that writes jnp.nan into the logits sees the NaN in both.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import numpy as np

print("jax", jax.__version__)
rows = {
    "NaN": np.array([1, np.nan, 3, 2], np.float32),
    "-NaN": np.array([1, np.copysign(np.nan, -1), 3, 2], np.float32),
    "zeros": np.array([-0.0, 0.0, -0.0, 0.0], np.float32),
}
found = {}
for dtype in (jnp.float32, jnp.bfloat16):
    for name, row in rows.items():
        x = jnp.asarray(row, dtype)
        top, first = [int(i) for i in jax.lax.top_k(x, 3)[1]], int(jnp.argmax(x))
        order = [int(i) for i in jnp.argsort(x, descending=True)]
        found.setdefault(name, []).append((top, first))
        print(f"{dtype.__name__} {row.tolist()} ({name}): top_k {top}, argmax {first}, argsort {order[:3]}")
zero = jnp.zeros(1)
print("sign of 0/0 on this processor:", "set" if np.signbit(np.asarray(zero / zero))[0] else "clear")
expected = {"NaN": ([1, 2, 3], 1), "-NaN": ([2, 3, 0], 1), "zeros": ([1, 3, 0], 0)}
assert all(found[name] == [expected[name]] * 2 for name in rows), "the behavior has changed"
PY
