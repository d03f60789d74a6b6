"""Rehearsals: statistics of compiled programs match hand counts, and configurations that cannot fit are rejected."""

import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, one_device
from helpers.meshes import BATCH, N_CTX, compiled, estimator
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from estimator.aot import rehearse as rehearsal
from estimator.aot import roofline, topologies
from estimator.aot.hlo import Collective, contents
from estimator.errors import UserError
from estimator.parallel.hardware import CHIPS
from estimator.parallel.param_spec import abstract

FILE = {
    "n_ctx": 128,
    "n_vocab": 500,
    "n_embd": 128,
    "n_layer": 2,
    "n_head": 2,
    "embed_dropout": 0,
    "attn_dropout": 0,
    "res_dropout": 0,
    "scale_by_in": False,
    "precision": "bfloat16",
    "scan_layers": True,
    "train_batch_size": 8,
    "max_steps": 10,
    "data_path": "nowhere",
}


def rehearse(tmp_path, name, *options, **changes):
    path = tmp_path / "model.json"
    path.write_text(json.dumps({**FILE, "model_path": str(tmp_path / "run"), **changes}))
    command = [sys.executable, "main.py", "--model", str(path), "--rehearse", name, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


# Names of slices.


@pytest.mark.parametrize(
    ("name", "kind", "devices", "shape"),
    [
        ("v5e-8", "TPU v5 lite", 8, "2x4"),
        ("v5litepod-256", "TPU v5 lite", 256, "16x16"),
        ("v6e-64", "TPU v6 lite", 64, "8x8"),
        ("v5p-512", "TPU v5", 256, "4x8x8"),
        ("v4-8", "TPU v4", 4, "2x2x1"),
        ("tpu7x-8", "TPU7x", 8, "2x2x1"),
        ("h100x8", "NVIDIA H100", 8, ""),
    ],
)
def test_names_are_those_of_the_makers(name, kind, devices, shape):
    found = topologies.find(name)
    assert (found.kind, found.devices, found.shape) == (kind, devices, shape)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5-8", r"no machine 'v5-8'; did you mean v5\w\?; available: v4-N, v5e-N"),
        ("v5e-24", "v5e-24: a slice of v5e has one of these sizes: 1, 4, 8, 16, 32, 64, 128, 256"),
        ("v5p-9", "a slice of v5p has one of these sizes: 8, 16"),
        ("h100x0", "no machine"),
        ("", "no machine"),
    ],
)
def test_a_machine_that_there_is_not_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        topologies.find(name)


# Statistics of a compiled program.


def test_collectives_of_a_step_are_those_counted_by_hand(tmp_path):
    D, L, V, F = 32, 2, 128, 128  # from tests/estimator/parallel/test_mesh.py; the vocabulary is padded to 128
    parameters = V * D + N_CTX * D + 2 * D + L * (4 * D + D * 3 * D + 3 * D + D * D + D + D * F + F + F * D + D)
    found = contents(compiled((8, 1, 1), tmp_path).as_text(), devices=8)
    assert {(what.kind, what.group) for what in found.collectives} == {("all-reduce", 8)}
    # All gradients (two for the embedding: from lookup and head), and the sums of loss and weight, in float32.
    total = sum(what.size * times for what, times in found.collectives.items())
    assert total == pytest.approx(4 * (parameters + V * D), abs=16)
    assert found.loops_of_unknown_length == 0


def test_a_collective_in_a_loop_counts_as_often_as_the_loop_runs():
    mesh = Mesh(np.array(jax.devices()), ("x",))

    def add_up(x):
        return jax.lax.scan(lambda total, _: (jax.lax.psum(total, "x") / 8, None), x, length=5)[0]

    whole = PartitionSpec()
    function = jax.jit(jax.shard_map(add_up, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False))
    text = function.lower(jax.ShapeDtypeStruct((1000,), jnp.float32)).compile().as_text()
    assert contents(text, devices=8).collectives == {Collective("all-reduce", 4000, 8): 5}


