"""Weights of generation against their parameters, and how many arrays exist while they are converted."""

from functools import partial

import jax
import numpy as np
import pytest
from helpers.tiny_gpt2 import TINY, random_params, tiny

from estimator.parallel.param_spec import initialize, named
from models.gpt2 import Config, cpu_kernels, lora
from models.gpt2.decode import decoding_weights
from models.gpt2.decode.sampler import Sampler
from models.gpt2.model import GPT2Config


def parameters_of(config: GPT2Config) -> dict[str, jax.Array]:
    """By name, each in memory of its own, so that it can be freed."""
    return {name: jax.numpy.array(leaf) for name, leaf in named(random_params(config))}


@pytest.mark.parametrize("keys", [{}, {"untied_head": True}, {"n_hidden": 48}])
def test_arrays_are_those_of_each_layer_in_the_type_of_the_products(keys):
    config = tiny(precision="bfloat16", **keys)
    expected = random_params(config)
    weights = decoding_weights.convert(parameters_of(config), config=config, storage=None)
    assert len(weights["h"]) == config.n_layer
    for layer, there in enumerate(weights.pop("h")):
        for (name, value), (_, stack) in zip(named(there), named(expected["h"]), strict=True):
            assert value.dtype == ("bfloat16" if name.endswith("/w") else "float32")
            np.testing.assert_array_equal(value, stack[layer].astype(value.dtype))
    del expected["h"]
    for (name, value), (_, leaf) in zip(named(weights), named(expected), strict=True):
        is_product = name in ("wte", "lm_head") or name.endswith("/w")
        assert value.dtype == ("bfloat16" if is_product else "float32"), name
        np.testing.assert_array_equal(value, leaf.astype(value.dtype))


@pytest.mark.skipif(cpu_kernels.obstacle() is not None, reason="matrices are packed by the C++")
@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
def test_packed_matrices_give_their_rows_again(storage):
    config = tiny(n_embd=64)
    expected = random_params(config)
    weights = decoding_weights.convert(parameters_of(config), config=config, storage=storage)
    tolerance = {"float32": 0, "bfloat16": 2**-8, "int8": 0.5 / 127}[storage]
    pairs = [(weights["wte"], expected["wte"])]
    for layer, there in enumerate(weights["h"]):
        pairs.append((there["mlp"]["c_fc"]["w"], expected["h"]["mlp"]["c_fc"]["w"][layer].T))
        stack = expected["h"]["attn"]["c_proj"]["w"][layer]
        pairs.append((there["attn"]["c_proj"]["w"], stack.reshape(-1, stack.shape[-1]).T))
    for packed, matrix in pairs:
        largest = float(np.abs(matrix).max())
        rows = packed[jax.numpy.arange(len(matrix))]
        np.testing.assert_allclose(rows, matrix, rtol=0, atol=tolerance * largest)


def test_no_more_than_one_parameter_is_in_memory_twice(monkeypatch):
    config = tiny(n_embd=64)
    params = random_params(config)
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    largest = max(leaf.nbytes for leaf in jax.tree.leaves(params))
    before, most, stored = {id(array) for array in jax.live_arrays()} - ids(params), [0], decoding_weights._stored

    def counted(*arguments, **options):
        result = stored(*arguments, **options)
        alive = sum(array.nbytes for array in jax.live_arrays() if id(array) not in before)
        most[0] = max(most[0], alive + sum(leaf.nbytes for leaf in jax.tree.leaves(result)))
        return result

    monkeypatch.setattr(decoding_weights, "_stored", counted)
    sampler = Sampler(params, config, keeps_params=False)
    assert params == {}
    rounding = 2 * sum(leaf.nbytes for leaf in jax.tree.leaves(sampler.weights)) - 2 * whole  # of packed matrices
    assert whole < most[0] <= whole + 2 * largest + rounding


def ids(tree) -> set[int]:
    return set(map(id, jax.tree.leaves(tree)))


def test_parameters_are_kept_unless_the_caller_gives_them_away():
    config = Config(**TINY, lora_rank=2)
    params = initialize(lora.parameters(config), jax.random.key(0))
    params[lora.LORA] = jax.tree.map(jax.numpy.ones_like, params[lora.LORA])
    merge = partial(lora.merged, config=config)
    kept = Sampler(params, config, merge=merge)
    assert params.keys() == lora.parameters(config).keys()
    freed = Sampler(params, config, merge=merge, keeps_params=False)
    assert params == {}
    for one, other in zip(jax.tree.leaves(kept.weights), jax.tree.leaves(freed.weights), strict=True):
        np.testing.assert_array_equal(one, other)
