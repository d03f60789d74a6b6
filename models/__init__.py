"""The models that a JSON file can name: a dict literal, to which a new one is added by hand.

Each is a module with `Config` (its section of the JSON file), `Params` (what `model_fn` builds from: its section, the
optimizer's, and the total of steps), `model_fn`, `attention_choice` and `warnings`.
"""

from models import gpt2

MODELS = {"GPT2": gpt2}
