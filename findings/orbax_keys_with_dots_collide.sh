#!/usr/bin/env bash
# orbax-checkpoint 0.12.8: {"h": {"0": a}, "h.0": b} is saved as one array; both names load as the same values.
#
# Expected: a saved tree loads as it was: the keys of a dict are any strings, and the tree's structure is in the
#   checkpoint, or saving refuses names that collide.
# Observed: the name of a leaf on disk is its path joined with ".", so the two leaves share one name. Both are written
#   there and one of them is lost. save_pytree and load_pytree of v1, and StandardCheckpointer of v0, report nothing and
#   return the right keys, shapes and dtypes. With different shapes an error about tensorstore's "shape" appears.
# Why it matters: names of weights with dots (PyTorch's and Hugging Face's) in one tree with nested names of the same
#   model, as for adapters, averaged weights or an optimizer state by name, lose weights in each checkpoint and are found
#   out after a restart. Compare a checkpoint with the state once, or keep dots out of keys.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release" orbax-checkpoint==0.12.8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" -W ignore - "$folder" <<'PY'
import sys
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as v0
from orbax.checkpoint import v1

print({name: version(name) for name in ("orbax-checkpoint", "jax", "tensorstore")})
one, two = np.full(3, 1, np.float32), np.full(3, 2, np.float32)
trees = {
    "two names": {"h": {"0": one}, "h.0": two},
    "two levels": {"mlp": {"c_fc.weight": one}, "mlp.c_fc": {"weight": two}},
    "no dots": {"h": {"0": one}, "h_0": two},
}
lost = {}
for name, tree in trees.items():
    path = Path(sys.argv[1], name)
    v1.save_pytree(path / "v1", tree)
    checkpointer = v0.StandardCheckpointer()
    checkpointer.save(path / "v0", tree)
    checkpointer.wait_until_finished()
    loaded = {"v1": v1.load_pytree(path / "v1"), "v0": checkpointer.restore(path / "v0")}
    for api, result in loaded.items():
        first = [float(leaf[0]) for leaf in jax.tree.leaves(result)]
        lost[name, api] = len(set(first)) == 1
        print(f"{name}, {api}: saved [1.0, 2.0] as {jax.tree.structure(tree)}, loaded {first}")
        assert jax.tree.structure(result) == jax.tree.structure(tree), "the behavior has changed"
assert lost == {(name, api): name != "no dots" for name in trees for api in ("v1", "v0")}, "the behavior has changed"
PY
