"""The model compared with transformers' GPT-2, and its optimized code paths compared with the reference."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.gradients import draw, draw_tokens
from helpers.tiny_gpt2 import TINY, random_params, tiny

from estimator.config import parse_sections
from estimator.errors import UserError
from estimator.parallel import hardware
from estimator.parallel import param_spec as parameters
from models.gpt2 import Config, Params, attention_choice, cpu_kernels, model_fn
from models.gpt2 import model as gpt2
from models.gpt2.attention.select_backend import choose
from models.gpt2.layers import dropped
from models.gpt2.model import GPT2Config, attention
from optimizers import OptimizerConfig


def tokens(config: GPT2Config, rows: int = 2, length: int | None = None):
    return draw_tokens(config.n_vocab, rows, length or config.n_ctx + 1)


def mean_loss(params, config, batch, key=None):
    total, weight = gpt2.loss(params, batch, key, config=config)
    return total / weight


def assert_trees_close(a, b, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def test_forward_and_gradients_equal_transformers():
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = tiny()
    params = random_params(config)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=config.n_vocab, n_positions=config.n_ctx, n_embd=32, n_layer=3, n_head=4,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )
    )  # fmt: skip

    def to_theirs(tree):
        def flat(value, rows):
            value = np.asarray(value)
            return value.reshape(math.prod(value.shape[:rows]), -1) if rows else value.reshape(-1)

        theirs = {
            "wte.weight": tree["wte"][: config.n_vocab],
            "wpe.weight": tree["wpe"],
            "ln_f.weight": tree["ln_f"]["g"],
            "ln_f.bias": tree["ln_f"]["b"],
        }
        for i, layer in enumerate(gpt2.unstack(tree["h"], config.n_layer)):
            for norm in ("ln_1", "ln_2"):
                theirs |= {f"h.{i}.{norm}.weight": layer[norm]["g"], f"h.{i}.{norm}.bias": layer[norm]["b"]}
            for half, dense, rows in (
                ("attn", "c_attn", 1), ("attn", "c_proj", 2), ("mlp", "c_fc", 1), ("mlp", "c_proj", 1),
            ):  # fmt: skip
                theirs[f"h.{i}.{half}.{dense}.weight"] = flat(layer[half][dense]["w"], rows)
                theirs[f"h.{i}.{half}.{dense}.bias"] = flat(layer[half][dense]["b"], 0)
        return {name: torch.tensor(np.array(value)) for name, value in theirs.items()}

    missing, unexpected = model.transformer.load_state_dict(to_theirs(params), strict=False)
    assert not unexpected
    assert all("attn.bias" in name or "masked_bias" in name for name in missing), missing
    ids = tokens(config)
    theirs = model(torch.tensor(np.array(ids[:, :-1]), dtype=torch.long)).logits
    hidden, _ = gpt2.forward(params, ids[:, :-1], config=config)
    ours = gpt2.logits(params, hidden, config=config)[..., : config.n_vocab]
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-4, atol=1e-5)

    targets = torch.tensor(np.array(ids[:, 1:]), dtype=torch.long)
    torch.nn.functional.cross_entropy(theirs.flatten(0, 1), targets.flatten()).backward()
    gradients = to_theirs(jax.grad(mean_loss)(params, config, {"tokens": ids}))
    for name, parameter in model.transformer.named_parameters():
        expected = parameter.grad.numpy()
        error = np.linalg.norm(gradients[name].numpy() - expected) / max(np.linalg.norm(expected), 1e-3)
        assert error < 1e-4, (name, error)


@pytest.mark.parametrize("change", [{"scan_layers": True}, {"remat": "full"}, {"remat": "dots", "scan_layers": True}])
def test_scanned_and_rematerialised_layers_equal_unrolled_ones(change):
    plain, other = tiny(scan_layers=False), tiny(**({"scan_layers": False} | change))
    params, batch = random_params(plain), {"tokens": tokens(plain)}
    key = jax.random.key(7)  # includes dropout: the same keys are passed to the same layers
    expected = jax.value_and_grad(mean_loss)(params, plain, batch, key)
    assert_trees_close(jax.value_and_grad(mean_loss)(params, other, batch, key), expected)


def test_products_of_layers_are_kept_by_remat_dots_and_recomputed_by_remat_full():
    def flops(remat):
        config = tiny(n_embd=128, remat=remat, scan_layers=False, precision="bfloat16")
        gradient = jax.jit(jax.grad(partial(mean_loss, config=config, batch={"tokens": tokens(config)})))
        return gradient.lower(random_params(config)).cost_analysis()["flops"]

    none, dots, full = map(flops, ("none", "dots", "full"))
    assert full / none > 1.2
    assert dots / none < 1.06  # recomputes only attention and elementwise operations


def test_padding_of_the_vocabulary_is_never_seen():
    config = tiny(n_vocab=100)
    assert config.padded_vocab == 128
    params, batch = random_params(config), {"tokens": tokens(config)}
    hidden, _ = gpt2.forward(params, batch["tokens"][:, :-1], config=config)
    assert np.all(np.asarray(gpt2.logits(params, hidden, config=config))[..., 100:] == -np.inf)
    poisoned = {**params, "wte": params["wte"].at[100:].set(1e3)}
    np.testing.assert_array_equal(mean_loss(poisoned, config, batch), mean_loss(params, config, batch))
    gradient = jax.grad(mean_loss)(params, config, batch)
    np.testing.assert_array_equal(gradient["wte"][100:], 0)


def test_loss_is_a_sum_and_a_weight():
    config = tiny()
    params, ids = random_params(config), tokens(config, rows=4)
    weights = jnp.asarray(np.random.default_rng(0).integers(0, 2, (4, config.n_ctx)), jnp.float32)
    total, weight = gpt2.loss(params, {"tokens": ids, "weights": weights}, None, config=config)
    hidden, _ = gpt2.forward(params, ids[:, :-1], config=config)
    log_p = jax.nn.log_softmax(gpt2.logits(params, hidden, config=config)[..., :100])
    naive = sum(
        -float(weights[b, t] * log_p[b, t, ids[b, t + 1]]) for b in range(4) for t in range(config.n_ctx)
    )  # fmt: skip
    np.testing.assert_allclose(total, naive, rtol=1e-5)
    assert weight == weights.sum()


def test_positions_see_no_later_token():
    config = tiny()
    params, ids = random_params(config), tokens(config, rows=1, length=16)
    changed = ids.at[0, 9].set((ids[0, 9] + 1) % 100)
    a, _ = gpt2.forward(params, ids, config=config)
    b, _ = gpt2.forward(params, changed, config=config)
    np.testing.assert_array_equal(a[0, :9], b[0, :9])
    assert np.abs(a[0, 9:] - b[0, 9:]).max(-1).min() > 0


def test_dropout_scales_what_it_keeps_and_differs_by_key():
    result = np.asarray(dropped(jnp.ones((200, 200)), 0.25, jax.random.key(0)))
    np.testing.assert_allclose(np.unique(result), [0, 1 / 0.75], rtol=1e-6)
    assert abs(result.mean() - 1) < 0.02
    config = tiny()
    params, batch = random_params(config), {"tokens": tokens(config)}
    losses = {float(mean_loss(params, config, batch, jax.random.key(seed))) for seed in (0, 0, 1)}
    assert len(losses) == 2
    for name in ("embed_dropout", "attn_dropout", "res_dropout"):
        rates = dict.fromkeys(("embed_dropout", "attn_dropout", "res_dropout"), 0.0)
        off, on = tiny(**rates), tiny(**(rates | {name: 0.5}))
        key = jax.random.key(0)
        assert mean_loss(params, off, batch, key) == mean_loss(params, off, batch)
        assert abs(mean_loss(params, on, batch, key) - mean_loss(params, off, batch)) > 1e-4, name


def test_initial_weights_have_the_declared_spread():
    config = GPT2Config(n_embd=128, n_layer=8, n_ctx=64, n_vocab=1000, n_head=2, scale_by_in=False)
    params = parameters.initialize(gpt2.parameters(config), jax.random.key(0))
    residual = 0.02 / math.sqrt(2 * 8)
    for value, std in (
        (params["wte"][:1000], 0.02), (params["wpe"], 0.01), (params["h"]["attn"]["c_attn"]["w"], 0.02),
        (params["h"]["attn"]["c_proj"]["w"], residual), (params["h"]["mlp"]["c_fc"]["w"], 0.02),
        (params["h"]["mlp"]["c_proj"]["w"], residual),
    ):  # fmt: skip
        assert abs(float(value.std()) / std - 1) < 0.03
    assert np.all(np.asarray(params["wte"][1000:]) == 0)
    seed = GPT2Config(n_embd=128, n_layer=8, n_ctx=64, n_vocab=1000, n_head=2)
    specs = gpt2.parameters(seed)
    assert specs["h"]["mlp"]["c_proj"]["w"].std == pytest.approx(residual / math.sqrt(512))


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ({"n_embd": 768, "n_layer": 12, "n_head": 12}, 124_439_808),
        ({"n_embd": 1024, "n_layer": 24, "n_head": 16}, 354_823_168),
        ({"n_embd": 1024, "n_layer": 25, "n_head": 16}, 367_419_392),
        ({"n_embd": 1600, "n_layer": 48, "n_head": 25}, 1_557_611_200),
    ],
)
def test_parameter_counts_are_the_published_ones(values, count):
    assert parameters.count(gpt2.parameters(GPT2Config(**values))) == count


def test_bfloat16_stays_near_float32():
    config, fast = tiny(), tiny(precision="bfloat16")
    params, batch = random_params(config), {"tokens": tokens(config)}
    # 8 bits of mantissa: products have errors of 2^-8, which average out in the loss.
    assert abs(mean_loss(params, fast, batch) - mean_loss(params, config, batch)) < 0.02


def test_bfloat16_gradients_of_vectors_and_embeddings_are_summed_in_float32():
    config, fast = tiny(n_ctx=64), tiny(n_ctx=64, precision="bfloat16")
    params = random_params(config)
    ids = jnp.where(jax.random.uniform(jax.random.key(2), (64, 65)) < 0.4, 7, tokens(config, 64, 65))
    exact, rough = (jax.grad(mean_loss)(params, c, {"tokens": ids}) for c in (config, fast))
    # Row 7 is a sum of 1,600 terms; summing in bfloat16 alone would cause an error of one third.
    picked = [(g["wte"][7], g["wpe"], g["h"]["mlp"]["c_fc"]["b"], g["ln_f"]["g"]) for g in (exact, rough)]
    for a, b in zip(*picked, strict=True):
        assert np.linalg.norm(a - b) < 0.05 * np.linalg.norm(a)


def test_flash_attention_equals_the_reference():
    """Runs the TPU kernel in Pallas's interpreter."""
    tpu = pytest.importorskip("jax.experimental.pallas.tpu")
    q, k, v = (draw(1, 256, 2, 64, seed=seed) for seed in range(3))

    def squares(implementation):
        return lambda q, k, v: (attention(q, k, v, implementation=implementation) ** 2).sum()

    expected = jax.value_and_grad(squares("reference"), argnums=(0, 1, 2))(q, k, v)
    with tpu.force_tpu_interpret_mode():
        actual = jax.value_and_grad(squares("flash"), argnums=(0, 1, 2))(q, k, v)
    assert_trees_close(actual, expected, rtol=1e-4, atol=5e-5)  # sums of 256 float32 terms in a different order


