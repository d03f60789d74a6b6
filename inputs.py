"""Input functions by name: from the files that the JSON names to the batches of a step, on each host its own rows.

An input function says which shards are trained on and how; all else is common: checking them
(`runtime/shard_checks.py`), dividing them into training and evaluation documents (`runtime/shards.py`) and cutting
windows (`runtime/windows.py`). To add one, write a function that returns `Group`s, as those in
`runtime/shard_groups.py`, and put it in INPUTS.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from runtime import chat_windows, remote_data, shard_checks, shard_folders, shard_groups, shards
from runtime.batches import Batches as Batches
from runtime.batches import Data, EvaluationSet
from runtime.chat_windows import ChatWindows
from runtime.config import Problem, Section
from runtime.data_keys import Held, Part, Paths
from runtime.errors import UserError
from runtime.evaluation import Evaluation as Evaluation
from runtime.mixtures import Mixed
from runtime.sampled_windows import Anywhere, Sentences, Stitched
from runtime.segments import Segmented, shorter_contexts
from runtime.shards import Group
from runtime.windows import Documents, EvaluationWindows, Packed, Source
from text import chat, prepare, text_input
from text.chat_template import Template
from text.sentences import sentence_ends
from text.text_input import encoder_path as encoder_path

GPT2_END_OF_TEXT = 50256
Name = Literal["openwebtext", "openwebtext_long", "openwebtext_longbiased", "generic_text", "packed", "text", "chat"]
CONTINUOUS = tuple(name for name in get_args(Name) if name != "chat")  # of which any token may begin a window
READ_BY: dict[str, tuple[Name, ...]] = {  # the inputs that some keys are for
    "dataset": ("generic_text", "packed"),
    "stitch": ("openwebtext", "openwebtext_long", "generic_text"),
    "sampling": ("packed", "text"),
    "text_format": ("text",),
    "chat_loss": ("chat",),
    "chat_voice": ("chat",),
    "n_ctx_min": CONTINUOUS,
    "separate_documents": CONTINUOUS,
}


class InputConfig(Section):
    """Data."""

    input: Name = Field("openwebtext", description="how documents become windows of n_ctx tokens, see docs/data.md")
    data_path: Paths = Field(
        None, description="folder, files or patterns: of shards; for input text and chat, of .txt and .jsonl files too"
    )
    text_format: Literal["plain", "tokens"] | None = Field(
        None, description="input text: tokens reads lines of tokens of a vocab.txt with blanks between; null is plain"
    )
    chat_loss: chat_windows.Loss | None = Field(
        None, description="chat: what is learnt: the assistant's replies, or all that is said; null is replies"
    )
    chat_voice: chat.Voice | None = Field(
        None, description="chat: whose messages of a history are the assistant's: the other's, or mine; null is other"
    )
    dataset: list[Part] | None = Field(
        None, description="generic_text, packed: [[files, weight], ...], names or patterns within data_path"
    )
    sampling: Literal["once", "random", "sentences"] | None = Field(
        None,
        description="packed, text: every token once an epoch; or windows from any token, or any sentence; null: once",
    )
    n_ctx_min: int | None = Field(
        None, gt=0, description="cuts every second training window into contexts of this length, or 2, 4, ... times it"
    )
    separate_documents: bool = Field(False, description="no token sees the documents before its own in a window")
    stitch: int | None = Field(
        None, gt=0, description="documents joined for one window (generic_text, openwebtext); null fits the input"
    )
    eval_split: Held = Field(
        None, description="what is evaluated on: shard numbers, file patterns, or a fraction of the documents"
    )
    encoder_path: str | None = Field(None, description="folder of the vocabulary; null lets input text learn one")
    data_cache_gb: float = Field(200.0, gt=0, description="most space on this machine for copies of remote data")
    data_seed: int = Field(0, description="of the order of the data")

    @model_validator(mode="after")
    def _check_values(self) -> "InputConfig":
        for key, readers in READ_BY.items():
            if self.input not in readers and getattr(self, key) not in (None, False):
                others = " or ".join(readers)
                raise Problem(key, f"input {self.input} does not use it; leave it out, or set input to {others}")
        if self.input == "generic_text" and not self.dataset:
            raise Problem("dataset", 'missing; input generic_text needs it: [[["a_*.tfrecords"], 0.5], ...]')
        if self.dataset and isinstance(self.data_path, list):
            raise Problem("data_path", "with dataset, one folder, which its files are in")
        if self.sampling == "sentences" and self.encoder_path is None and self.input != "text":
            raise Problem("encoder_path", "missing; sampling sentences finds their ends by the vocabulary")
        if self.text_format == "tokens" and self.encoder_path is None:
            raise Problem("encoder_path", "missing; text_format tokens needs the folder of vocab.txt")
        if any(not files or weight <= 0 for files, weight in self.dataset or []):
            raise Problem("dataset", "each part needs files and a weight above 0: [[files, weight], ...]")
        if isinstance(self.eval_split, float) and not 0 < self.eval_split < 1:
            raise Problem("eval_split", f"a fraction must be between 0 and 1, not {self.eval_split}")
        if isinstance(self.eval_split, str | list) and not self.eval_split:
            raise Problem("eval_split", "empty; name at least one shard, or leave it out")
        return self


INPUTS: dict[Name, Callable[[InputConfig], list[Group]]] = {
    "openwebtext": shard_groups.openwebtext,
    "openwebtext_long": shard_groups.openwebtext_long,
    "openwebtext_longbiased": shard_groups.openwebtext_longbiased,
    "generic_text": shard_groups.generic_text,
    "packed": shard_groups.packed,
    "text": shard_groups.packed,  # of the shards that the text has become
    "chat": shard_groups.packed,  # the same, or of shards of chats
}


def open_data(config: InputConfig, *, n_ctx: int, n_vocab: int, cache: Path) -> Data:
    """Opens what the configuration names, for windows of n_ctx + 1 tokens with ids below n_vocab.

    cache: a folder for what is made of the data once. Raises UserError where something is missing or does not fit.
    """
    if config.data_path is None and not config.dataset:
        raise UserError("data_path: missing; name the folder of the shards, or for input text the text files")
    text_folder = text_input.folder(config, n_vocab=n_vocab, cache=cache)
    config = remote_data.with_local_copies(config)
    config, notes = shard_folders.divided(config)
    if text_input.is_text(config):
        config = text_input.prepared(config, n_vocab=n_vocab, folder=text_folder)
    groups = INPUTS[config.input](config)
    notes += [group.note for group in groups if group.note]
    files = list(dict.fromkeys(path for group in groups for path in group.files))
    held_out = shard_groups.held_out(config, files)
    if not isinstance(held_out, float):
        files = list(dict.fromkeys([*files, *held_out]))
    tokenizer = prepare.load_vocabulary(config.encoder_path, n_vocab=n_vocab) if config.encoder_path else None
    end_of_text = shard_checks.end_of_text(tokenizer, config.encoder_path, n_vocab=n_vocab, gpt2=GPT2_END_OF_TEXT)
    opened = shards.open_all(files, ends=shard_checks.ends(tokenizer, end_of_text), cache=cache)
    digest = shard_checks.common_digest(opened.values(), tokenizer, config.encoder_path, n_vocab=n_vocab)
    grouped = [[opened[path] for path in group.files] for group in groups]
    if isinstance(held_out, float):
        split = shards.by_fraction(grouped, held_out)
    else:
        split = shards.by_shard(grouped, [opened[path] for path in held_out])
    sources = [
        _source(config, group, documents, tokenizer, n_ctx=n_ctx, end_of_text=end_of_text)
        for group, documents in zip(groups, split.training, strict=True)
    ]
    train = sources[0] if len(sources) == 1 else Mixed(sources, [each.weight for each in groups], seed=config.data_seed)
    evaluation: EvaluationSet = EvaluationWindows(split.evaluation, n_ctx=n_ctx, end_of_text=end_of_text)
    if config.input == "chat":
        evaluation = _chats(config, split.evaluation, tokenizer, n_ctx=n_ctx, seed=None)
    contexts, separator = shorter_contexts(n_ctx, config.n_ctx_min), end_of_text if config.separate_documents else None
    if contexts or config.separate_documents:
        train = Segmented(train, contexts=contexts, end_of_text=separator, seed=config.data_seed)
    if config.separate_documents:
        evaluation = Segmented(evaluation, end_of_text=separator)
    shard_notes = shard_checks.notes(opened.values(), config.encoder_path)
    return Data(
        train=train,
        evaluation=evaluation,
        tokenizer=digest,
        token_bytes=tokenizer.token_bytes() if tokenizer else None,
        notes=[*split.notes(train.windows_per_epoch), *train.notes, *notes, *shard_notes],
    )


def _source(
    config: InputConfig, group: Group, documents: Documents, tokenizer: Any, *, n_ctx: int, end_of_text: int
) -> Source:
    if config.input == "chat":
        return _chats(config, documents, tokenizer, n_ctx=n_ctx, seed=config.data_seed)
    common: dict[str, int] = {"n_ctx": n_ctx, "end_of_text": end_of_text, "seed": config.data_seed}
    if group.stitch is not None:
        stitch = group.stitch or math.ceil((n_ctx + 1) * len(documents) / max(1, documents.total_tokens))
        return Stitched(documents, stitch=stitch, **common)
    if config.sampling == "sentences":
        return Sentences(documents, ends=sentence_ends(tokenizer), **common)
    return (Anywhere if config.sampling == "random" else Packed)(documents, **common)


def _chats(config: InputConfig, documents: Documents, tokenizer: Any, *, n_ctx: int, seed: int | None) -> ChatWindows:
    if tokenizer is None:
        raise UserError("encoder_path: missing; name the folder of the vocabulary that the chats were encoded with")
    template = Template(tokenizer, source=f"encoder_path: {config.encoder_path}")
    tokens = chat_windows.ChatTokens(template.end_of_text, **template.headers, end=template.end)
    return ChatWindows(documents, n_ctx=n_ctx, tokens=tokens, loss=config.chat_loss or "replies", seed=seed)