def test_gathering_over_a_part_of_the_mesh_names_its_group_and_the_whole_array():
    mesh = Mesh(np.array(jax.devices()).reshape(2, 4), ("a", "b"))
    x = jax.ShapeDtypeStruct((64, 10), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("b")))
    text = jax.jit(lambda x: x * 2, out_shardings=NamedSharding(mesh, PartitionSpec())).lower(x).compile().as_text()
    assert contents(text, devices=8).collectives == {Collective("all-gather", 64 * 10 * 4, 4): 1}


def test_text_of_a_tpu_program_is_read():
    """An all-gather in three parts, a reduce-scatter as all-reduce and slice, and replica groups given as mesh axes."""
    groups = "replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}"
    text = f"""
%start (p: bf16[4,8]) -> bf16[16,8] {{
  ROOT %all-gather.1 = bf16[16,8]{{1,0:T(8,128)}} all-gather(%p), channel_id=7, {groups}, chain_id="0"
}}
%middle (p: bf16[4,8]) -> bf16[16,8] {{
  ROOT %all-gather.2 = bf16[16,8]{{1,0:T(8,128)S(1)}} all-gather(%p), channel_id=7, {groups}, chain_id="0"
}}
%all-reduce-scatter.3 (p: f32[16,8]) -> f32[4,8] {{
  %all-reduce.4 = f32[16,8]{{1,0}} all-reduce(%p), channel_id=8, {groups}, to_apply=%add
  ROOT %part = f32[4,8] dynamic-slice(%all-reduce.4, %i), dynamic_slice_sizes={{4,8}}
}}
%add (x: f32[], y: f32[]) -> f32[] {{
  ROOT %sum = f32[] add(%x, %y)
}}
%body (b: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {{
  %a = bf16[16,8] fusion(%x), kind=kCustom, calls=%start
  %b = bf16[16,8] fusion(%x), kind=kCustom, calls=%middle
  ROOT %c = f32[4,8] fusion(%y), kind=kCustom, calls=%all-reduce-scatter.3
}}
%condition (b: (s32[], f32[4,8])) -> pred[] {{
  %limit = s32[]{{:T(128)}} constant(12)
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}}
ENTRY %main (p: f32[4,8]) -> f32[4,8] {{
  %loop = (s32[], f32[4,8]) while(%t), condition=%condition, body=%body
}}
"""
    assert contents(text, devices=8).collectives == {
        Collective("all-gather", 16 * 8 * 2, 4): 12,
        Collective("reduce-scatter", 16 * 8 * 4, 4): 12,
    }


def test_memory_traffic_of_a_loop_is_that_of_the_same_unrolled():
    def steps(x, w, *, unroll):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w, unroll=unroll)[0]

    x, w = jax.ShapeDtypeStruct((64, 64), jnp.float32), jax.ShapeDtypeStruct((16, 64, 64), jnp.float32)
    one = jax.devices()[:1]
    looped, unrolled = (
        contents(
            jax.jit(steps, static_argnames="unroll").lower(x, w, unroll=unroll).compile().as_text(), devices=len(one)
        )
        for unroll in (1, 16)
    )
    assert looped.moved == pytest.approx(unrolled.moved, rel=0.5)


def test_the_formula_for_flops_is_what_xla_counts_without_loops(tmp_path):
    # "native" attention runs in a C++ custom call that XLA cannot see into.
    model = {"scan_layers": False, "n_embd": 256, "n_vocab": 512, "attention": "reference"}
    spec = estimator(tmp_path, devices=one_device(), model=model).spec("train")
    tokens = jax.ShapeDtypeStruct((BATCH, N_CTX + 1), jnp.int32)
    gradient = jax.grad(lambda values, batch: spec.loss(values, batch, None)[0])
    counted = jax.jit(gradient).lower(abstract(spec.parameters), {"tokens": tokens}).cost_analysis()["flops"]
    # XLA also counts elementwise operations, in addition to matrix products.
    assert 1 < counted / (BATCH * N_CTX * spec.flops_per_token) < 1.15


# Bounds of the estimates.


