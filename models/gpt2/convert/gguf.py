"""GGUF, the file of llama.cpp and its relatives: one file with the weights, the sizes and the vocabulary.

Its matrices are [outputs, inputs]. Vectors and positions stay float32 whatever the type of the matrices; so does
llama.cpp's own converter have it. Written tensor by tensor with the package gguf.
"""

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from estimator import invocation, storage
from estimator.errors import UserError, import_failed
from estimator.parallel.param_spec import named
from estimator.tokenization import tokenizer as tokenizers
from models.gpt2.config import GPT2Config, parameters
from models.gpt2.convert import gguf_tokenizer, name_maps
from models.gpt2.convert.name_maps import NameMap

DType = Literal["f32", "f16", "bf16", "q8_0"]
BLOCK = 32  # weights of q8_0 that share a scale; other widths are kept as f16
CONTEXT_MULTIPLE = 256
NAMES = {
    "wte": "token_embd.weight",
    "wpe": "position_embd.weight",
    "ln_f/g": "output_norm.weight",
    "ln_f/b": "output_norm.bias",
    "lm_head": "output.weight",  # where there is none, llama.cpp takes token_embd
}
SCALES = ("scale_attn_weights", "scale_attn_by_inverse_layer_idx")
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


def context_length(n_ctx: int) -> int:
    """The positions of the file: llama.cpp computes contexts in multiples of 256 and reads as many positions."""
    return -(-n_ctx // CONTEXT_MULTIPLE) * CONTEXT_MULTIPLE


LAYOUT = NameMap(_name, transposed=True)


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
    """Writes the model; the file appears under its name when it is complete. One process at a time may write it.

    params: the parameters, or a function that gives one by its name, as `weights.Entries` asks for them.
    encoder: folder of the vocabulary. progress: called with the bytes of each tensor.
    Positions from n_ctx up to `context_length` are zeros. Raises UserError when llama.cpp would give other ids than
    the vocabulary, or the package is missing.
    """
    _refuse_other_functions(config)
    try:
        import gguf
        from gguf.quants import quantize
    except ImportError as error:
        raise import_failed(error, f"--to gguf needs the package gguf: {invocation.install('export')}") from error

    kinds = gguf.GGMLQuantizationType
    chosen, half = kinds[dtype.upper()], kinds.F16
    # One name, so that an export that is killed leaves one file.
    arriving = storage.replacing(path, temporary=f"{path}.tmp")
    with arriving as temporary, contextlib.closing(gguf.GGUFWriter(temporary, "gpt2")) as writer:
        writer.add_name(name)
        writer.add_context_length(context_length(config.n_ctx))
        writer.add_embedding_length(config.n_embd)
        writer.add_block_count(config.n_layer)
        writer.add_feed_forward_length(config.inner)
        writer.add_head_count(config.heads)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        writer.add_file_type(gguf.LlamaFileType[{"f32": "ALL_F32"}.get(dtype, f"MOSTLY_{dtype.upper()}")])
        gguf_tokenizer.add(writer, tokenizers.load(encoder), n_vocab=config.n_vocab)

        specs = parameters(config)
        arrays = name_maps.Entries(params, specs, LAYOUT)
        matrices = {
            entry for path, spec in named(specs) for entry in name_maps.entries(LAYOUT, path, spec) if spec.rows
        } - {NAMES["wpe"]}

        def kind(entry: str) -> Any:
            if entry not in matrices:
                return kinds.F32
            return half if chosen == kinds.Q8_0 and arrays.shape(entry)[-1] % BLOCK else chosen

        positions = context_length(config.n_ctx)
        for entry in arrays:
            shape, (block, size) = arrays.shape(entry), gguf.GGML_QUANT_SIZES[kind(entry)]
            if entry == NAMES["wpe"]:
                shape = (positions, *shape[1:])
            # With raw_dtype, the type of the array is ignored unless it is bytes.
            writer.add_tensor_info(entry, shape, np.dtype("f4"), math.prod(shape) // block * size, kind(entry))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for entry, array in arrays.items():
            if entry == NAMES["wpe"]:
                array = np.pad(array, ((0, positions - config.n_ctx), (0, 0)))
            stored = quantize(array, kind(entry))
            _write(writer, stored, path)
            progress(stored.nbytes)


def _write(writer: Any, stored: np.ndarray, path: str | Path) -> None:
    try:
        writer.write_tensor_data(stored)
    except OSError as error:
        if error.errno is None:  # NumPy tells how much it wrote and not why it wrote no more
            fix = "free some space, if the disk is full, or choose another place, and run the same command again"
            raise UserError(f"{path}: the disk took only a part of a tensor ({error}); {fix}") from None
        raise


def _refuse_other_functions(config: GPT2Config) -> None:
    """llama.cpp computes GPT-2 with the tanh approximation of GELU and one scale of the attention scores."""
    keys = {key: getattr(config, key) for key in ("activation", *SCALES)}
    for key, value in keys.items():
        if value != GPT2Config.model_fields[key].default:
            raise UserError(f"{key}: llama.cpp's GPT-2 does not know {value!r} and would answer wrongly; use --to hf")
