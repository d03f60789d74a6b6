"""Input functions by name: what a JSON file's key `input` can select.

An input function names the shards to train on and how to sample them; `estimator.data.stages` does the rest for all of
them: it checks the shards, divides their documents into training and evaluation documents, and cuts windows. To add
one, write a function that returns `ShardGroup`s, as those in `estimator/data/input_groups.py`, and put it in INPUTS.
"""

from collections.abc import Callable
from pathlib import Path

from estimator.data import input_groups, stages
from estimator.data.config import InputConfig, Name
from estimator.data.splits import ShardGroup
from estimator.data.stages import Data
from estimator.format_version import NEWEST_SPLIT, SplitRules

INPUTS: dict[Name, Callable[[InputConfig], list[ShardGroup]]] = {
    "openwebtext": input_groups.openwebtext,
    "openwebtext_long": input_groups.openwebtext_long,
    "openwebtext_longbiased": input_groups.openwebtext_longbiased,
    "generic_text": input_groups.generic_text,
    "packed": input_groups.packed,
    "text": input_groups.packed,  # the shards made of the text
    "chat": input_groups.packed,  # the shards made of the conversations, or shards of conversations
}


def open_data(
    config: InputConfig,
    *,
    n_ctx: int,
    n_vocab: int,
    cache: Path,
    vocabulary: Path | None = None,
    rules: SplitRules = NEWEST_SPLIT,
) -> Data:
    """Opens the data of a configuration as windows of n_ctx + 1 tokens with ids below n_vocab.

    cache: folder for prepared text, indices and copies. vocabulary: that of a run that has begun; it overrides
    encoder_path. rules: by which names divide the data. Raises UserError if something is missing or does not fit.
    """
    places = {"cache": cache, "vocabulary": vocabulary, "rules": rules}
    sources = stages.resolve(config, INPUTS[config.input], n_vocab=n_vocab, **places)
    opened = stages.open_shards(sources, n_vocab=n_vocab, cache=cache)
    split = stages.split(sources, opened)
    return stages.sample(sources, opened, split, n_ctx=n_ctx)
