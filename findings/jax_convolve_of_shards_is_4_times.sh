#!/usr/bin/env bash
# JAX 0.10.1: jnp.convolve of two sharded arrays with mode="same" is 4 times too large on a mesh of 4 x 2 devices.
#
# Expected: sharding says where the parts of an array are, and changes no value. With jit "you write code as if for a
#   single device", says the tutorial of shard_map.
# Observed: where both arrays are divided over the axis of 2 and copied over the axis of 4, as P("model") on a mesh of
#   ("data", "model") does it, the partial sums of all 8 devices are added, so each is counted 4 times, eager and
#   compiled. It is so whichever axis comes first, and where the second array is divided over both axes. mode="full" and
#   "valid" are right, and so is a mesh of one axis, or a second array that is whole on each device. jnp.correlate has
#   it, too, and convolutions of jax.lax with such operands, among them the gradient for the kernel. No warning.
# Why it matters: on meshes of data and model parallelism weights and statistics lie so. The autocorrelation of a
#   sharded series has the right form and is 4 times too large; tests on one device, or on a mesh of one axis, find
#   nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release"
XLA_FLAGS=--xla_force_host_platform_device_count=8 JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

print("jax", jax.__version__, "numpy", np.__version__)
SERIES, WINDOW = np.arange(1, 17, dtype=np.float32), np.linspace(1, 2, 16, dtype=np.float32)
MODEL, BOTH, WHOLE = PartitionSpec("model"), PartitionSpec(("data", "model")), PartitionSpec()


def factor(shape: tuple[int, int], places: tuple, mode: str = "same", name: str = "convolve") -> set[float]:
    """How many times NumPy's numbers the result is, eager and compiled."""
    mesh = Mesh(np.array(jax.devices()).reshape(shape), ("data", "model"))
    parts = [jax.device_put(each, NamedSharding(mesh, place)) for each, place in zip((SERIES, WINDOW), places)]

    def function(series: jax.Array, window: jax.Array) -> jax.Array:
        return getattr(jnp, name)(series, window, mode=mode)

    right = getattr(np, name)(SERIES, WINDOW, mode)
    ways: tuple[Callable, ...] = function, jax.jit(function)
    factors = np.concatenate([np.asarray(way(*parts)) / right for way in ways])
    return {float(times) for times in np.round(factors, 3).astype(np.float64)}


found = {
    "4 x 2, both P('model')": factor((4, 2), (MODEL, MODEL)),
    "4 x 2, P('model') and P(('data', 'model'))": factor((4, 2), (MODEL, BOTH)),
    "4 x 2, correlate": factor((4, 2), (MODEL, MODEL), name="correlate"),
    "4 x 2, mode='full'": factor((4, 2), (MODEL, MODEL), mode="full"),
    "4 x 2, mode='valid'": factor((4, 2), (MODEL, MODEL), mode="valid"),
    "4 x 2, the window whole": factor((4, 2), (MODEL, WHOLE)),
    "1 x 8, both P('model')": factor((1, 8), (MODEL, MODEL)),
}
for name, factors in found.items():
    print(f"{name}: {factors} times the result of NumPy")
assert list(found.values()) == [{4.0}] * 3 + [{1.0}] * 4, "the behavior has changed"
PY
