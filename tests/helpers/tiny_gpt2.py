"""A tiny GPT-2 with random parameters."""

import jax
import jax.numpy as jnp
import numpy as np

from estimator.parallel import param_spec as parameters
from models.gpt2 import model as gpt2
from models.gpt2.model import GPT2Config

TINY = {"n_ctx": 16, "n_vocab": 100, "n_embd": 32, "n_layer": 3, "n_head": 4, "scale_by_in": False}


def tiny(**changes) -> GPT2Config:
    return GPT2Config(**(TINY | changes))


def random_params(config: GPT2Config, seed: int = 0):
    """Returns random parameters of scale 0.1, including biases and gains, so that errors in any of them show up."""
    random = np.random.default_rng(seed)  # JAX would compile a program for each shape
    specs = gpt2.parameters(config)
    drawn = parameters.map_specs(lambda spec: random.normal(0, 0.1, spec.shape).astype(np.float32), specs)
    drawn["wte"][config.n_vocab :] = 0
    return jax.tree.map(jnp.asarray, drawn)
