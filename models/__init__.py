"""MODELS: name in the JSON file -> model. Add a model here.

A model is a module with `Config` (its section of the JSON file), `Params` (the inputs of `model_fn`), `model_fn`,
`attention_choice`, `initial_vocabulary` and `warnings`.
"""

from models import gpt2

MODELS = {"GPT2": gpt2}
