"""Optimizers and schedules compared with optax, NumPy transcriptions of ConnorJL/GPT2's formulas, and algebra."""

from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import optimizers
from estimator.config import parse_sections
from estimator.errors import UserError
from estimator.parallel.param_spec import ParamSpec, map_specs
from estimator.system.config_docs import json_schema, markdown
from estimator.training.checkpoint_reader import restore
from estimator.training.checkpoints import Checkpoints
from estimator.training.optim import muon
from optimizers import OptimizerConfig

LAYERS, EMBED, HEADS, WIDTH, MLP = 2, 8, 2, 4, 12


def declarations(*, vocab=11, padded=11):
    """Declares parameters of all kinds: padded embedding, stacked matrices (one and two row dims), stacked vectors."""

    def stacked(*dims, rows=0):
        names, sizes = zip(*dims, strict=True)
        return ParamSpec(shape=(LAYERS, *sizes), axes=("layer", *names), rows=rows, decay=rows > 0)

    embed, qkv, heads, width, mlp = ("embed", EMBED), ("qkv", 3), ("heads", HEADS), ("head_width", WIDTH), ("mlp", MLP)
    return {
        "wte": ParamSpec(shape=(padded, EMBED), used=(vocab, EMBED), axes=("vocab", "embed"), rows=1, decay=True),
        "h": {
            "c_attn": {"w": stacked(embed, qkv, heads, width, rows=1), "b": stacked(qkv, heads, width)},
            "c_proj": {"w": stacked(heads, width, embed, rows=2), "b": stacked(embed)},
            "c_fc": {"w": stacked(embed, mlp, rows=1)},
        },
        "ln_f": ParamSpec(shape=(EMBED,), axes=("embed",)),
    }


def draw(specs, seed, scale=1.0):
    """Returns random values with zeros in the padding."""
    random = np.random.default_rng(seed)

    def one(spec):
        value = scale * random.standard_normal(spec.used_shape)
        padding = [(0, full - part) for full, part in zip(spec.shape, spec.used_shape, strict=True)]
        return np.pad(value, padding).astype(np.float32)

    return map_specs(one, specs)


def run(optimizer, params, gradients):
    """Returns the parameters after one step per gradient."""
    transform = optimizer if isinstance(optimizer, optax.GradientTransformation) else optimizer.transform

    @jax.jit
    def step(params, state, gradient):
        updates, state = transform.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = transform.init(params)
    for gradient in gradients:
        params, state = step(params, state, gradient)
    return params


def make(specs, *, total_steps=100, **keys):
    return optimizers.make(OptimizerConfig(**keys), specs, total_steps=total_steps)


def assert_equal_trees(ours, expected, rtol=2e-5, atol=1e-7):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), ours, expected)


def five_steps(specs):
    return draw(specs, 0, 0.1), [draw(specs, 1 + i, 0.3) for i in range(5)]


# --- Learning rate ---


def lr(steps, total_steps=100, **keys):
    schedule = optimizers.make_schedule(OptimizerConfig(lr=0.5, **keys), total_steps=total_steps)
    return np.asarray(schedule(np.asarray(steps)))


def test_cosine_is_the_seeds_formula_at_every_step():
    def seed(s, base=0.5, w=7, total=50):
        if s < w:
            return base * s / w
        return 0.5 * base * (1 + np.cos(np.pi * (s - w) / (total - w))) if s <= total else 0.0

    ours = lr(range(60), 50, warmup_steps=7)
    np.testing.assert_allclose(ours, [seed(s) for s in range(60)], atol=1e-7)
    assert (ours[0], ours[7], ours[50], ours[59]) == (0.0, 0.5, 0.0, 0.0)


@pytest.mark.parametrize("floor", [0.0, 0.05])
def test_schedules_equal_optax(floor):
    steps = np.arange(120)
    up = optax.linear_schedule(0, 0.5, 10)
    expected = {
        "cosine": optax.warmup_cosine_decay_schedule(0, 0.5, 10, 100, end_value=floor),
        "linear": optax.join_schedules([up, optax.linear_schedule(0.5, floor, 90)], [10]),
        "wsd": optax.join_schedules(
            [up, optax.constant_schedule(0.5), optax.linear_schedule(0.5, floor, 30)], [10, 70]
        ),
        "constant": optax.join_schedules([up, optax.constant_schedule(0.5)], [10]),
    }
    for name, schedule in expected.items():
        ours = lr(steps, warmup_steps=10, schedule=name, lr_min=floor, decay_fraction=0.3)
        np.testing.assert_allclose(ours, schedule(steps), atol=1e-6, err_msg=name)


