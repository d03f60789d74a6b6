#!/usr/bin/env bash
# JAX 0.10.1: in shard_map, pmean of the gradients gives their sum: 8 times too much on 8 devices; psum gives 64 times.
#
# Expected: data parallelism as with pmap and vmap(axis_name=...): each device takes the gradient of the loss of its
#   part of the batch, and lax.pmean averages them. The tutorial of shard_map says that psum is for "total gradients"
#   where a `grad` is inside of the mapped function, and describes check_vma as a check and an optimization.
# Observed: by default (check_vma=True) the gradient for weights with in_specs P() arrives summed over the devices, as
#   the weights are implicitly cast to varying ones, and the transpose of that is a psum. pmean of 8 equal sums is the
#   sum, and psum multiplies it once more. No error: both accept values that are the same everywhere. With
#   check_vma=False the same line averages. Without any reduction the sum comes out, too. A pmean of the loss inside of
#   grad is right.
# Why it matters: code moved from pmap to shard_map trains with a gradient that grows with the number of devices. Adam
#   divides the factor away; clipping by norm and SGD do not, and the logged norm is 8 times too high. On one device,
#   where tests run, all variants agree. Take the gradient of the averaged loss.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release"
XLA_FLAGS=--xla_force_host_platform_device_count=8 JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - <<'PY'
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

WEIGHTS, BATCH = jnp.array([1.0, 2.0]), jnp.arange(16.0).reshape(8, 2)


def loss(weights: jax.Array, batch: jax.Array) -> jax.Array:
    """A mean over the batch."""
    return jnp.mean((batch @ weights) ** 2)


def mean_of_gradients(weights: jax.Array, batch: jax.Array) -> jax.Array:
    """Each device's gradient, averaged."""
    return jax.lax.pmean(jax.grad(loss)(weights, batch), "data")


def sum_of_gradients(weights: jax.Array, batch: jax.Array) -> jax.Array:
    """Each device's gradient, summed: 8 times the mean."""
    return jax.lax.psum(jax.grad(loss)(weights, batch), "data")


def gradient_of_mean(weights: jax.Array, batch: jax.Array) -> jax.Array:
    """The gradient of the averaged loss."""
    return jax.grad(lambda weights: jax.lax.pmean(loss(weights, batch), "data"))(weights)


def factor(gradient: jax.Array) -> float:
    """How many times the gradient of the whole batch it is."""
    factors = gradient / jax.grad(loss)(WEIGHTS, BATCH)
    assert np.allclose(factors, factors[0])
    return round(float(factors[0]), 3)


def mapped(function, devices: int, **options) -> float:
    """The factor of a function in shard_map."""
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    specs = {"in_specs": (PartitionSpec(), PartitionSpec("data")), "out_specs": PartitionSpec()}
    return factor(jax.jit(jax.shard_map(function, mesh=mesh, **specs, **options))(WEIGHTS, BATCH))


print("jax", jax.__version__)
found = {
    "pmap, pmean": factor(jax.pmap(mean_of_gradients, "data", in_axes=(None, 0))(WEIGHTS, BATCH[:, None])[0]),
    "vmap, pmean": factor(jax.vmap(mean_of_gradients, (None, 0), axis_name="data")(WEIGHTS, BATCH[:, None])[0]),
    "shard_map, pmean": mapped(mean_of_gradients, 8),
    "shard_map, psum": mapped(sum_of_gradients, 8),
    "shard_map, grad only": mapped(jax.grad(loss), 8),
    "check_vma=False, pmean": mapped(mean_of_gradients, 8, check_vma=False),
    "check_vma=False, psum": mapped(sum_of_gradients, 8, check_vma=False),
    "shard_map, grad of pmean": mapped(gradient_of_mean, 8),
    "one device, pmean": mapped(mean_of_gradients, 1),
}
for name, times in found.items():
    print(f"{name}: {times:g} times the gradient of the batch")
assert list(found.values()) == [1, 1, 8, 64, 8, 1, 8, 1, 1], "the behavior has changed"
PY
