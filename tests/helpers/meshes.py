"""A small Estimator on eight fake devices."""

import jax
import numpy as np

import optimizers
from estimator.estimator import Estimator
from estimator.parallel import mesh
from estimator.training.fused_step import train_step
from estimator.training.initial_state import state_template
from estimator.training.run_config import RunConfig
from models import MODELS

GPT2 = MODELS["GPT2"]


N_VOCAB, N_CTX, BATCH = 100, 16, 8


MODEL = {"n_ctx": N_CTX, "n_vocab": N_VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 8, "scan_layers": True}


NO_DROPOUT = {"embed_dropout": 0, "attn_dropout": 0, "res_dropout": 0, "scale_by_in": False}


OPTIMIZERS = {
    "adam": {"opt_name": "adam", "lr": 1e-2, "warmup_steps": 2},
    "adafactor": {"opt_name": "adafactor", "lr": 1e-1, "beta1": 0.9, "warmup_steps": 2},
}


def estimator(folder, sizes=None, *, optimizer="adam", devices=None, model=None, **changes) -> Estimator:
    axes = dict(zip(mesh.AXES, sizes, strict=True)) if sizes else None
    values = {"train_batch_size": BATCH, "max_steps": 20, "log_steps": 1, "save_minutes": None, "mesh": axes} | changes
    params = GPT2.Params(
        GPT2.Config(**(MODEL | NO_DROPOUT | (model or {}))),
        optimizers.OptimizerConfig(**OPTIMIZERS[optimizer]),
        20,
    )
    return Estimator(GPT2.model_fn, params, RunConfig(model_path=str(folder), **values), devices=devices)


def compiled(sizes, folder, **changes):
    run = estimator(folder, sizes, **changes)
    spec = run.spec("train")
    state = state_template(spec, run.mesh, run.config)
    rows = jax.ShapeDtypeStruct((1, BATCH, N_CTX + 1), np.int32, sharding=mesh.split_dim(run.mesh, 1))
    step = train_step(spec.loss, spec.optimizer, accumulation=1, seed=0)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None)).lower(state, {"tokens": rows}).compile()