def test_cosine_with_restarts_begins_again_at_the_peak_and_keeps_its_floor():
    keys = {"warmup_steps": 10, "schedule": "cosine_restarts", "restart_steps": 20, "lr_min": 0.1}
    values = lr(range(100), **keys)
    np.testing.assert_allclose(values[:11], 0.05 * np.arange(11), rtol=1e-6)
    period = 0.1 + 0.2 * (1 + np.cos(np.pi * np.arange(20) / 20))
    np.testing.assert_allclose(values[10:90], np.tile(period, 4), rtol=1e-5)
    assert values[10:].min() >= 0.1


def test_schedule_follows_from_warmup_steps_when_not_given():
    assert lr([0, 99, 1000]).tolist() == [0.5, 0.5, 0.5]
    np.testing.assert_allclose(lr([0, 50, 100], warmup_steps=0), [0.5, 0.25, 0], atol=1e-7)


def test_learning_rate_takes_ints_and_traced_steps():
    schedule = optimizers.make_schedule(OptimizerConfig(warmup_steps=10), total_steps=100)
    inside = jax.jit(schedule)(jnp.int32(37))
    assert inside.dtype == jnp.float32
    assert float(inside) == pytest.approx(float(schedule(37)), rel=1e-6)


# --- Adam, SGD, weight decay, clipping ---


def test_adam_equals_optax_where_epsilon_is_negligible():
    specs = declarations()
    params, gradients = five_steps(specs)
    ours = run(make(specs, lr=0.01, warmup_steps=2, weight_decay=0.1, decay_all=True), params, gradients)
    schedule = optax.warmup_cosine_decay_schedule(0, 0.01, 2, 100)
    assert_equal_trees(ours, run(optax.adamw(schedule, 0.9, 0.98, 1e-12, weight_decay=0.1), params, gradients))


def test_adam_adds_epsilon_where_tensorflow_does():
    specs = {"w": ParamSpec(shape=(3,), axes=("embed",))}
    params, gradients = five_steps(specs)
    ours = run(make(specs, lr=0.01, epsilon=0.1, beta1=0.8, beta2=0.9), params, gradients)
    p, m, v = params["w"].astype(np.float64), 0.0, 0.0
    for t, gradient in enumerate(gradients, start=1):
        g = gradient["w"].astype(np.float64)
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        p = p - 0.01 * np.sqrt(1 - 0.9**t) / (1 - 0.8**t) * m / (np.sqrt(v) + 0.1)
    np.testing.assert_allclose(ours["w"], p, rtol=1e-6, atol=1e-8)


def test_sgd_equals_optax():
    specs = declarations()
    params, gradients = five_steps(specs)
    expected = run(optax.sgd(0.01, momentum=0.9), params, gradients)
    assert_equal_trees(run(make(specs, opt_name="sgd", lr=0.01), params, gradients), expected)


@pytest.mark.parametrize(
    ("name", "decay_all"), [("adam", False), ("adam", True), ("adafactor", True), ("sgd", False), ("muon", False)]
)
def test_weight_decay_reaches_what_the_declarations_say(name, decay_all):
    specs = declarations()
    params = draw(specs, 0)
    zero = jax.tree.map(np.zeros_like, params)
    optimizer = make(specs, opt_name=name, lr=0.5, warmup_steps=2, weight_decay=0.1, decay_all=decay_all)
    ours = run(optimizer, params, [zero, zero])  # at learning rates 0 and 0.25
    shrunk = 1 - 0.25 * 0.1

    def expected(spec, value):
        return value * (shrunk if spec.decay or decay_all else 1)

    assert_equal_trees(ours, map_specs(expected, specs, params))


def test_clip_equals_optax():
    specs = declarations()
    gradients = draw(specs, 0)
    norm = optax.tree.norm(gradients)
    for limit in (0.5 * float(norm), 2 * float(norm)):
        ours = make(specs, grad_clip=limit).clip(gradients, norm=norm)
        assert_equal_trees(ours, optax.clip_by_global_norm(limit).update(gradients, optax.EmptyState())[0])
    assert make(specs, grad_clip=None).clip(gradients, norm=norm) is gradients
    zero = jax.tree.map(np.zeros_like, gradients)
    assert_equal_trees(make(specs).clip(zero, norm=jnp.float32(0)), zero)


