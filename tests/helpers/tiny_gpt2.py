"""A tiny GPT-2 with random parameters."""

import jax
import jax.numpy as jnp

from estimator.parallel import param_spec as parameters
from models.gpt2 import model as gpt2
from models.gpt2.model import GPT2Config

TINY = {"n_ctx": 16, "n_vocab": 100, "n_embd": 32, "n_layer": 3, "n_head": 4, "scale_by_in": False}


def tiny(**changes) -> GPT2Config:
    return GPT2Config(**(TINY | changes))


def random_params(config: GPT2Config, seed: int = 0):
    """Returns random parameters of scale 0.1, including biases and gains, so that errors in any of them show up."""
    specs = gpt2.parameters(config)
    noise = parameters.map_specs(lambda spec: jnp.full(spec.shape, 0.0), specs)
    keys = iter(jax.random.split(jax.random.key(seed), 100))
    drawn = jax.tree.map(lambda leaf: 0.1 * jax.random.normal(next(keys), leaf.shape), noise)
    return {**drawn, "wte": drawn["wte"].at[config.n_vocab :].set(0)}
