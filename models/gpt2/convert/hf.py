"""Hugging Face's GPT-2: names, config.json, and the folder that transformers, vLLM and others load.

Its matrices are [inputs, outputs], as ours are. OpenAI's own upload has no prefix before the names, files of today
have `transformer.`.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from estimator.errors import UserError, naming
from estimator.interop import gpt2_config, safetensors_io
from estimator.tokenization import tokenizer as tokenizers
from models.gpt2.config import GPT2Config, parameters
from models.gpt2.convert import hf_tokenizer, name_maps
from models.gpt2.convert.name_maps import NameMap

WEIGHTS = "model.safetensors"
MARK = "generation_config.json"  # of a folder that holds an export, or a part of one
PREFIX = "transformer."
HEAD = "lm_head.weight"  # never with the prefix; in a tied model it is wte, or is left out
HEAD_BIAS = "lm_head.bias"  # which no GPT-2 of transformers has; zero if present
DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}


def layout(prefix: str = PREFIX, *, transposed: bool = False) -> NameMap:
    """The layout of a file whose names have this prefix. transposed: matrices are [outputs, inputs], as nanoGPT's."""

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
    ignored = (HEAD, HEAD_BIAS)
    return NameMap(name, transposed=transposed, ignored=lambda name: name.endswith(masks) or name in ignored)


def config(model: GPT2Config, *, end_of_text: int | None, dtype: str) -> dict[str, Any]:
    """The config.json of a model. n_ctx is what GGUF's converter reads, n_positions what transformers does."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        **gpt2_config.FIXED,
        "tie_word_embeddings": not model.untied_head,
        "activation_function": model.activation,
        **{key: getattr(model, key) for key in gpt2_config.FUNCTION[1:]},
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
    sampling: Mapping[str, Any] | None = None,
    progress: Callable[[int], object] = lambda size: None,
) -> None:
    """Writes the folder `out`: model.safetensors, the two configs and, with `encoder`, the vocabulary.

    params: the parameters, or a function that gives one by its name, as `name_maps.Entries` asks for them.
    dtype: a key of DTYPES. sampling: entries of generation_config.json; transformers' own default is top_k 50.
    Everything is written to a folder next to `out` and then moved, the weights last and first what marks `out` as an
    export; files of an earlier export are removed. One process at a time may write `out`. Raises UserError when `out`
    holds the files of something else, or transformers would give other ids.
    """
    refuse_other_contents(out)
    tokenizer = tokenizers.load(encoder) if encoder is not None else None
    texts = hf_tokenizer.files(tokenizer, n_ctx=model.n_ctx) if tokenizer else {}
    tokens = hf_tokenizer.token_ids(tokenizer) if tokenizer else {}
    texts = {
        MARK: tokens | dict(sampling or {"do_sample": True, "top_k": 0}),
        **texts,
        "config.json": config(model, end_of_text=tokenizer.end_of_text if tokenizer else None, dtype=DTYPES[dtype]),
    }
    with naming(out), _emptied(out.with_name(f".{out.name}.partial")) as folder:
        arrays = name_maps.Entries(params, parameters(model), layout())
        safetensors_io.write(
            folder / WEIGHTS,
            {name: arrays.shape(name) for name in arrays},
            arrays.__getitem__,
            dtype=dtype.upper(),
            metadata={"format": "pt"},
            progress=progress,
        )
        for name, value in texts.items():
            if not isinstance(value, str | bytes):
                value = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
            (folder / name).write_bytes(value.encode() if isinstance(value, str) else value)
        out.mkdir(exist_ok=True)
        for stale in (WEIGHTS, *hf_tokenizer.FILES):
            (out / stale).unlink(missing_ok=True)
        for name in (*texts, WEIGHTS):
            os.replace(folder / name, out / name)


@contextlib.contextmanager
def _emptied(folder: Path) -> Iterator[Path]:
    """A new folder for the block. It has one name, so that an export that was killed leaves one, which is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refuse_other_contents(out: Path) -> None:
    """UserError when `out` holds files of these names that are not of an export."""
    ours = [name for name in ("config.json", WEIGHTS, *hf_tokenizer.FILES) if (out / name).exists()]
    if ours and not (out / MARK).exists():
        raise UserError(f"{out} has a {ours[0]} of something else; choose another --out")
