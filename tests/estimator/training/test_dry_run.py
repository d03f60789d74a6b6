"""Memory estimates of --dry_run match the compiler's memory analysis of the step."""

import re

import jax
import jax.numpy as jnp
import pytest
from conftest import ROOT, one_device

import optimizers
from estimator.config import parse_sections, read
from estimator.data.config import InputConfig
from estimator.estimator import Estimator
from estimator.generation.completion import PredictionConfig
from estimator.parallel.param_spec import abstract, named
from estimator.training.dry_run import device_bytes, held_bytes, parameter_table, report, summary
from estimator.training.fused_step import train_step
from estimator.training.run_config import RunConfig
from estimator.training.train_step import TrainState
from models import gpt2 as model

# Weights are far larger than activations, whose estimate is tested elsewhere.
SIZES = {"n_ctx": 16, "n_vocab": 512, "n_embd": 128, "n_head": 2, "n_layer": 3, "train_batch_size": 2, "max_steps": 9,
         "attn_dropout": 0.0, "res_dropout": 0.0, "embed_dropout": 0.0, "scan_layers": True, "remat": "full",
         "model_path": "nowhere", "scale_by_in": False}  # fmt: skip


def estimator_of(**keys):
    sections = [model.Config, optimizers.OptimizerConfig, RunConfig]
    config, optimizer, run = parse_sections(SIZES | keys, sections, source="test")
    return Estimator(model.model_fn, model.Params(config, optimizer, 9), run, devices=one_device())


def planned(**keys):
    return estimator_of(**keys).plan(total_steps=9, first_step=0)


def total(plan):
    return device_bytes(plan.state) + plan.gradient_bytes + plan.working_bytes


@pytest.mark.parametrize("keys", [{}, {"opt_name": "adafactor"}, {"lora_rank": 2}], ids=["adam", "adafactor", "lora"])
def test_the_total_is_near_what_the_compiled_step_holds(keys):
    plan = planned(micro_batch_size=2, **keys)
    values = abstract(plan.spec.parameters)
    transform = plan.spec.optimizer.transform
    state = TrainState(jax.ShapeDtypeStruct((), jnp.int32), values, jax.eval_shape(transform.init, values))
    batch = {"tokens": jax.ShapeDtypeStruct((1, 2, 17), jnp.int32)}
    step = train_step(plan.spec.loss, plan.spec.optimizer, accumulation=1, seed=0)
    memory = jax.jit(step, donate_argnums=0).lower(state, batch).compile().memory_analysis()
    # Arguments are exact. The CPU compiler keeps some arrays of the size of the weights that GPUs do not need, so the
    # estimate may be lower by at most these.
    assert device_bytes(plan.state) == pytest.approx(memory.argument_size_in_bytes, rel=0.01)
    there = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    assert 0.6 * there < total(plan) < 1.2 * there
    if not keys:
        assert total(plan) + plan.update_bytes == pytest.approx(there, rel=0.2)


def test_a_run_beyond_its_last_step_has_no_steps_to_go():
    plan = estimator_of().plan(total_steps=5, first_step=20)
    assert "steps to go: 0 of 5, 0 tokens" in report(plan, examples_per_epoch=None)


def test_the_steps_to_go_are_at_most_these_where_epochs_are_unknown():
    plan = estimator_of().plan(total_steps=9, first_step=0)
    assert "steps to go: at most 9 of 9, 288 tokens; max_epochs 2.5 may end it earlier" in report(
        plan, examples_per_epoch=None, max_epochs=2.5
    )
    assert "steps to go: 9 of 9, 288 tokens\n" in report(plan, examples_per_epoch=3, max_epochs=2.5)


def row(table: str, name: str) -> list[str]:
    (line,) = re.findall(rf"^{re.escape(name)}  .*$", table, re.MULTILINE)
    return re.split(r"  +", line)


@pytest.mark.parametrize("keys", [
    {"lora_rank": 2}, {"train_only": "transformer"}, {"freeze_layers": 2}, {"lr_scale": {"wte": 0}},
])  # fmt: skip
def test_what_is_trained_is_counted_and_frozen_rows_have_no_decay(keys):
    plan = planned(**keys)
    specs = dict(named(plan.spec.parameters))
    fractions = {
        "lora_rank": lambda name: name.startswith("lora/"),
        "train_only": lambda name: name.startswith("h/"),
        "freeze_layers": lambda name: 1 / 3 if name.startswith("h/") else 1,
        "lr_scale": lambda name: name != "wte",
    }
    shares = {name: fractions[next(iter(keys))](name) for name in specs}
    counts = {name: round(specs[name].count * share) for name, share in shares.items()}
    lines = f"parameters: {sum(spec.count for spec in specs.values()):,}, of which {sum(counts.values()):,} are trained"
    assert lines in summary(plan).splitlines()
    table = parameter_table(plan.spec)
    for name, share in shares.items():
        cells = row(table, name)
        assert cells[-2] == ("yes" if share == 1 else "last 1 of 3" if share else "no"), name
        assert cells.count("yes") == (share == 1) + (specs[name].decay and share > 0), name
    assert row(table, "total")[-1] == f"{sum(spec.count for spec in specs.values()):,}"


def test_where_all_is_trained_nothing_is_said_of_it():
    plan = planned()
    assert "trained" not in summary(plan) + parameter_table(plan.spec)
    assert row(parameter_table(plan.spec), "wte")[-2:] == ["yes", "65,536"]


def test_parameters_that_init_from_gives_have_no_other_initial_values():
    table = parameter_table(planned(lora_rank=2, init_from="124M").spec)
    assert "init_from" in row(table, "wte")
    assert "N(" in " ".join(row(table, "lora/attn_c_attn/a"))


