"""GGUF, the file of llama.cpp and its relatives: one file with the weights, the sizes and the vocabulary.

Matrices lie there as [outputs, inputs]. Vectors and positions stay float32 whatever the type of the matrices; so does
llama.cpp's own converter have it. Written tensor by tensor with the package gguf.
"""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from models.gpt2 import weights
from models.gpt2.gpt2 import GPT2Config, parameters
from models.gpt2.weights import Layout
from runtime.errors import UserError
from runtime.params import named
from text import vocabulary

DType = Literal["f32", "f16", "bf16", "q8_0"]
BLOCK = 32  # weights of q8_0 that share a scale; other widths are kept as f16
NAMES = {
    "wte": "token_embd.weight",
    "wpe": "position_embd.weight",
    "ln_f/g": "output_norm.weight",
    "ln_f/b": "output_norm.bias",
    "lm_head": "output.weight",  # where there is none, llama.cpp takes token_embd
}
PARTS = {
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn/c_attn": "attn_qkv",
    "attn/c_proj": "attn_output",
    "mlp/c_fc": "ffn_up",
    "mlp/c_proj": "ffn_down",
}


def _name(path: str, layer: int | None) -> str:
    if layer is None:
        return NAMES[path]
    part, last = path.removeprefix("h/").rsplit("/", 1)
    return f"blk.{layer}.{PARTS[part]}.{'bias' if last == 'b' else 'weight'}"


LAYOUT = Layout(_name, transposed=True)


def write(
    path: str | Path,
    params: Any,
    config: GPT2Config,
    *,
    encoder: str | Path,
    dtype: DType,
    name: str,
    progress: Callable[[int], object] = lambda size: None,
) -> None:
    """Writes the model; the file appears under its name when it is complete.

    params: the parameters, or a function that gives one by its name, as `weights.Entries` asks for them.
    encoder: folder of the vocabulary. progress: is told the bytes of each tensor.
    Raises UserError when llama.cpp would cut text in another way than the vocabulary, or the package is missing.
    """
    try:
        import gguf
        from gguf.quants import quantize
    except ImportError:
        raise UserError("--to gguf needs the package gguf: pip install -r requirements-export.txt") from None

    kinds = gguf.GGMLQuantizationType
    chosen, half = kinds[dtype.upper()], kinds.F16
    temporary = Path(f"{path}.tmp")
    writer = gguf.GGUFWriter(temporary, "gpt2")
    try:
        writer.add_name(name)
        writer.add_context_length(config.n_ctx)
        writer.add_embedding_length(config.n_embd)
        writer.add_block_count(config.n_layer)
        writer.add_feed_forward_length(config.inner)
        writer.add_head_count(config.heads)
        writer.add_layer_norm_eps(1e-5)
        writer.add_file_type(gguf.LlamaFileType[{"f32": "ALL_F32"}.get(dtype, f"MOSTLY_{dtype.upper()}")])
        _add_vocabulary(writer, encoder, n_vocab=config.n_vocab)

        specs = parameters(config)
        arrays = weights.Entries(params, specs, LAYOUT)
        matrices = {
            entry for path, spec in named(specs) for entry in weights.entries(LAYOUT, path, spec) if spec.rows
        } - {NAMES["wpe"]}

        def kind(entry: str) -> Any:
            if entry not in matrices:
                return kinds.F32
            return half if chosen == kinds.Q8_0 and arrays.shape(entry)[-1] % BLOCK else chosen

        for entry in arrays:
            shape, (block, size) = arrays.shape(entry), gguf.GGML_QUANT_SIZES[kind(entry)]
            # The type of the array is not looked at beside raw_dtype, unless it is bytes.
            writer.add_tensor_info(entry, shape, np.dtype("f4"), math.prod(shape) // block * size, kind(entry))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for entry, array in arrays.items():
            stored = quantize(array, kind(entry))
            writer.write_tensor_data(stored)
            progress(stored.nbytes)
        writer.close()
        os.replace(temporary, path)
    finally:
        writer.close()
        temporary.unlink(missing_ok=True)


def _add_vocabulary(writer: Any, encoder: str | Path, *, n_vocab: int) -> None:
    import gguf

    file, contents = vocabulary.read(encoder)
    _refuse_other_cuts(file, contents)
    model = contents["model"]
    special = {token["content"] for token in contents["added_tokens"] if token["special"]}
    tokens, types = [f"[PAD{i}]" for i in range(n_vocab)], [gguf.TokenType.UNUSED] * n_vocab
    ids = model["vocab"] | {token["content"]: token["id"] for token in contents["added_tokens"]}
    for token, number in ids.items():
        if number < n_vocab:
            plain = gguf.TokenType.NORMAL if token in model["vocab"] else gguf.TokenType.USER_DEFINED
            tokens[number], types[number] = token, gguf.TokenType.CONTROL if token in special else plain
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_add_bos_token(False)
    end = ids.get(vocabulary.END_OF_TEXT)
    if end is not None:
        writer.add_bos_token_id(end)
        writer.add_eos_token_id(end)


def _refuse_other_cuts(file: Path, contents: dict[str, Any]) -> None:
    """The tag `gpt-2` makes llama.cpp cut text as GPT-2 does."""
    cut = contents.get("pre_tokenizer") or {}
    if cut.get("type") != "ByteLevel" or cut.get("add_prefix_space") or not cut.get("use_regex", True):
        raise UserError(
            f"{file} cuts text in another way than GPT-2, for which llama.cpp has no name that is known here; "
            "export with --to hf and convert that with llama.cpp's own converter"
        )
    if contents.get("normalizer"):
        raise UserError(f"{file} changes text before encoding it, which GGUF cannot say; export with --to hf")
