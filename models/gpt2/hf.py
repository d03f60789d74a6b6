"""Hugging Face's GPT-2: names, config.json, and the folder that transformers, vLLM and others load.

Its matrices lie as [inputs, outputs], as ours do. OpenAI's own upload has no prefix before the names, files of today
have `transformer.`.
"""

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from models.gpt2 import weights
from models.gpt2.gpt2 import GPT2Config, parameters
from models.gpt2.weights import Layout
from runtime import safetensors
from runtime.errors import UserError
from text import tokenizers

PREFIX = "transformer."
HEAD = "lm_head.weight"  # never with the prefix; in a tied model it is wte, or is left out
TANH_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")  # three names of one function
DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
# What our model is; a file that says otherwise is of another architecture.
FIXED: dict[str, Any] = {
    "model_type": "gpt2",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def layout(names: Iterable[str] = (PREFIX,)) -> Layout:
    """The layout of a file with these names: with the prefix if any of them has it."""
    prefix = PREFIX if any(name.startswith(PREFIX) for name in names) else ""

    def name(path: str, layer: int | None) -> str:
        if path == "lm_head":
            return HEAD
        parts = path.split("/")
        if layer is not None:
            parts.insert(1, str(layer))
        last = {"w": "weight", "g": "weight", "b": "bias"}.get(parts[-1])
        return prefix + ".".join([*parts[:-1], last] if last else [*parts, "weight"])

    # Masks of the attention, which older files hold as if they were parameters, and the tied output.
    masks = (".attn.bias", ".attn.masked_bias")
    return Layout(name, ignored=lambda name: name.endswith(masks) or name == HEAD)


def read_config(path: Path) -> dict[str, Any]:
    """The contents of a config.json. Raises UserError when it is of another architecture than ours."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        activation = values.get("activation_function", TANH_GELU[0])
    except (ValueError, AttributeError):
        raise UserError(f"{path} is not a config.json of Hugging Face's; download it again") from None
    wrong = [
        f"{key} {json.dumps(values[key])} (here {json.dumps(ours)})"
        for key, ours in FIXED.items()
        if key in values and values[key] != ours
    ]
    if activation not in TANH_GELU:
        wrong.append(f"activation_function {json.dumps(activation)} (here {json.dumps(TANH_GELU[0])})")
    if wrong:
        raise UserError(f"{path} is of another architecture than this GPT-2: " + ", ".join(wrong))
    return values


def config(model: GPT2Config, *, end_of_text: int | None, dtype: str) -> dict[str, Any]:
    """The config.json of a model. n_ctx is what GGUF's converter reads, n_positions what transformers does."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        **FIXED,
        "tie_word_embeddings": not model.untied_head,
        "activation_function": TANH_GELU[0],
        "n_ctx": model.n_ctx,
        "n_positions": model.n_ctx,
        "n_embd": model.n_embd,
        "n_head": model.heads,
        "n_layer": model.n_layer,
        "n_inner": None if model.inner == 4 * model.n_embd else model.inner,
        "vocab_size": model.n_vocab,
        "attn_pdrop": model.attn_dropout,
        "embd_pdrop": model.embed_dropout,
        "resid_pdrop": model.res_dropout,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "dtype": dtype,
    }


def write(
    out: Path,
    params: Any,
    model: GPT2Config,
    *,
    encoder: str | Path | None,
    dtype: str,
    progress: Callable[[int], object] = lambda size: None,
) -> None:
    """Writes the folder `out`: model.safetensors, the two configs and, with `encoder`, the vocabulary.

    params: the parameters, or a function that gives one by its name, as `weights.Entries` asks for them.
    dtype: a key of DTYPES. The weights come last: a folder with them is whole. Raises UserError when `out` holds the
    files of something else.
    """
    if (out / "config.json").exists() and not (out / "generation_config.json").exists():
        raise UserError(f"{out} has a config.json of something else; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / "model.safetensors").unlink(missing_ok=True)
    end_of_text = None
    if encoder is not None:
        tokenizer = tokenizers.load(encoder)
        tokenizer.save(out)
        end_of_text = tokenizer.end_of_text
    contents = config(model, end_of_text=end_of_text, dtype=DTYPES[dtype])
    generation = {key: contents[key] for key in ("bos_token_id", "eos_token_id")} | {"do_sample": True}
    for name, values in (("generation_config.json", generation), ("config.json", contents)):
        temporary = out / f"{name}.tmp"
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, out / name)
    arrays = weights.Entries(params, parameters(model), layout())
    safetensors.write(
        out / "model.safetensors",
        {name: arrays.shape(name) for name in arrays},
        arrays.__getitem__,
        dtype=dtype.upper(),
        metadata={"format": "pt"},
        progress=progress,
    )