# --- Adafactor ---


def adafactor_in_numpy(p, gradients, *, decay, beta1=0.0, relative=True, weight_decay=0.0, lr=0.01):
    """Runs ConnorJL/GPT2's formulas (tensor2tensor's Adafactor) in float64 for one variable of one layer."""
    p = p.astype(np.float64)
    rms = lambda x: np.sqrt(np.mean(x**2))  # noqa: E731
    vr = vc = v = m = 0.0
    for s, gradient in enumerate(gradients):
        g = gradient.astype(np.float64)
        g2 = g**2 + 1e-30
        kept = decay(s)
        p = p * (1 - lr * weight_decay)
        if p.ndim == 2:
            vr = kept * vr + (1 - kept) * g2.mean(-1)
            vc = kept * vc + (1 - kept) * g2.mean(-2)
            x = g * (vr / vr.mean())[:, None] ** -0.5 * vc[None, :] ** -0.5
        else:
            v = kept * v + (1 - kept) * g2
            x = g * v**-0.5
        x = x / max(1.0, rms(x))
        u = lr * (max(rms(p), 1e-3) if relative else 1.0) * x
        if beta1:
            m = beta1 * m + (1 - beta1) * u
            u = m
        p = p - u
    return p


def pow_decay(s):
    return 1 - (s + 1.0) ** -0.8


def adam_decay(s, beta2=0.98):
    return beta2 * (1 - beta2**s) / (1 - beta2 ** (s + 1))


@pytest.mark.parametrize(
    ("keys", "truth"),
    [
        ({}, {"decay": pow_decay}),
        ({"decay_exponent": 0.5}, {"decay": lambda s: 1 - (s + 1.0) ** -0.5}),
        ({"decay_type": "adam"}, {"decay": adam_decay}),
        ({"decay_type": "adam", "beta1": 0.9}, {"decay": adam_decay, "beta1": 0.9}),
        ({"relative_lr": False}, {"decay": pow_decay, "relative": False}),
        (
            {"weight_decay": 2.0, "decay_all": True, "beta1": 0.5},
            {"decay": pow_decay, "weight_decay": 2.0, "beta1": 0.5},
        ),
    ],
    ids=["pow", "exponent", "adam", "momentum", "absolute", "decay"],
)
def test_adafactor_equals_the_seeds_formulas_for_each_layer_and_flattened_matrix(keys, truth):
    specs = declarations(vocab=11, padded=16)
    params, gradients = five_steps(specs)
    params["h"]["c_attn"]["b"] *= 0  # exercises the lower bound of the parameter scale
    ours = run(make(specs, opt_name="adafactor", lr=0.01, **keys), params, gradients)

    def check(spec, value, start, *slopes):
        used = tuple(slice(0, size) for size in spec.used_shape)
        inputs = int(np.prod([spec.used_shape[dim] for dim in spec.row_dims]))

        def variables(array):
            layers = np.asarray(array)[used] if spec.stack_dims else np.asarray(array)[used][None]
            return [layer.reshape((inputs, -1) if spec.rows else -1) for layer in layers]

        for layer, (got, first, *rest) in enumerate(zip(*map(variables, (value, start, *slopes)), strict=True)):
            expected = adafactor_in_numpy(first, rest, **truth)
            np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-7, err_msg=f"{spec} layer {layer}")

    map_specs(check, specs, ours, params, *gradients)


@pytest.mark.parametrize("name", ["adam", "adafactor", "sgd", "muon"])
def test_padding_changes_nothing_and_stays_zero(name):
    keys = {"opt_name": name, "lr": 0.01, "weight_decay": 0.1}
    results = {}
    for padded in (11, 64):
        specs = declarations(vocab=11, padded=padded)
        results[padded] = run(make(specs, **keys), *five_steps(specs))
    assert not np.any(results[64]["wte"][11:])
    results[64]["wte"] = results[64]["wte"][:11]
    assert_equal_trees(results[64], results[11], rtol=1e-6)


def test_adafactor_survives_gradients_of_zero_and_of_extreme_size():
    specs = declarations(padded=16)
    params = draw(specs, 0)
    gradients = [jax.tree.map(lambda p, size=size: p * np.float32(size), params) for size in (0, 1e-12, 1e10, 0)]
    ours = run(make(specs, opt_name="adafactor", lr=0.01), params, gradients)
    assert all(np.isfinite(value).all() for value in jax.tree.leaves(ours))