def test_rings_send_what_the_textbook_says():
    assert Collective("all-reduce", 800, 8).sent == 1400
    assert Collective("all-gather", 800, 8).sent == Collective("reduce-scatter", 800, 8).sent == 700
    assert Collective("collective-permute", 800, 2).sent == 800


def test_a_group_beyond_a_domain_takes_the_network():
    chip = CHIPS["NVIDIA H100"]
    inside = roofline.link_seconds(chip, Collective("all-reduce", 1e9, 8))
    assert inside == pytest.approx(1.75e9 / 450e9)
    across = roofline.link_seconds(chip, Collective("all-reduce", 1e9, 16))
    assert across == pytest.approx(inside + 2 * (1e9 / 8) / 2 / 50e9)


def test_the_collectives_by_formula_are_those_of_the_compiled_step(tmp_path):
    specs = estimator(tmp_path, (8, 1, 1)).spec("train").parameters
    by_formula = roofline.expected(
        specs, sizes={"data": 8, "fsdp": 1, "tensor": 1}, micro_batch=1, tokens=N_CTX, parts=1, width=4
    )
    read = contents(compiled((8, 1, 1), tmp_path).as_text(), devices=8).collectives
    total = [sum(what.sent * times for what, times in counter.items()) for counter in (by_formula, read)]
    assert total[0] == pytest.approx(total[1], rel=0.15)  # counts the embedding twice


# The command line.


def test_gpus_are_estimated_and_the_report_says_so(tmp_path):
    done = rehearse(tmp_path, "h100x8")
    assert done.returncode == 0, done.stderr
    assert "an estimate by formula: nothing was compiled" in done.stdout
    assert "mesh: data 8, fsdp 1, tensor 1" in done.stdout
    assert "attention: cudnn" in done.stdout
    assert not (tmp_path / "run").exists()


def test_attention_dropout_falls_back_and_says_so(tmp_path):
    done = rehearse(tmp_path, "h100x8", attn_dropout=0.1)
    assert "attention: blocked (cudnn has no attention dropout" in done.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_embd": 8192, "n_layer": 96}, r"does not fit: it needs about .* of the 80 GB .* write .*remat"),
        ({"train_batch_size": 9}, "9 sequences"),
        ({"mesh": {"data": 3}}, "data 3 does not give the 8 devices"),
        ({"mesh": {"tensor": 8}}, "tensor 8 does not divide the 2 heads"),
    ],
)
def test_a_file_that_cannot_be_trained_there_is_refused(tmp_path, changes, message):
    done = rehearse(tmp_path, "h100x8", **changes)
    assert done.returncode == 2, done.stdout
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def test_the_compilers_refusal_becomes_one_message_with_the_fix(tmp_path):
    plan = estimator(tmp_path, (8, 1, 1)).plan(total_steps=1, first_step=0)
    error = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 23.66G of 15.75G hbm. Exceeded by 7.91G."
    message = str(rehearsal.refusal(topologies.find("v5e-8"), plan, error))
    assert "needs 23.66GiB of the 15.75GiB of a device" in message
    assert '"fsdp": 2 in mesh' in message


def test_a_tpu_step_is_compiled_measured_and_remembered(tmp_path):
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("no libtpu; pip install -r requirements-tpu.txt")
    first = rehearse(tmp_path, "v5e-4", train_batch_size=4)
    assert first.returncode == 0, first.stderr
    assert "attention: flash (fastest on tpu)" in first.stdout
    assert "compiled by libtpu" in first.stdout
    assert "all-reduce" in first.stdout
    assert "libtpu_init" not in first.stderr
    kept = list((tmp_path / "cache" / "rehearsals").glob("*.json"))
    assert len(kept) == 1
    measured = rehearsal.Measured(**json.loads(kept[0].read_text()))
    counter = measured.counter()
    assert isinstance(counter, Counter)
    assert {what.group for what in counter} == {4}
    again = rehearse(tmp_path, "v5e-4", train_batch_size=4)
    assert again.stdout == first.stdout
