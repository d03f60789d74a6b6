#!/usr/bin/env bash
# equinox 0.13.8: weights of a model with 3 hidden layers load into one with 2 without an error, and the last ones are
#   left.
#
# Expected: tree_deserialise_leaves loads what was saved or raises: it does for another shape, another type, and a file
#   with too few leaves. The documentation wants "a PyTree of same structure", and says nothing of what happens
#   otherwise.
# Observed: leaves are matched by their order alone. Leaves that are left in the file are not noticed: the shallower
#   model ends with a hidden layer of the deeper one. Two fields of a module in another order swap their weights, so
#   that a query projection becomes the key, and a renamed key of a dict takes another array's. Functions and texts,
#   such as the activation, keep what the template has. Only the shapes are compared.
# Why it matters: a wrong number of layers in a configuration, or fields sorted in a refactoring, give a model that runs
#   and whose loss is that of a bad model. Square matrices of equal width are the rule in GPT-2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q equinox==0.13.8 jax==0.10.1 ml_dtypes==0.6.0 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import io

import equinox as eqx
import jax
import jax.numpy as jnp

print("equinox", eqx.__version__, "jax", jax.__version__)
ONE, OTHER = jax.random.key(0), jax.random.key(1)


class Attention(eqx.Module):
    query: eqx.nn.Linear
    key: eqx.nn.Linear


class Sorted(eqx.Module):
    key: eqx.nn.Linear
    query: eqx.nn.Linear


def trip(saved: object, like: object) -> tuple[object, int]:
    """The file of the first read with the second as the template, and the number of bytes left in it."""
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, saved)
    file.seek(0)
    return eqx.tree_deserialise_leaves(file, like), len(file.read())


deep, shallow = eqx.nn.MLP(4, 4, 4, 3, key=ONE), eqx.nn.MLP(4, 4, 4, 2, key=OTHER)
loaded, left = trip(deep, shallow)
print(f"{len(deep.layers)} linear layers loaded into {len(loaded.layers)}: {left} bytes left, no error")
assert left > 0 and (loaded.layers[-1].weight == deep.layers[-2].weight).all(), "the behavior has changed"
first, second = (eqx.nn.Linear(4, 4, key=key) for key in (ONE, OTHER))
loaded, _ = trip(Attention(query=first, key=second), Sorted(query=second, key=second))
print("the query is loaded as the key:", bool((loaded.key.weight == first.weight).all()))
assert (loaded.key.weight == first.weight).all(), "the behavior has changed"
assert (loaded.query.weight == second.weight).all(), "the behavior has changed"
loaded, _ = trip({"wte": jnp.ones(2), "zero": jnp.zeros(2)}, {"embedding": jnp.zeros(2), "a": jnp.zeros(2)})
assert loaded["a"].tolist() == [1, 1] and loaded["embedding"].tolist() == [0, 0], "the behavior has changed"
for saved, like in ((shallow, deep), (eqx.nn.Linear(4, 3, key=ONE), first)):
    try:
        trip(saved, like)
    except (RuntimeError, ValueError, EOFError) as error:
        print("right:", type(error).__name__)
    else:
        raise AssertionError("no error for too few leaves or another shape")
PY