# --- Muon ---


def test_newton_schulz_equals_optax_without_reshaping():
    specs = declarations()
    gradient = draw(specs, 3)["h"]["c_attn"]["w"]
    ours = muon.orthogonalize(gradient, rows=(1,), columns=(3, 4), steps=5)
    for layer in range(LAYERS):
        for part in range(3):
            matrix = {"w": jnp.asarray(gradient[layer, :, part].reshape(EMBED, -1))}
            dimensions = {"w": optax.contrib.MuonDimensionNumbers()}
            reference = optax.contrib.scale_by_muon(
                beta=0.0, nesterov=False, weight_dimension_numbers=lambda _, dimensions=dimensions: dimensions
            )
            expected, _ = reference.update(matrix, reference.init(matrix))
            np.testing.assert_allclose(ours[layer, :, part].reshape(EMBED, -1), expected["w"], atol=1e-5)


@pytest.mark.parametrize(("rows", "columns"), [(48, 16), (16, 48), (32, 24)])
def test_newton_schulz_brings_singular_values_near_one(rows, columns):
    x = np.random.default_rng(0).standard_normal((3, rows, columns)).astype(np.float32)
    singular = np.linalg.svd(muon.orthogonalize(x, rows=(1,), columns=(2,), steps=5), compute_uv=False)
    # The published coefficients trade accuracy for speed: singular values end in this range rather than at 1.
    assert singular.min() > 0.6
    assert singular.max() < 1.3


def test_muon_steps_are_orthogonal_per_layer_and_for_query_key_and_value_alone():
    specs = declarations()
    params, gradients = five_steps(specs)
    zero = jax.tree.map(np.zeros_like, params)
    ours = run(make(specs, opt_name="muon", lr=1.0), zero, gradients[:1])["h"]
    matrices = [ours["c_attn"]["w"][layer, :, part].reshape(EMBED, -1) for layer in range(LAYERS) for part in range(3)]
    matrices += [ours["c_proj"]["w"][layer].reshape(-1, EMBED) for layer in range(LAYERS)]
    matrices += list(ours["c_fc"]["w"])
    for matrix in matrices:
        singular = np.linalg.svd(matrix, compute_uv=False) / (0.2 * np.sqrt(max(matrix.shape)))
        assert singular.max() < 1.3
        assert np.median(singular) > 0.6
    # Changing the gradient of the key must change only the update of the key.
    gradients[0]["h"]["c_attn"]["w"][:, :, 1] *= np.random.default_rng(9).standard_normal((LAYERS, EMBED, HEADS, WIDTH))
    again = run(make(specs, opt_name="muon", lr=1.0), zero, gradients[:1])["h"]["c_attn"]["w"]
    changed = np.abs(again - ours["c_attn"]["w"]).max(axis=(0, 1, 3, 4))
    assert changed[1] > 0.1
    assert changed[0] == changed[2] == 0


def test_muon_momentum_is_nesterov_and_the_rest_gets_adam():
    specs = declarations()
    params, gradients = five_steps(specs)
    keys = {"lr": 0.01, "weight_decay": 0.1}
    ours = run(make(specs, opt_name="muon", momentum=0.8, **keys), params, gradients)
    adam = run(make(specs, opt_name="adam", **keys), params, gradients)
    assert_equal_trees([ours["wte"], ours["ln_f"]], [adam["wte"], adam["ln_f"]], rtol=1e-6)
    assert_equal_trees(ours["h"]["c_proj"]["b"], adam["h"]["c_proj"]["b"], rtol=1e-6)
    p, trace = params["h"]["c_fc"]["w"], 0.0
    for gradient in gradients:
        g = gradient["h"]["c_fc"]["w"]
        trace = 0.8 * trace + g
        direction = muon.orthogonalize(g + 0.8 * trace, rows=(1,), columns=(2,), steps=5)
        p = p - 0.01 * (0.2 * np.sqrt(MLP) * direction + 0.1 * p)
    np.testing.assert_allclose(ours["h"]["c_fc"]["w"], p, rtol=1e-4, atol=1e-6)


