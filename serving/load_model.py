"""A run of `main.py` as a model that is served: its weights in an engine, its vocabulary, its chat template."""

import sys
from functools import partial

import inputs
import optimizers
from estimator import setup
from estimator.corpus.chat_template import Template
from estimator.estimator import Estimator
from estimator.generation import completion
from estimator.parallel import param_spec
from estimator.setup import Setup
from estimator.tokenization import tokenizer as tokenizers
from estimator.tokenization.tokenizer import Tokenizer
from estimator.training import run_dir
from models import MODELS
from models.gpt2.decode.sampler import resolved
from models.gpt2.decode.slots import Slots
from serving.config import ModelEntry, ServerConfig
from serving.loaded import LoadedModel


def read_setup(entry: ModelEntry) -> Setup:
    """The run that an entry names, checked."""
    path, overrides, missing = entry.source()
    return setup.read(path, overrides, models=MODELS, optimizers=optimizers, open_data=inputs.open_data, flags=missing)


def opened(entry: ModelEntry) -> tuple[Setup, Estimator, Tokenizer]:
    """The run of an entry, which has a checkpoint, and its vocabulary. Raises UserError for what is wrong with them."""
    run = read_setup(entry)
    estimator = run.estimator()
    estimator.require_checkpoint()
    tokenizer = tokenizers.load(run.vocabulary())
    run_dir.check_vocabulary(run.folder, tokenizer.digest)
    completion.require_known_ids(run.prediction, tokenizer)
    return run, estimator, tokenizer


def load(entry: ModelEntry, config: ServerConfig) -> LoadedModel:
    """Loads the newest checkpoint by the code of `main.py --predict_text`, and compiles.

    Raises UserError and OSError for what is wrong with the run, RuntimeError where the device refuses.
    """
    from serving.engine import Engine

    run, estimator, tokenizer = opened(entry)
    step = estimator.loaded_step() or 0
    engine = Engine(estimator.predictor(n_known=tokenizer.n_vocab), config.engine)
    engine.warm()
    for note in (run.note_other_function, run.note_system_message):
        note(partial(print, file=sys.stderr))
    is_chat = run.data.input == "chat"
    template = Template(tokenizer, source=run.folder) if is_chat else None
    return LoadedModel(entry.key, engine, tokenizer, template, run.prediction, step)


def newest_step(entry: ModelEntry) -> int | None:
    """The step of the newest checkpoint; None before the first."""
    return read_setup(entry).estimator().loaded_step()


def estimated_bytes(entry: ModelEntry, config: ServerConfig) -> int:
    """Memory of a model that was not loaded yet: weights in float32, as they are read, and slots as they will be.

    Afterwards its engine knows exactly. UserError where the model cannot generate in its precision here.
    """
    from serving.engine import Engine

    run = read_setup(entry)
    weights = 4 * param_spec.count(run.estimator().spec("predict").parameters)
    shape, _, _ = resolved(run.model_config)
    return weights + sum(Engine.slot_counts(shape, config.engine)) * Slots.slot_bytes(shape)
