"""Finds a GPT-2 among the tensors of a file: behind prefixes, next to heads, averages and optimizers."""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from estimator.errors import UserError

Shape = tuple[int, ...]
HEADS = ("lm_head.weight", "lm_head.decoder.weight")  # names of the output matrix, behind any prefix
HEAD_BIAS = ("lm_head.bias", "lm_head.decoder.bias")
ADAPTER = re.compile(r"\.lora_|\.base_layer\.|\.modules_to_save\.|prompt_embeddings|\.ia3_")


class Renamed(Mapping[str, np.ndarray]):
    """Tensors of one or several mappings under other names; entries of `zeros` exist in none of them."""

    def __init__(self, places: Mapping[str, tuple[Mapping[str, np.ndarray], str]], zeros: Mapping[str, Shape]):
        self._places, self._zeros = places, zeros

    def __iter__(self) -> Iterator[str]:
        yield from self._places
        yield from self._zeros

    def __len__(self) -> int:
        return len(self._places) + len(self._zeros)

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self._zeros:
            return np.zeros(self._zeros[name], np.float32)
        arrays, full = self._places[name]
        return arrays[full]


class Unwrapped(NamedTuple):
    """names: of the GPT-2's entries without a prefix -> with it, as in the file. left_out: the file's other entries."""

    names: dict[str, str]
    left_out: list[str]


def unwrap(shapes: Mapping[str, Shape], *, table: str, first_block: str, source: str) -> Unwrapped:
    """The names of the GPT-2 in a file, found by its token embedding.

    table: name of the token embedding without a prefix. first_block: begin of the names of the first block's entries.
    Raises UserError where the file holds several GPT-2s, or adapters that are not merged.
    """
    if adapters := [name for name in shapes if ADAPTER.search(name)]:
        tied = ""
        if any("wte" in name for name in adapters):  # findings/peft_merges_gpt2_embeddings_twice.sh
            tied = "; merged, that of wte changes the output, too, which it does not in training"
        raise UserError(
            f"{source} holds adapters that are not merged ({adapters[0]}); load it with peft, call "
            f"merge_and_unload() and save_pretrained(), and name that folder{tied}"
        )
    separator = "." if "." in table else "/"
    found = [name.removesuffix(table) for name in shapes if name == table or name.endswith(separator + table)]
    whole = [prefix for prefix in found if any(name.startswith(prefix + first_block) for name in shapes)]
    if len(whole) > 1:
        raise UserError(f"{source} holds several GPT-2s, under {', '.join(map(repr, whole))}; save one of them alone")
    if not whole:
        return Unwrapped({name: name for name in shapes}, [])
    prefix = whole[0]
    names, left_out = {}, []
    for name in shapes:
        short = name.removeprefix(prefix)
        part = next((part for part in (*HEADS, *HEAD_BIAS) if name == part or name.endswith(f".{part}")), None)
        if part and separator == ".":
            short = HEADS[0] if part in HEADS else HEAD_BIAS[0]
        elif not name.startswith(prefix):
            left_out.append(name)
            continue
        if short not in names:
            names[short] = name
    return Unwrapped(names, left_out)
