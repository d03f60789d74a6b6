"""Reads the config.json of Hugging Face's GPT-2 as keys of a run."""

import json
from pathlib import Path
from typing import Any

from estimator import json_text
from estimator.errors import UserError

ACTIVATIONS = ("gelu_new", "gelu", "quick_gelu", "relu", "relu2", "silu", "tanh")  # those of the model
# Other names of transformers' activations.
OTHER_NAMES = {
    "gelu_pytorch_tanh": "gelu_new", "gelu_fast": "gelu_new", "gelu_accurate": "gelu_new", "gelu_python": "gelu",
    "swish": "silu",
}  # fmt: skip
# Keys that transformers takes for each other; it writes the second and reads both.
ALIASES = {
    "num_attention_heads": "n_head", "hidden_size": "n_embd", "num_hidden_layers": "n_layer",
    "max_position_embeddings": "n_positions",
}  # fmt: skip
# Keys of a run that say which function the weights mean, with GPT-2's values.
DEFAULTS: dict[str, Any] = {
    "activation": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
}
FUNCTION = tuple(DEFAULTS)
# What our model is; a file that says otherwise is of another architecture.
FIXED: dict[str, Any] = {"model_type": "gpt2", "add_cross_attention": False}


def read_config(path: Path) -> dict[str, Any]:
    """The contents of a config.json, under transformers' first names.

    Raises UserError when it is of another architecture than ours, or contradicts itself.
    """
    try:
        values = json_text.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError
    except ValueError:
        raise UserError(f"{path} is not a config.json of Hugging Face's; download it again") from None
    for alias, key in ALIASES.items():
        if values.get(alias, values.get(key)) != values.get(key, values.get(alias)):
            raise UserError(f"{path}: {alias} is {values[alias]} and {key} is {values[key]}; correct one of both")
        if alias in values:
            values.setdefault(key, values.pop(alias))
    sizes = ("n_head", "n_embd", "n_layer", "n_positions", "vocab_size")
    problems = [
        f"{key} {json.dumps(values[key])} (here a number above 0)"
        for key in sizes
        if values.get(key) is not None and (type(values[key]) is not int or values[key] < 1)
    ]
    problems += [
        f"{key} {json.dumps(values[key])} (here {json.dumps(ours)})"
        for key, ours in FIXED.items()
        if key in values and values[key] != ours
    ]
    try:
        model_keys(values)
    except ValueError as error:
        problems.append(str(error))
    if problems:
        raise UserError(f"{path} is of another architecture than this GPT-2: " + ", ".join(problems))
    return values


def model_keys(values: dict[str, Any]) -> dict[str, Any]:
    """Keys of ours that say which function the weights of a config.json mean. Raises ValueError where none can.

    n_head is among them where it is known: transformers takes 12 where a config.json of GPT-2's does not say it.
    """
    given = values.get("activation_function", DEFAULTS["activation"])
    activation = OTHER_NAMES.get(given, given) if isinstance(given, str) else None
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation_function {json.dumps(given)} (here {', '.join(ACTIVATIONS)})")
    keys = {"activation": activation} | {key: values.get(key, DEFAULTS[key]) for key in FUNCTION[1:]}
    for key, value in keys.items():
        if type(value) not in (type(DEFAULTS[key]), int if key == "layer_norm_epsilon" else bool, str):
            raise ValueError(f"{key} {json.dumps(value)} (here as {json.dumps(DEFAULTS[key])})")
    head = values.get("n_head", 12 if "model_type" in values else None)
    return keys if head is None else keys | {"n_head": head}


def run_keys(path: Path) -> dict[str, Any]:
    """The keys of a run that has the model of a config.json; those with GPT-2's value are left out."""
    values = read_config(path)
    keys = {key: values[key] for key in ("n_layer", "n_embd", "n_head", "n_inner") if values.get(key) is not None}
    function = model_keys(values)
    keys |= {key: function[key] for key in (*FUNCTION, "n_head") if function.get(key) != DEFAULTS.get(key)}
    if positions := values.get("n_positions", values.get("n_ctx")):
        keys["n_ctx"] = positions
    return (
        keys
        | {"n_vocab": values.get("vocab_size", 50257)}
        | ({} if values.get("tie_word_embeddings", True) else {"untied_head": True})
    )
