#!/usr/bin/env bash
# optax 0.2.8: contrib.muon on stacked layers trains the biases with Muon and the matrices with AdamW.
#
# Expected: optax.contrib.muon(lr) orthogonalizes the updates of a transformer's weight matrices; stacking the layers'
#   parameters for jax.lax.scan, as JAX programs do, changes the layout and not the optimizer.
# Observed: it selects by the number of dimensions. Stacked, a matrix has three and goes to AdamW without a word; the
#   biases and the scales of the layer norms have two, (layers, width), and are orthogonalized across layers. The weight
#   decay follows: it decays biases and norms, and the matrices not at all, as `adam_weight_decay` is 0. The embedding,
#   which Muon's authors leave to AdamW, is Muon's in both layouts.
# Why it matters: a scanned GPT-2 "trained with Muon" has no hidden matrix trained by it. Its loss falls, so the
#   comparison with AdamW is believed. Pass muon_weight_dimension_numbers, with the matrices' axes and None elsewhere.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release" optax==0.2.8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import jax.numpy as jnp
import optax

LAYERS, WIDTH = 4, 64
layer = {"ln/scale": (WIDTH,), "fc/bias": (4 * WIDTH,), "fc/kernel": (WIDTH, 4 * WIDTH)}
layouts = {
    "a layer": {"wte": (500, WIDTH), **layer},
    "stacked": {"wte": (500, WIDTH), **{name: (LAYERS, *shape) for name, shape in layer.items()}},
}


def treatment(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[bool, bool]]:
    """For each parameter: whether its update is Adam's, with entries of one size at the first step; whether it decays."""
    params = {name: jnp.ones(shape) for name, shape in shapes.items()}
    keys = dict(zip(shapes, jax.random.split(jax.random.key(0), len(shapes)), strict=True))
    gradients = {name: jax.random.normal(keys[name], shape) for name, shape in shapes.items()}
    muon = optax.contrib.muon(1e-3, weight_decay=0.1)
    decay, _ = muon.update({name: 0 * leaf for name, leaf in params.items()}, muon.init(params), params)
    updates, _ = muon.update(gradients, muon.init(params), params)
    sizes = {name: abs(updates[name] - decay[name]) for name in shapes}
    return {name: (bool(jnp.ptp(size) < 0.01 * size.mean()), bool((decay[name] != 0).all())) for name, size in sizes.items()}


print("jax", jax.__version__, "optax", optax.__version__)
found = {}
for layout, shapes in layouts.items():
    for name, (is_adam, decays) in treatment(shapes).items():
        found[layout, name] = is_adam, decays
        print(f"{layout:>8}: {name} {shapes[name]}: {'Adam' if is_adam else 'Muon'}, weight decay: {decays}")
muons = {place for place, (is_adam, _) in found.items() if not is_adam}
expected = {("a layer", "wte"), ("a layer", "fc/kernel"), ("stacked", "wte"), ("stacked", "fc/bias"), ("stacked", "ln/scale")}
assert muons == expected == {place for place, (_, decays) in found.items() if decays}, "the behavior has changed"
PY
