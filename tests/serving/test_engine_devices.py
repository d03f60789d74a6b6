"""The engine without native kernels, as on GPUs and TPUs, and with weights sharded over a mesh."""

import jax
import numpy as np
import pytest
from helpers.sampling import generate
from helpers.tiny_gpt2 import TINY, random_params
from jax.sharding import Mesh

from estimator.parallel import mesh as meshes
from estimator.parallel import shardings
from models import gpt2
from models.gpt2 import cpu_kernels, model
from models.gpt2.decode.sampler import Sampler, Settings
from serving.engine import Engine
from serving.request import EngineConfig, PromptScore, SamplingParams

CONFIG = gpt2.Config(**(TINY | {"n_ctx": 48, "n_layer": 2}))


@pytest.fixture(autouse=True)
def _without_kernels(monkeypatch):
    monkeypatch.setattr(cpu_kernels, "obstacle", lambda *_: "has no compiler")


@pytest.mark.parametrize("tensor", [1, 2])
def test_answers_equal_those_of_the_sampler(tensor):
    params = random_params(CONFIG)
    expected = Sampler(params, CONFIG)
    if tensor > 1:
        mesh = Mesh(np.asarray(jax.devices()[:tensor]).reshape(1, 1, tensor), meshes.AXES)
        params = jax.device_put(params, shardings.parameter_shardings(model.parameters(CONFIG), mesh))
    engine = Engine(Sampler(params, CONFIG), EngineConfig(slots=2, chunk=32))
    assert not engine._model.is_native
    prompts = [np.random.default_rng(seed).integers(0, 100, n).tolist() for seed, n in enumerate((5, 40, 45))]
    lengths = (30, 60, 3)
    handles = [
        engine.submit(prompt, SamplingParams(max_tokens=length, seed=4))
        for prompt, length in zip(prompts, lengths, strict=True)
    ]
    for prompt, length, handle in zip(prompts, lengths, handles, strict=True):
        answer, _ = handle.result()
        assert answer == generate(expected, [prompt], Settings(), length=length, seed=4)[0]
    first, second = (engine.submit(prompts[1], SamplingParams(max_tokens=0, prompt_logprobs=1)) for _ in range(2))
    scores = [event for handle in (first, second) for event in handle if isinstance(event, PromptScore)]
    assert scores[0] == scores[1]
    assert engine.close(timeout=60)
    if tensor > 1:
        assert len(engine._model._state.k[0].sharding.device_set) == tensor