def normuon_in_numpy(p, gradients, *, lr, momentum, beta2, weight_decay):
    """Runs NorMuon (Li et al. 2025) in float64 for one matrix [inputs, outputs]; beta2 None: Muon."""
    p, trace, v = p.astype(np.float64), 0.0, 0.0
    for gradient in gradients:
        g = gradient.astype(np.float64)
        trace = momentum * trace + g
        x = g + momentum * trace
        x = x / np.linalg.norm(x)
        x = x if p.shape[0] <= p.shape[1] else x.T
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
        x = x if p.shape[0] <= p.shape[1] else x.T
        if beta2 is not None:
            v = beta2 * v + (1 - beta2) * (x**2).mean(0)  # per output, averaged over its inputs
            evened = x / (np.sqrt(v) + 1e-10)
            x = evened * np.linalg.norm(x) / np.linalg.norm(evened)
        p = p - lr * (0.2 * np.sqrt(max(p.shape)) * x + weight_decay * p)
    return p


@pytest.mark.parametrize("beta2", [None, 0.0, 0.9])
def test_muon_and_normuon_equal_their_formulas_for_each_matrix_of_each_layer(beta2):
    specs = declarations()
    params, gradients = five_steps(specs)
    keys = {"lr": 0.01, "momentum": 0.8, "weight_decay": 0.1}
    for count in (1, 5):
        ours = run(make(specs, opt_name="muon", neuron_beta2=beta2, **keys), params, gradients[:count])
        for name, shape in {
            "c_attn": (EMBED, 3, -1),
            "c_proj": (HEADS * WIDTH, 1, EMBED),
            "c_fc": (EMBED, 1, MLP),
        }.items():
            got, first, *rest = (
                tree["h"][name]["w"].reshape(LAYERS, *shape) for tree in (ours, params, *gradients[:count])
            )
            for layer, part in np.ndindex(LAYERS, shape[1]):
                expected = normuon_in_numpy(
                    first[layer, :, part], [g[layer, :, part] for g in rest], beta2=beta2, **keys
                )
                np.testing.assert_allclose(got[layer, :, part], expected, rtol=1e-4, atol=2e-6, err_msg=name)


def test_normuon_keeps_a_float_for_each_neuron_and_gradients_of_zero_are_no_steps():
    specs = declarations()
    params = draw(specs, 0)
    states = [make(specs, opt_name="muon", neuron_beta2=beta2).transform.init(params) for beta2 in (None, 0.9)]
    floats = [sum(leaf.size for leaf in jax.tree.leaves(state)) for state in states]
    assert floats[1] - floats[0] == LAYERS * (3 * HEADS * WIDTH + EMBED + MLP)
    zero = jax.tree.map(np.zeros_like, params)
    gradients = [zero, draw(specs, 1), zero]
    ours = run(make(specs, opt_name="muon", neuron_beta2=0.9, momentum=0.0, lr=0.01), params, gradients[:1])
    assert_equal_trees(ours, params)
    assert all(
        np.isfinite(leaf).all()
        for leaf in jax.tree.leaves(run(make(specs, opt_name="muon", neuron_beta2=0.9, lr=0.01), params, gradients))
    )


def test_a_checkpoint_of_muon_and_one_of_normuon_are_told_apart(tmp_path):
    specs = {"w": ParamSpec(shape=(2, 3, 4), axes=("layer", "embed", "mlp"), rows=1)}
    place = NamedSharding(jax.make_mesh((1,), ("data",), devices=jax.devices()[:1]), PartitionSpec())
    optimizers_of = [make(specs, opt_name="muon", **keys) for keys in ({}, {"neuron_beta2": 0.9})]
    states = [jax.device_put(each.transform.init(draw(specs, 0)), place) for each in optimizers_of]
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), states)
    for own, other in ((0, 1), (1, 0)):
        with closing(Checkpoints(tmp_path / str(own), writer=True)) as checkpoints:
            checkpoints.save(1, {"optimizer": states[own]})
            checkpoints.wait()
            assert_equal_trees(restore(checkpoints, {"optimizer": shapes[own]})["optimizer"], states[own])
            with pytest.raises(UserError, match=r"another optimizer, .*init_from this run[^$]*optimizer/.*/w: saved"):
                restore(checkpoints, {"optimizer": shapes[other]})


# --- State and configuration ---


@pytest.mark.parametrize("name", ["adam", "adafactor", "sgd", "muon"])
def test_state_is_float32_under_the_parameters_names_with_their_dims(name):
    specs = declarations()
    params = draw(specs, 0)
    optimizer = make(specs, opt_name=name, beta1=0.9, neuron_beta2=0.9)
    shapes = {jax.tree_util.keystr(path): p.shape for path, p in jax.tree_util.tree_leaves_with_path(params)}
    arrays = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(optimizer.transform.init(params)):
        if leaf.ndim == 0:
            assert leaf.dtype == jnp.int32
            continue
        arrays += 1
        (shape,) = [shape for key, shape in shapes.items() if jax.tree_util.keystr(path).endswith(key)]
        assert leaf.dtype == jnp.float32
        assert all(size in (1, full) for size, full in zip(leaf.shape, shape, strict=True))
    assert arrays >= len(shapes)


