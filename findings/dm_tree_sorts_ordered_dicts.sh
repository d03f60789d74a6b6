#!/usr/bin/env bash
# dm-tree 0.1.10 and JAX 0.10.1: the leaves of one OrderedDict come in another order from tree.flatten and
#   jax.tree.leaves.
#
# Expected: both flatten nested weights and give the same leaves in the same order, as they do for dicts, lists and
#   named tuples.
# Observed: for an OrderedDict dm-tree sorts the keys, and JAX keeps their order. None is a leaf for dm-tree and
#   nothing for JAX. tree.unflatten_as(weights, jax.tree.leaves(weights)) raises no error where the number of leaves
#   is equal: "query" then has the values of "key", and the reverse, where their shapes are equal. optree 0.20.0 does
#   as JAX does.
# Why it matters: programs for JAX that use dm-haiku, distrax, rlax or chex have both libraries, and state dicts of
#   PyTorch are OrderedDicts. Weights that are flattened by one and rebuilt by the other are exchanged among layers of
#   the same shape, which only the loss shows.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q dm-tree==0.1.10 optree==0.20.0 jax==0.10.1 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
from collections import OrderedDict
from importlib.metadata import version

import jax
import optree
import tree

print("dm-tree", version("dm-tree"), "jax", jax.__version__, "optree", version("optree"))
plain = {"query": 1.0, "key": 2.0, "value": 3.0}
weights = OrderedDict(plain)
found = {}
for name, nest in {"dict": plain, "OrderedDict": weights, "with None": {"query": 1.0, "bias": None}}.items():
    found[name] = tree.flatten(nest), jax.tree.leaves(nest), optree.tree_leaves(nest)
    print(f"{name}: dm-tree {found[name][0]}, jax {found[name][1]}, optree {found[name][2]}")
assert found["dict"][0] == found["dict"][1] == found["dict"][2]
rebuilt = tree.unflatten_as(weights, jax.tree.leaves(weights))
print(f"{dict(weights)} after jax.tree.leaves and tree.unflatten_as: {dict(rebuilt)}")
assert found["OrderedDict"] == ([2.0, 1.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]), "the behavior has changed"
assert dict(rebuilt) == {"query": 2.0, "key": 1.0, "value": 3.0}, "the behavior has changed"
assert found["with None"] == ([None, 1.0], [1.0], [1.0]), "the behavior has changed"
PY
