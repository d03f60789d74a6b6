"""Training on meshes of eight fake devices gives the losses of a single device for every kind of sharding."""

import json
import re
from collections import Counter

import jax
import numpy as np
import pytest
from conftest import one_device
from helpers.meshes import BATCH, GPT2, MODEL, N_CTX, N_VOCAB, OPTIMIZERS, compiled, estimator

import optimizers
from estimator.errors import UserError
from estimator.parallel import auto_mesh
from estimator.parallel.param_spec import initialize
from estimator.training.initial_state import state_template, weights_template

MESHES = [(d, f, 8 // d // f) for d in (1, 2, 4, 8) for f in (1, 2, 4, 8) if 8 % (d * f) == 0]
ALONE_AND_TOGETHER = [(8, 1, 1), (1, 8, 1), (1, 1, 8), (2, 2, 2)]  # each axis alone, and all three


def batch(step: int) -> dict[str, np.ndarray]:
    return {"tokens": np.random.default_rng(step).integers(0, N_VOCAB, (BATCH, N_CTX + 1)).astype(np.int32)}


def losses(folder) -> np.ndarray:
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return np.array([record["loss"] for record in records if "loss" in record])


@pytest.fixture(scope="module", params=list(OPTIMIZERS))
def one(request, tmp_path_factory):
    """Returns the optimizer's name and the losses of a single device."""
    folder = tmp_path_factory.mktemp("one")
    assert estimator(folder, optimizer=request.param, devices=one_device()).train(batch, total_steps=20)
    return request.param, losses(folder)


@pytest.mark.parametrize(
    ("one", "sizes"),
    [("adam", sizes) for sizes in MESHES] + [("adafactor", sizes) for sizes in ALONE_AND_TOGETHER],
    indirect=["one"],
)
def test_every_mesh_of_eight_gives_the_losses_of_one_device(tmp_path, one, sizes):
    optimizer, expected = one
    assert estimator(tmp_path, sizes, optimizer=optimizer).train(batch, total_steps=20)
    # float32 sums have a different order.
    np.testing.assert_allclose(losses(tmp_path), expected, rtol=1e-5)


def collectives(program) -> Counter:
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    return Counter(re.findall(rf"= .*? ({kinds})(?:-start)?\(", program.as_text()))


def test_each_axis_has_its_own_collectives(tmp_path):
    data, fsdp, tensor = (compiled(sizes, tmp_path) for sizes in ((8, 1, 1), (1, 8, 1), (1, 1, 8)))
    # data: a single all-reduce of the gradients, plus loss and weight.
    assert set(collectives(data)) == {"all-reduce"}
    assert collectives(data)["all-reduce"] <= 3
    # fsdp: all-gather of weights, reduction of gradients (CPUs use an all-reduce and keep a slice).
    assert collectives(fsdp)["all-gather"] >= 4
    assert set(collectives(fsdp)) <= {"all-gather", "all-reduce", "reduce-scatter"}
    # tensor: all-reduce of partial products; weights and logits are never gathered.
    assert set(collectives(tensor)) == {"all-reduce"}


def test_no_mesh_gathers_the_logits(tmp_path):
    padded = GPT2.Config(**MODEL).padded_vocab
    for sizes in ((1, 1, 8), (2, 2, 2), (1, 4, 2)):
        gathered = re.findall(r"= \w+\[([\d,]+)\][^=]*? all-gather", compiled(sizes, tmp_path).as_text())
        assert not [dims for dims in gathered if dims.endswith(f"{N_CTX},{padded}")]


def test_fsdp_divides_the_memory_of_a_device(tmp_path):
    model = {"n_embd": 128, "n_vocab": 512}
    programs = [compiled((8 // f, f, 1), tmp_path, model=model) for f in (1, 2, 4, 8)]
    states = [program.memory_analysis().argument_size_in_bytes for program in programs]
    peaks = [p.memory_analysis().argument_size_in_bytes + p.memory_analysis().temp_size_in_bytes for p in programs]
    whole = states[0]
    # Attention biases are not sharded over fsdp.
    np.testing.assert_allclose(states, [whole, whole / 2, whole / 4, whole / 8], rtol=0.05)
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[-1] < peaks[0] / 2


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
def test_optimizer_state_lies_with_its_parameters(tmp_path, optimizer):
    run = estimator(tmp_path, (1, 4, 2), optimizer=optimizer)
    state = state_template(run.spec("train"), run.mesh, run.config)
    big = [leaf for leaf in jax.tree.leaves(state.optimizer) if leaf.size >= 32 * 32]
    assert big
    for leaf in big:
        assert np.prod(leaf.sharding.shard_shape(leaf.shape)) == leaf.size // 8, leaf


def test_a_checkpoint_continues_on_another_mesh(tmp_path, one):
    optimizer, expected = one
    assert estimator(tmp_path, (8, 1, 1), optimizer=optimizer).train(batch, total_steps=10)
    assert estimator(tmp_path, (1, 4, 2), optimizer=optimizer).train(batch, total_steps=15)
    assert estimator(tmp_path, optimizer=optimizer, devices=one_device()).train(batch, total_steps=20)
    np.testing.assert_allclose(losses(tmp_path), expected, rtol=1e-5)


def test_dropout_is_the_same_on_every_mesh(tmp_path):
    dropout = {"embed_dropout": 0.1, "attn_dropout": 0.1, "res_dropout": 0.1}
    for name, sizes in {"one": None, "many": (2, 2, 2)}.items():
        devices = one_device() if sizes is None else None
        run = estimator(tmp_path / name, sizes, devices=devices, model=dropout)
        assert run.train(batch, total_steps=3)
    np.testing.assert_allclose(losses(tmp_path / "many"), losses(tmp_path / "one"), rtol=1e-5)


def test_the_evaluation_is_the_same_on_every_mesh(tmp_path):
    rows = batch(0) | {"weights": np.ones((BATCH, N_CTX), np.float32)}
    rows["weights"][3, 5:] = 0

    def value(sizes, devices=None) -> float:
        run = estimator(tmp_path, sizes, devices=devices)
        weights = weights_template(run.spec("eval"), run.mesh)[1]
        drawn = initialize(run.spec("eval").parameters, jax.random.key(0))
        values = jax.tree.map(lambda leaf, place: jax.device_put(leaf, place.sharding), drawn, weights)
        return run.evaluate(lambda: [rows])(values)["loss"]

    expected = value(None, one_device())
    np.testing.assert_allclose([value((2, 2, 2)), value((1, 1, 8))], expected, rtol=1e-5)


def test_sizes_are_chosen_by_batch_and_memory():
    specs = GPT2.model_fn(GPT2.Params(GPT2.Config(**MODEL), optimizers.OptimizerConfig(), 1), "predict").parameters

    def sizes(batch: int, state_bytes: float) -> tuple[int, ...]:
        chosen, reason = auto_mesh.automatic(specs, devices=8, batch=batch, state_bytes=state_bytes, limit=80e9)
        assert reason
        return tuple(chosen.values())

    assert sizes(8, 1e9) == (8, 1, 1)
    assert sizes(16, 150e9) == (2, 4, 1)
    assert sizes(16, 1e15) == (1, 8, 1)
    assert sizes(2, 1e9) == (2, 1, 4)
    assert sizes(4, 150e9) == (2, 2, 2)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"data": 3},
            r'data 3 does not give the 8 devices here; leave one axis.*"data": -1, or leave mesh out \(null\)',
        ),
        ({"data": 3, "fsdp": -1}, "data 3 does not give the 8 devices here"),
        ({"data": -1, "fsdp": -1}, "at most one axis"),
        ({"tensor": 0}, "sizes of 1 or more"),
        ({"data": -1, "tensor": 16}, r"does not give the 8 devices here; make the sizes smaller, or leave mesh out"),
        ({"data": 2, "fsdp": 3}, r"does not give the 8 devices here; make the sizes smaller, or leave mesh out"),
    ],
)
def test_sizes_that_do_not_fit_the_devices_are_refused(sizes, message):
    with pytest.raises(UserError, match=message):
        auto_mesh.make_mesh(sizes, jax.devices())


def test_an_axis_that_does_not_divide_is_refused_with_the_fix(tmp_path):
    run = estimator(tmp_path, (1, 1, 8), model={"n_head": 4})
    with pytest.raises(
        UserError, match=r"tensor 8 does not divide the 4 heads of h/attn/c_attn/b; set tensor to one of 1, 2, 4$"
    ):
        run.train(batch, total_steps=1)
