"""Samples of `sample_prompts` during training: of the run's seed and the step, whatever the mesh."""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from estimator.errors import UserError
from estimator.estimator import Estimator
from estimator.generation import prompt_files
from estimator.generation.predict import scored, without_sampler
from estimator.hashing import key_of
from estimator.parallel import agreement, distributed, mesh
from estimator.setup import Setup
from estimator.training.samples import Sampling, TextSample

GREETING = "Hello!"  # stands for the empty prompt in a conversation


class TrainingSamples:
    """Generates on this process's first device with its own copy of the weights, freed after each call.

    All processes generate the same, so none waits for another. The first call compiles; later ones load new weights.
    """

    def __init__(self, setup: Setup, estimator: Estimator, note: Callable[[str], None]):
        """Raises UserError without a vocabulary, or for a model that does not predict."""
        self._estimator, self._seed = estimator, setup.run.seed
        self._config = setup.prediction.model_copy(update={"length": setup.prediction.sample_length})
        predictor = estimator.spec("predict").predictor
        if predictor is None:
            raise UserError("sample_steps: this model does not predict; remove the key")
        note = note if distributed.is_first() else lambda text: None
        self._model = without_sampler(setup, note)  # now, as the vocabulary may be missing
        self._make_sampler = partial(predictor, **self._model.sampler_options())
        self._prompts: list[tuple[str, list[int]]] = []

    def __call__(self, step: int, params: Any) -> list[TextSample]:
        """The samples of a step, `num_samples` for each prompt. A collective."""
        weights = _on_one_device(params, self._estimator.mesh)
        if self._model.sampler is None:
            self._model = self._model._replace(sampler=self._make_sampler(weights))
            session = self._model.session(self._config, 0)
            self._config = session.config
            texts = [text or (GREETING if self._model.template else "") for text in self._config.sample_prompts]
            self._prompts = [(text, session.encode(text)) for text in texts]
        else:
            self._model.sampler.load(weights)
        del weights
        generate = scored(self._model, self._config, key_of(self._seed, step) % 2**32)
        count = self._config.model_copy(update={"num_samples": self._config.samples})
        tokens = [tokens for _, tokens in self._prompts]
        results = list(prompt_files.complete(tokens, self._model.tokenizer, generate, count))
        self._model.sampler.unload()
        is_reply, pairs = self._model.template is not None, zip(self._prompts, results, strict=True)
        return [TextSample(prompt, sample.text, is_reply) for (prompt, _), samples in pairs for sample in samples]


def sampling(setup: Setup, estimator: Estimator, note: Callable[[str], None]) -> Sampling:
    """The run's samples. Without `sample_steps` nothing is read before the first call, which may be commanded.

    Calls raise UserError on all processes if one of them lacks the vocabulary.
    """
    made = functools.cache(partial(TrainingSamples, setup, estimator, note))
    if setup.run.sample_steps:
        made()

    def problem() -> str:
        try:
            made()
        except UserError as error:
            return str(error)
        return ""

    def sample(step: int, params: Any) -> list[TextSample]:
        agreement.require_equal(lambda: {"samples": problem() or "possible"})
        return made()(step, params)

    return sample


def _on_one_device(tree: Any, on: jax.sharding.Mesh) -> Any:
    """The arrays whole on this process's first device; on a mesh of one device, themselves. A collective."""
    if on.size == 1:
        return tree
    # Leaf by leaf, to save memory.
    return jax.tree.map(lambda leaf: _replicate(on)(leaf).addressable_data(0), tree)


@functools.cache
def _replicate(on: jax.sharding.Mesh) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(lambda leaf: leaf, out_shardings=mesh.replicated(on))
