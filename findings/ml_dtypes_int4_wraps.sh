#!/usr/bin/env bash
# ml_dtypes 0.6.0 and JAX 0.10.1: 8.0 as int4 is -8 on the host and 7 on the device.
#
# Expected: astype(int4) of one array is the same in NumPy and in JAX, whose int4 is the type of ml_dtypes. Float8 and
#   float4 casts of the two agree for all values, including those out of range.
# Observed: the NumPy cast keeps the lowest four bits: 8 becomes -8, 9 becomes -7, 100 becomes 4, inf becomes 0. JAX
#   saturates at 7 and -8, with and without jit. For uint4, -1 becomes 15 in NumPy and 0 in JAX. Neither warns.
# Why it matters: round(w / scale) with scale = max / 7.5 or max / 8, to use all of -8 to 7, gives 8 for the largest
#   weights. A quantizer that runs in JAX stores 7 and loses little; the same lines in an export with NumPy turn the
#   most important weights of each row into their opposites. Clip before the cast.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release" ml_dtypes==0.6.0
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

print("jax", jax.__version__, "ml_dtypes", ml_dtypes.__version__, "numpy", np.__version__)
values = np.array([7, 8, 9, 100, -8, -9, np.inf], np.float32)
expected = {
    jnp.int4: ([7, -8, -7, 4, -8, 7, 0], [7, 7, 7, 7, -8, -8, 7]),
    jnp.uint4: ([7, 8, 9, 4, 8, 7, 0], [7, 8, 9, 15, 0, 0, 15]),
    jnp.float8_e4m3fn: None,
    jnp.float4_e2m1fn: None,
}
for dtype, both in expected.items():
    with np.errstate(invalid="ignore"):
        host = values.astype(dtype).astype(np.float32)
    device = np.asarray(jnp.asarray(values).astype(dtype).astype(jnp.float32))
    jitted = np.asarray(jax.jit(lambda x, dtype=dtype: x.astype(dtype))(values)).astype(np.float32)
    print(f"{values.tolist()} as {dtype.__name__}: NumPy {host.tolist()}, JAX {device.tolist()}")
    assert np.array_equal(device, jitted, equal_nan=True), "the behavior has changed"
    if both:
        assert (host.tolist(), device.tolist()) == both, "the behavior has changed"
    else:
        assert np.array_equal(host, device, equal_nan=True), "the behavior has changed"
weights = np.random.default_rng(0).normal(0, 0.02, (768, 768)).astype(np.float32)
scale = abs(weights).max(1, keepdims=True) / 7.5
rounded = np.round(weights / scale)
errors = {
    "NumPy": abs(rounded.astype(jnp.int4).astype(np.float32) * scale - weights).max(),
    "JAX": abs(np.asarray(jnp.asarray(rounded).astype(jnp.int4)).astype(np.float32) * scale - weights).max(),
}
print("largest error of a weight:", errors)
assert errors["NumPy"] > 10 * errors["JAX"], "the behavior has changed"
PY
