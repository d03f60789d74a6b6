"""Programs that libtpu compiles ahead of time from a small model's bfloat16 step: products, FLOPs, and memory."""

import importlib.util
import json
import math
import re
from typing import NamedTuple

import jax
import numpy as np
import pytest

import optimizers
from estimator.aot import hlo, rehearse, topologies
from estimator.estimator import Estimator
from estimator.parallel.mesh import split_dim
from estimator.training.dry_run import device_bytes
from estimator.training.run_config import RunConfig
from models import MODELS

GPT2 = MODELS["GPT2"]
MODEL = {
    "n_ctx": 256, "n_vocab": 1024, "n_embd": 256, "n_layer": 2, "n_head": 4, "embed_dropout": 0, "attn_dropout": 0,
    "res_dropout": 0, "scale_by_in": False, "precision": "bfloat16", "scan_layers": True,
}  # fmt: skip
BATCH = 8


class Product(NamedTuple):
    """A matrix product. numbers: elements of both operands and the result; times: executions per step."""

    operands: tuple[str, ...]
    numbers: tuple[int, ...]
    times: int
    name: str

    @property
    def flops(self) -> float:
        """FLOPs: for M x K times K x N it is 2 M K N, computed from the element counts alone."""
        return 2 * math.sqrt(math.prod(self.numbers)) * self.times


def products(text: str) -> list[Product]:
    """Returns all products of a program. TPU programs express them as convolutions with unshaped operands."""
    computations, entry = hlo._computations(text)
    found: list[Product] = []

    def walk(computation: str, times: int) -> None:
        shapes = {each.name: each.shape for each in computations[computation]}
        for each in computations[computation]:
            if each.operation in ("convolution", "dot"):
                names = re.findall(r"%([\w.\-]+)", each.rest.partition(")")[0])
                arrays = [re.match(r"(\w+)\[([\d,]*)\]", shape) for shape in (*map(shapes.get, names), each.shape)]
                numbers = [math.prod(map(int, filter(None, array[2].split(",")))) for array in arrays]
                name = re.search(r'op_name="([^"]*)"', each.rest)
                kinds = tuple(array[1] for array in arrays[:2])
                found.append(Product(kinds, tuple(numbers), times, name[1] if name else each.name))
            trips = hlo._trips(each, computations) or 1 if each.operation == "while" else 1
            for called in hlo._called(each.rest):
                walk(called, times * trips)

    walk(entry, 1)
    return found


class Compiled(NamedTuple):
    plan: object
    products: list[Product]
    memory: object
    kernels: int


@pytest.fixture(scope="module", params=["v5e-4", "v6e-4"])
def compiled(request, tmp_path_factory) -> Compiled:
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("no libtpu; pip install -r requirements-tpu.txt")
    machine = topologies.find(request.param)
    settings = GPT2.Config(**MODEL), optimizers.OptimizerConfig(opt_name="adam", lr=1e-3, warmup_steps=2)
    params = GPT2.Params(*settings, rehearse.STEPS, None, machine.platform)
    run = RunConfig(model_path=str(tmp_path_factory.mktemp("run")), train_batch_size=BATCH, max_steps=10, iterations=1)
    estimator = Estimator(GPT2.model_fn, params, run, devices=topologies.devices(machine))
    plan = estimator.plan(total_steps=10, first_step=0)
    program, _ = estimator.program(plan.spec, plan.accumulation, plan.state)
    shape = (plan.accumulation, BATCH // plan.accumulation, MODEL["n_ctx"] + 1)
    tokens = jax.ShapeDtypeStruct(shape, np.int32, sharding=split_dim(plan.mesh, 1))
    with topologies.quiet():
        executable = program.lower(plan.state, {"tokens": tokens}, 1).compile()
    text = executable.as_text()
    return Compiled(plan, products(text), executable.memory_analysis(), text.count("tpu_custom_call"))


@pytest.mark.slow
def test_no_product_has_a_float32_operand(compiled):
    assert len(compiled.products) >= 15  # four matrices per layer and the output matrix, and two gradients of each
    wrong = [product for product in compiled.products if "f32" in product.operands]
    assert not wrong, json.dumps(wrong, indent=1)


@pytest.mark.slow
def test_arithmetic_is_that_of_the_formula(compiled):
    """Attention runs in a kernel, whose FLOPs do not appear in the program text."""
    assert compiled.kernels >= 3  # forward, gradient of the queries, gradient of keys and values
    tokens = BATCH * MODEL["n_ctx"]
    of_attention = 12 * MODEL["n_layer"] * MODEL["n_embd"] * MODEL["n_ctx"]
    expected = tokens * (compiled.plan.spec.flops_per_token - of_attention) / 4
    assert sum(product.flops for product in compiled.products) == pytest.approx(expected, rel=0.05)


@pytest.mark.slow
def test_memory_is_told(compiled):
    memory, tokens = compiled.memory, BATCH // 4 * (MODEL["n_ctx"] + 1) * 4
    assert memory.argument_size_in_bytes == pytest.approx(device_bytes(compiled.plan.state) + tokens, rel=0.02)
    assert memory.alias_size_in_bytes >= 0.99 * device_bytes(compiled.plan.state)  # donated and updated in place
    assert memory.generated_code_size_in_bytes > 0
