#!/usr/bin/env bash
# JAX 0.10.1 on CPUs: jnp.max of an array on several devices is a number although the array has a NaN.
#
# Expected: jnp.max and jnp.min return NaN if any element is NaN, as NumPy's do, and sharding changes no result.
# Observed: within a device NaN wins; between devices the all-reduce compares, and a NaN loses. So the whole part of the
#   device with the NaN is left out: of 0 to 7 on 2 devices with a NaN in place of 0 the minimum is 4.0, where nanmin is
#   1. The same with lax.pmax in shard_map, for bfloat16, in jnp.ptp, in the infinity norm and for segment_max. argmax,
#   sum and jnp.isnan(x).any() see the NaN. Eager or compiled, and for each dtype, no warning.
# Why it matters: the largest absolute gradient, weight or logit is what people log to find the step that went wrong. On
#   one device it turns NaN; on a mesh of CPUs, where tests for TPUs and GPUs run, it stays a plausible number, and a
#   guard such as `jnp.isfinite(jnp.abs(g).max())` passes. Use a sum, or isnan(...).any().
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release"
XLA_FLAGS=--xla_force_host_platform_device_count=8 JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

print("jax", jax.__version__, "numpy", np.__version__)
results = {}
for devices in (1, 2, 8):
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    for dtype in (jnp.float32, jnp.bfloat16):
        array = np.arange(8).astype(dtype)
        array[0] = np.nan
        parts = jax.device_put(array, NamedSharding(mesh, PartitionSpec("data")))
        of_all = jax.shard_map(
            lambda part: jax.lax.pmax(part.max(), "data"),
            mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec(),
        )
        found = {
            "max": jnp.max(parts), "min": jnp.min(parts), "compiled max": jax.jit(jnp.max)(parts),
            "pmax": of_all(parts), "isfinite(max)": jnp.isfinite(jnp.max(parts)), "isnan.any": jnp.isnan(parts).any(),
            "argmax": jnp.argmax(parts), "sum": jnp.sum(parts),
        }
        results[devices, dtype.__name__] = list(map(float, found.values()))
        print(f"{devices} devices, {dtype.__name__} {array.tolist()}:",
              ", ".join(f"{name} {float(value):g}" for name, value in found.items()))
nan = np.nan
for (devices, _), found in results.items():
    lowest = {1: nan, 2: 4, 8: 1}[devices]
    expected = [nan, nan, nan, nan, 0] if devices == 1 else [7, lowest, 7, 7, 1]
    assert np.array_equal(found, [*expected, 1, 0, nan], equal_nan=True), "the behavior has changed"
PY
