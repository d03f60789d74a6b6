#!/usr/bin/env bash
# orbax-checkpoint 0.12.8: a checkpoint loaded without a template has its 12 layers in the order 0, 1, 10, 11, 2.
#
# Expected: saving {"h": {0: ..., 1: ..., 11: ...}} and loading it gives the leaves in the order in which they were
#   saved, so jax.tree.unflatten with the structure of the model puts them back. Lists keep their order.
# Observed: the keys come back as the texts "0", "1", "10", "11", "2", and JAX sorts the keys of a dictionary, texts by
#   their letters. 10 of the 12 layers are in another place. Up to 10 layers nothing changes. A NamedTuple comes back as
#   a dictionary as well, and its fields in alphabetical order: of (weight, bias) the bias comes first. The shapes are
#   the same, so nothing raises. Both APIs do it, and the documentation of load says nothing of the keys. (That they
#   become texts is google/orbax#2587, which is about an error and not about the order.)
# Why it matters: flattening a loaded tree and filling a model's structure with the leaves is how people convert
#   checkpoints, average them and compare them. GPT-2 has 12 layers: the model runs, and its layers are shuffled. Small
#   models in tests have fewer than 11. Load with a template, and the order is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release" orbax-checkpoint==0.12.8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - "$folder" <<'PY'
import logging
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

logging.disable(logging.CRITICAL)
warnings.simplefilter("ignore")
print("orbax-checkpoint", version("orbax-checkpoint"), "jax", jax.__version__)
FOLDER = Path(sys.argv[1])


class Norm(NamedTuple):
    """Two parameters of one shape."""

    weight: jax.Array
    bias: jax.Array


def loaded(name: str, tree: Any) -> dict[str, Any]:
    """The tree after saving and loading: by the new API, by the old one, and by the new one with a template."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(FOLDER / name / "v0", tree)
        checkpointer.wait_until_finished()
        old = checkpointer.restore(FOLDER / name / "v0")
    ocp.v1.save(FOLDER / name / "v1", tree)
    new = ocp.v1.load(FOLDER / name / "v1")
    template = ocp.v1.load(FOLDER / name / "v1", jax.eval_shape(lambda: tree))
    return {"v1": new, "v0": old, "v1 with a template": template}


def values(tree: Any) -> list[int]:
    """The first number of every leaf."""
    return [int(leaf[0]) for leaf in jax.tree.leaves(tree)]


for count in (10, 12):
    tree = {"h": {layer: jnp.full(2, layer) for layer in range(count)}}
    for way, found in loaded(f"{count}", tree).items():
        model = jax.tree.unflatten(jax.tree.structure(tree), jax.tree.leaves(found))
        order = [int(model["h"][layer][0]) for layer in range(count)]
        print(f"{count} layers, {way}: {order}")
        is_right = count == 10 or "template" in way
        expected = list(range(12)) if is_right else [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]
        assert order == expected[: len(order)], "the behavior has changed"

tree = Norm(weight=jnp.full(2, 1), bias=jnp.full(2, 0))
for way, found in loaded("norm", tree).items():
    model = jax.tree.unflatten(jax.tree.structure(tree), jax.tree.leaves(found))
    print(f"weight 1 and bias 0, {way}: weight {model.weight[0]}, bias {model.bias[0]}")
    assert values(model) == ([1, 0] if "template" in way else [0, 1]), "the behavior has changed"

blocks = [jnp.full(2, layer) for layer in range(12)]
assert values(loaded("list", blocks)["v1"]) == list(range(12))
PY