def test_on_cpus_the_state_and_the_gradient_are_where_the_last_ones_were():
    """Also where the next state has another structure, as after a command for the learning rate."""
    estimator = estimator_of()
    plan = estimator.plan(total_steps=9, first_step=0)
    step, _ = estimator.program(plan.spec, 1, plan.state)
    tokens = {"tokens": jax.ShapeDtypeStruct((1, 2, 17), jnp.int32)}
    gradient, update = (program.compile().memory_analysis() for program in step.lower(plan.state, tokens, 1))
    assert gradient.alias_size_in_bytes == device_bytes(plan.state.params)
    assert update.alias_size_in_bytes == pytest.approx(device_bytes(plan.state), rel=1e-3)

    values = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.01, leaf.dtype), plan.state.params)
    state = TrainState(jnp.int32(0), values, jax.jit(plan.spec.optimizer.transform.init)(values))
    batch, losses = {"tokens": jnp.ones((1, 2, 17), jnp.int32)}, []
    for scale in (None, None, jnp.float32(0.5), None):
        state, metrics = step(state._replace(lr_scale=scale), batch, 1)
        losses.append(float(metrics["loss"]))
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == len(losses)


def test_only_what_is_trained_has_a_gradient_and_a_state():
    whole = planned()
    weights = device_bytes(whole.state.params)
    assert whole.gradient_bytes == weights
    assert device_bytes(whole.state.optimizer) == pytest.approx(2 * weights, rel=1e-3)
    assert planned(micro_batch_size=1).gradient_bytes == 2 * weights  # plus their sum over the micro-batches
    adapters = planned(lora_rank=2)
    count = sum(spec.count for name, spec in named(adapters.spec.parameters) if name.startswith("lora/"))
    assert adapters.gradient_bytes == 4 * count
    assert device_bytes(adapters.state.optimizer) == pytest.approx(8 * count, rel=1e-2)
    # Merged block matrices and their gradients.
    assert adapters.spec.copy_bytes == 2 * 4 * 3 * 12 * 128**2
    assert planned(train_only="transformer").gradient_bytes == sum(
        4 * spec.count for name, spec in named(whole.spec.parameters) if name.startswith("h/")
    )


def test_what_is_held_by_one_device_counts_the_sum_of_gradients():
    for keys, per_parameter in (({}, 20), ({"opt_name": "adafactor"}, 12)):
        spec = planned(**keys).spec
        weights = sum(leaf.size for leaf in jax.tree.leaves(abstract(spec.parameters)))
        assert held_bytes(spec) == pytest.approx(per_parameter * weights, rel=0.03)
    assert held_bytes(spec._replace(optimizer=None)) == pytest.approx(20 * weights)


def test_the_report_tells_the_total():
    plan = planned(micro_batch_size=1, precision="bfloat16")
    text = report(plan, examples_per_epoch=None)
    weights = device_bytes(plan.state.params) / 1e6
    assert f"parameters take {weights:.3g} MB on each device, their gradients {2 * weights:.3g} MB" in text
    assert f"in all about {total(plan) / 1e6:.3g} MB on each device\n" in text
    assert "not counted: Python, JAX, compiled programs and batches" in text


@pytest.mark.parametrize(("name", "gigabytes"), [("124M", 8), ("355M", 16), ("1558M", 24)])
def test_the_files_for_fine_tuning_fit_their_devices(name, gigabytes):
    """JAX allocates three quarters of a device's memory."""
    values = read(ROOT / "configs" / f"finetune-{name}.json")
    assert values["init_from"] == name
    sections = [model.Config, optimizers.OptimizerConfig, RunConfig, InputConfig, PredictionConfig]
    config, optimizer, run, *_ = parse_sections(values, sections, source=name)
    estimator = Estimator(model.model_fn, model.Params(config, optimizer, 99), run, devices=one_device())
    assert total(estimator.plan(total_steps=99, first_step=0)) < 0.75 * gigabytes * 1e9


@pytest.mark.parametrize(
    ("file", "row"),
    [("117M", "124M"), ("345M", "355M"), ("762M", "774M"), ("1.5B", "1558M"),
     *((f"finetune-{size}", f"configs/finetune-{size}.json") for size in ("124M", "355M", "1558M"))],
)  # fmt: skip
def test_the_memory_of_fine_tuning_in_the_docs_is_the_estimate_for_a_gpu(file, row):
    values = read(ROOT / "configs" / f"{file}.json")
    sizes = ("n_ctx", "n_vocab", "n_embd", "n_layer", "n_head")
    keys = [{"opt_name": "adam"}, {"opt_name": "adafactor", "beta1": 0.0}, {"lora_rank": 16}]
    if file.startswith("finetune"):
        keys = [{key: values[key] for key in ("opt_name", "lora_rank") if key in values}]
    estimates = []
    for change in keys:
        changed = {"precision": "bfloat16", "remat": "full"} | change | {key: values[key] for key in sizes}
        changed |= {"attn_dropout": 0.0}
        config, optimizer = parse_sections(changed, [model.Config, optimizers.OptimizerConfig], source="test")
        spec = model.model_fn(model.Params(config, optimizer, 9, platform="gpu"), "train")
        estimates.append(held_bytes(spec) + values.get("micro_batch_size", 1) * spec.activation_bytes)
    text = (ROOT / "docs" / "weights.md").read_text()
    (line,) = re.findall(rf"^\| `?{row}`? (\|.* GB \|)$", text, re.MULTILINE)
    assert re.findall(r"([\d.]+) GB(?= \|)", line)[-len(keys) :] == [f"{each / 1e9:.1f}" for each in estimates]
