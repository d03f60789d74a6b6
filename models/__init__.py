"""The models that a JSON file can name: a dict literal, to which a new one is added by hand."""

from typing import Any, NamedTuple

from models import gpt2
from runtime.config import Section


class Model(NamedTuple):
    """What main.py needs of a model.

    config: the section of the JSON file that is the model's. params: what model_fn is given, built from sections.
    attention_choice: (config, mode) -> which program computes attention. warnings: config -> lines.
    """

    config: type[Section]
    params: Any
    model_fn: Any
    attention_choice: Any
    warnings: Any


MODELS = {
    "GPT2": Model(gpt2.GPT2Config, gpt2.GPT2Params, gpt2.model_fn, gpt2.attention_choice, gpt2.warnings),
}