@pytest.mark.parametrize(
    ("requested", "platform", "dtype", "dropout", "expected"),
    [
        ("auto", "cpu", jnp.float32, 0.1, "native"),
        ("blocked", "cpu", jnp.float32, 0.0, "blocked"),
        ("auto", "another", jnp.float32, 0.0, "blocked"),
        ("native", "gpu", jnp.bfloat16, 0.0, UserError),
        ("auto", "gpu", jnp.bfloat16, 0.0, "cudnn"),
        ("auto", "gpu", jnp.bfloat16, 0.1, "blocked"),
        ("auto", "gpu", jnp.float32, 0.0, "blocked"),
        ("auto", "tpu", jnp.bfloat16, 0.0, "flash"),
        ("reference", "gpu", jnp.bfloat16, 0.0, "reference"),
        ("cudnn", "cpu", jnp.bfloat16, 0.0, UserError),
        ("cudnn", "gpu", jnp.bfloat16, 0.1, UserError),
        ("flash", "gpu", jnp.bfloat16, 0.0, UserError),
    ],
)
def test_attention_takes_what_can_run(requested, platform, dtype, dropout, expected):
    if expected == "native" and (obstacle := cpu_kernels.obstacle("cpu")):
        pytest.skip(obstacle)
    wanted = {"platform": platform, "dtype": dtype, "dropout": dropout, "head_width": 64, "n_ctx": 1024}
    if expected is UserError:
        with pytest.raises(UserError, match='set attention to "auto"'):
            choose(requested, **wanted)
    else:
        assert choose(requested, **wanted).implementation == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_embd": 30, "n_head": 4}, "n_head: 4 does not divide n_embd 30"),
        ({"n_embd": 100}, "n_head: missing"),
        ({"n_embd": 64, "attention": "fast"}, "attention"),
        ({"n_embd": 64, "n_hed": 4}, "n_hed: no such key; did you mean n_head"),
        ({"n_embd": "64"}, "n_embd: .*integer.*without quotes"),
        ({}, "n_embd: missing"),
    ],
)
def test_bad_models_are_refused_with_the_fix(values, message):
    with pytest.raises(UserError, match=message):
        parse_sections({"n_layer": 2, **values}, [GPT2Config], source="x.json")


@pytest.mark.parametrize(("flags", "expected"), [("fma avx512_bf16 sse", jnp.bfloat16), ("fma sse", jnp.float32)])
def test_automatic_precision_is_what_the_processor_multiplies_fast(flags, expected, monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "cpuinfo")
    config = Config(**(TINY | {"precision": "auto"}))
    assert attention_choice(config, "train", platform="tpu").implementation == "blocked"  # because n_ctx is small
    spec = model_fn(Params(config, OptimizerConfig(), 10), "train")
    tokens = jax.ShapeDtypeStruct((1, 17), jnp.int32)
    text = jax.jit(spec.loss).lower(parameters.abstract(spec.parameters), {"tokens": tokens}, None).as_text()
    assert ("bf16" in text) == (expected == jnp.bfloat16)


def test_files_of_mid_2019_scale_the_residual_projections_by_a_number():
    def stds(**keys):
        named = dict(parameters.named(gpt2.parameters(Config(**(TINY | {"scale_by_in": False} | keys)))))
        return [spec.std for name, spec in named.items() if "c_proj" in name and spec.std]

    assert stds(scale=0.2887) == pytest.approx([0.02 * 0.2887] * 2)
    assert stds(scale_by_depth=False) == pytest.approx([0.02] * 2)