def test_weight_decay_does_not_change_the_shape_of_the_state():
    specs = declarations()
    states = [make(specs, weight_decay=rate).transform.init(draw(specs, 0)) for rate in (None, 0.1)]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])


def test_adafactor_without_momentum_keeps_rows_and_columns_only():
    specs = {"w": ParamSpec(shape=(2, 30, 40), axes=("layer", "embed", "mlp"), rows=1)}
    state = make(specs, opt_name="adafactor").transform.init(draw(specs, 0))
    assert sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim) == 2 * (30 + 40)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": "cosine_restarts"}, "restart_steps: missing"),
        ({"lr": 0.001, "lr_min": 0.01}, "lr_min: 0.01 is above lr 0.001"),
        ({"beta1": 1.0}, "beta1"),
        ({"opt_name": "adamw"}, "opt_name"),
        ({"momentun": 0.9}, "did you mean momentum"),
    ],
)
def test_impossible_settings_name_the_key_and_the_fix(values, message):
    with pytest.raises(UserError, match=message):
        parse_sections(values, [OptimizerConfig], source="x.json")


def test_a_warmup_longer_than_the_run_is_scaled_with_a_warning():
    config = OptimizerConfig(lr=0.5, warmup_steps=2000)
    schedule = optimizers.make_schedule(config, total_steps=100)
    np.testing.assert_allclose([schedule(step) for step in (0, 5, 10, 100)], [0, 0.25, 0.5, 0], atol=1e-7)
    assert optimizers.warnings(config, total_steps=100)[0].endswith("the warmup has 10 steps, a tenth of the run")
    assert optimizers.warnings(config, total_steps=9)[0].endswith("the run's 9 steps; there is no warmup")
    assert optimizers.make_schedule(config, total_steps=9)(0) == 0.5
    assert optimizers.warnings(config, total_steps=2000) == []


def test_warnings_name_settings_known_to_hurt():
    assert optimizers.warnings(OptimizerConfig(weight_decay=0.01)) == []
    seed = OptimizerConfig(opt_name="adafactor", lr=0.00025, weight_decay=0.01, decay_all=True)
    assert [warning.split()[0] for warning in optimizers.warnings(seed)] == ["lr", "decay_all:"]
    assert optimizers.warnings(OptimizerConfig(opt_name="adafactor", lr=0.00025, relative_lr=False)) == []


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        ({"neuron_beta2": 0.95, "ns_steps": 4, "momentum": 0.9}, "momentum, ns_steps, neuron_beta2"),
        ({"opt_name": "muon", "neuron_beta2": 0.95, "beta2": 0.9, "epsilon": 1e-8, "decay_type": "adam"}, "decay_type"),
        ({"opt_name": "sgd", "momentum": 0.5, "beta1": 0.5, "relative_lr": False}, "beta1, relative_lr"),
        ({"opt_name": "adafactor", "lr": 0.01, "beta2": 0.9, "beta1": 0.9}, "beta2"),
        ({"opt_name": "adafactor", "lr": 0.01, "beta2": 0.9, "decay_type": "adam", "decay_exponent": 0.7},
         "decay_exponent"),
        ({"lr_min": 1e-5, "decay_fraction": 0.5, "restart_steps": 9}, "lr_min, restart_steps, decay_fraction"),
        ({"schedule": "wsd", "lr_min": 1e-5, "decay_fraction": 0.5}, ""),
        ({"opt_name": "adafactor", "lr": 0.01, "decay_exponent": 0.7, "momentum": None}, ""),
    ],
)  # fmt: skip
def test_keys_that_the_optimizer_does_not_read_are_named(values, keys):
    lines = optimizers.warnings(OptimizerConfig(**values))
    assert [line.partition(": no effect with opt_name")[0] for line in lines] == ([keys] if keys else [])


def test_every_key_is_documented():
    assert "null" not in str(json_schema([OptimizerConfig])["required"])
    for row in markdown([OptimizerConfig]).splitlines()[4:]:
        assert row.count("|") == 4, row
        assert not row.endswith("| None |"), row
