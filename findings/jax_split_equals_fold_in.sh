#!/usr/bin/env bash
# JAX 0.10.1: jax.random.split(key, n)[i] is jax.random.fold_in(key, i), so "independent" streams are the same.
#
# Expected: split and fold_in derive unrelated keys: a program may split the run's key into keys for the weights, the data
#   and the dropout, and fold the step into the run's key elsewhere. With JAX's generator before 0.5 that was so.
# Observed: since jax_threefry_partitionable is the default, the keys are equal bit by bit, for every i, for any shape of
#   split and for "rbg" keys too ("unsafe_rbg" differs). It is intended (jax-ml/jax#13341), and in neither docstring.
#   jax.debug_key_reuse(True), the checker that finds keys used twice, accepts both derivations and both draws, since it
#   does not compare values.
# Why it matters: `init_key, data_key = split(key)` and `dropout_key = fold_in(key, step)` give step 0 the key of the
#   weights and step 1 that of the data. Draws of another shape begin with the same numbers, so that noise of step 0
#   can be the noise of the initial weights. Split first and fold the step into one of the results.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.experimental.key_reuse
import jax.numpy as jnp


def is_same(implementation: str, *, is_partitionable: bool = True) -> bool:
    """Whether the 12 keys of a split are those of fold_in."""
    key = jax.random.key(0, impl=implementation)
    with jax.threefry_partitionable(is_partitionable):
        split = jax.random.split(key, (3, 4)).ravel()
        folded = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(12))
    return bool((jax.random.key_data(split) == jax.random.key_data(folded)).all())


print("jax", jax.__version__)
same = {name: is_same(name) for name in ("threefry2x32", "rbg", "unsafe_rbg")}
before = is_same("threefry2x32", is_partitionable=False)
print(f"split(key, (3, 4)) == fold_in(key, 0..11): {same}; with the generator before JAX 0.5: {before}")
with jax.debug_key_reuse(True):
    key = jax.random.key(1)
    init_key, _ = jax.random.split(key)
    step_key = jax.random.fold_in(key, 0)
    weights = jax.random.normal(init_key, (768, 3072))
    noise = jax.random.normal(step_key, (8, 1024, 768))  # of another shape
shared = jnp.array_equal(weights.ravel(), noise.ravel()[: weights.size])
print(f"weights {weights.ravel()[:3]}, noise of step 0 {noise.ravel()[:3]}; all {weights.size:,} equal: {shared}")
assert same == {"threefry2x32": True, "rbg": True, "unsafe_rbg": False} and not before, "the behavior has changed"
assert shared, "the behavior has changed"
PY
