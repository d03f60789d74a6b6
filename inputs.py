"""Input functions by name: from the files that the JSON names to the batches of a step, on each host its own rows.

An input function says which shards are trained on and how; all else is common: checking them
(`runtime/shard_checks.py`), dividing them into training and evaluation documents (`runtime/shards.py`) and cutting
windows (`runtime/windows.py`). To add one, write a function that returns `Group`s and put it in INPUTS.
"""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import BeforeValidator, Field, model_validator

from runtime import chat_windows, remote_data, shard_checks, shard_folders, shards
from runtime.batches import Batches as Batches
from runtime.batches import Data, EvaluationSet
from runtime.chat_windows import ChatWindows
from runtime.config import Problem, Section
from runtime.errors import UserError
from runtime.evaluation import Evaluation as Evaluation
from runtime.mixtures import Mixed
from runtime.sampled_windows import Anywhere, Sentences, Stitched
from runtime.segments import Segmented, shorter_contexts
from runtime.shards import Group
from runtime.windows import Documents, EvaluationWindows, Packed, Source
from text import chat, prepare
from text.chat_template import Template
from text.kinds import PLAIN
from text.sentences import sentence_ends

GPT2_END_OF_TEXT = 50256
# The shards that the OpenWebText models of 2019 were evaluated on; they were trained on all others.
OPENWEBTEXT_EVALUATION = (1, 2, 11, 12, 16, 34, 36, 58, 60, 61, 62, 67, 83)
Name = Literal["openwebtext", "openwebtext_long", "openwebtext_longbiased", "generic_text", "packed", "text", "chat"]
CONTINUOUS: tuple[Name, ...] = (
    "packed",
    "text",
    "generic_text",
    "openwebtext",
    "openwebtext_long",
    "openwebtext_longbiased",
)
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
Files = str | list[str]
# JSON has no tuples.
Pair = Annotated[tuple[Files, float], BeforeValidator(lambda pair: tuple(pair) if isinstance(pair, list) else pair)]


def _of_one_kind(value: Any) -> Any:
    """Refuses what no kind of eval_split is, with one message for all kinds."""
    items = value if isinstance(value, list) else [value]
    kinds = {type(item) for item in items}
    if len(kinds) > 1 or not kinds <= ({int, str} if isinstance(value, list) else {int, float, str, type(None)}):
        raise Problem("eval_split", "give shard numbers [0, 1], file patterns, or a fraction of the documents: 0.05")
    return value


def _of_files(value: Any) -> Any:
    """The same for data_path."""
    if value is not None and not all(isinstance(item, str) for item in (value if isinstance(value, list) else [value])):
        raise Problem("data_path", "give a folder, a file or a pattern, or a list of these")
    return value


class InputConfig(Section):
    """Data."""

    input: Name = Field("openwebtext", description="how documents become windows of n_ctx tokens, see docs/data.md")
    data_path: Annotated[Files | None, BeforeValidator(_of_files)] = Field(
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
    dataset: list[Pair] | None = Field(
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
    eval_split: Annotated[list[int] | Files | float | None, BeforeValidator(_of_one_kind)] = Field(
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


# Input functions.


def openwebtext(config: InputConfig) -> list[Group]:
    return [_openwebtext(config, "openwebtext-newspaper", stitch=config.stitch or 42)]


def openwebtext_long(config: InputConfig) -> list[Group]:
    return [_openwebtext(config, "openwebtext-newspaper-long", stitch=config.stitch or 2)]


def openwebtext_longbiased(config: InputConfig) -> list[Group]:
    short = _openwebtext(config, "openwebtext-newspaper", stitch=42, any_name=False)
    long = _openwebtext(config, "openwebtext-newspaper-long", stitch=2, any_name=False)
    return [short._replace(weight=0.3), long._replace(weight=0.7)]


def generic_text(config: InputConfig) -> list[Group]:
    return _weighted(config, stitch=config.stitch or 0)


def packed(config: InputConfig) -> list[Group]:
    return _weighted(config, stitch=None) if config.dataset else [Group(shards.find(_list(config.data_path)))]


INPUTS: dict[Name, Callable[[InputConfig], list[Group]]] = {
    "openwebtext": openwebtext,
    "openwebtext_long": openwebtext_long,
    "openwebtext_longbiased": openwebtext_longbiased,
    "generic_text": generic_text,
    "packed": packed,
    "text": packed,  # of the shards that the text has become
    "chat": packed,  # the same, or of shards of chats
}


def open_data(config: InputConfig, *, n_ctx: int, n_vocab: int, cache: Path) -> Data:
    """Opens what the configuration names, for windows of n_ctx + 1 tokens with ids below n_vocab.

    cache: a folder for what is made of the data once. Raises UserError where something is missing or does not fit.
    """
    if config.data_path is None and not config.dataset:
        raise UserError("data_path: missing; name the folder of the shards, or for input text the text files")
    text_folder = _text_folder(config, n_vocab, cache)
    config = remote_data.with_local_copies(config)
    config, notes = _divided(config)
    if config.input == "text" or (config.input == "chat" and not shards.named(_list(config.data_path))):
        config = _with_text_prepared(config, n_vocab, text_folder)
    groups = INPUTS[config.input](config)
    notes += [group.note for group in groups if group.note]
    files = list(dict.fromkeys(path for group in groups for path in group.files))
    held_out = _held_out(config, files)
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


def encoder_path(config: InputConfig, *, n_vocab: int, cache: Path) -> Path:
    """The folder of the vocabulary that belongs to the data: the one named or learnt, for chats with their tokens."""
    if config.input == "chat":
        given = remote_data.local_encoder(config) if config.encoder_path else None
        return prepare.chat_vocabulary(given, n_vocab=n_vocab, cache=_text_folder(config, n_vocab, cache))
    if config.encoder_path is not None:
        return Path(remote_data.local_encoder(config))
    if config.input == "text":
        return prepare.learnt_vocabulary(_text_folder(config, n_vocab, cache))
    raise UserError("encoder_path: missing; name the folder of the vocabulary that the shards were made with")


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


def _divided(config: InputConfig) -> tuple[InputConfig, list[str]]:
    """The configuration, with the parts of folders that hold train and valid, and notes about these."""
    if config.data_path is None or config.dataset or isinstance(config.eval_split, str | list):
        return config, []
    parts = shard_folders.divided(_list(config.data_path))
    if not parts.evaluation:
        return config, []
    return config.model_copy(
        update={"data_path": parts.training, "eval_split": config.eval_split or parts.evaluation}
    ), parts.notes


def _with_text_prepared(config: InputConfig, n_vocab: int, folder: Path) -> InputConfig:
    """The configuration, with shards and vocabulary made of the text in their places."""
    held_out = _joined(config, config.eval_split) if _is_patterns(config.eval_split) else []
    files = _list(config.data_path)
    facts: dict[str, Any] = {"n_vocab": n_vocab, "encoder_path": config.encoder_path, "cache": folder}
    made = prepare.prepare_split(files, held_out, kind=_kind(config), **facts)
    found: dict[str, Any] = {"data_path": list(map(str, made.shards)), "encoder_path": str(made.encoder)}
    if held_out:
        found["eval_split"] = list(map(str, made.held_out))
    return config.model_copy(update=found)


def _text_folder(config: InputConfig, n_vocab: int, cache: Path) -> Path:
    patterns = config.eval_split if _is_patterns(config.eval_split) else None
    kind = [] if _kind(config) == PLAIN else [_kind(config)]
    return prepare.folder_for(cache, config.data_path, patterns, config.encoder_path, n_vocab, *kind)


def _kind(config: InputConfig) -> str:
    """Of text files."""
    return f"chat-{config.chat_voice or 'other'}" if config.input == "chat" else config.text_format or PLAIN


def _list(paths: Files | None) -> list[str]:
    return [paths] if isinstance(paths, str) else paths or []


def _joined(config: InputConfig, files: Files) -> list[str]:
    """Files named in relation to data_path, where that is a folder."""
    folder = config.data_path if isinstance(config.data_path, str) and os.path.isdir(config.data_path) else ""
    return [os.path.join(folder, file) for file in _list(files)]


def _weighted(config: InputConfig, *, stitch: int | None) -> list[Group]:
    """A group for each part of dataset."""
    if config.data_path is not None and not os.path.isdir(str(config.data_path)):
        raise UserError(f"data_path: {config.data_path} is no folder; give the one that the files of dataset are in")
    return [Group(shards.find(_joined(config, files)), stitch, weight) for files, weight in config.dataset or []]


def _openwebtext(config: InputConfig, name: str, *, stitch: int, any_name: bool = True) -> Group:
    """The shards of this name in data_path, or else all that have a number, unless those are OpenWebText's others."""
    there = shards.find(_list(config.data_path))
    files = [path for path in there if shards.name(path) == name]
    if files:
        return Group(files, stitch)
    files = [path for path in there if shards.number(path) is not None]
    others = any(shards.name(path).startswith("openwebtext-newspaper") for path in files)
    if not any_name or others or not files:
        needs = f"data_path: input {config.input} needs shards {name}_0.tfrecords, ..."
        advice = "; set input to the other of openwebtext and openwebtext_long" if any_name and others else ""
        raise UserError(f"{needs}; found {shards.listed(there)}{advice}")
    note = f"no shards are named {name}_*: input {config.input} takes all, {stitch} documents joined for a window"
    return Group(files, stitch, note=note)


def _is_patterns(rule: Any) -> TypeGuard[Files]:
    return isinstance(rule, str) or (isinstance(rule, list) and isinstance(rule[0], str))


def _held_out(config: InputConfig, files: list[Path]) -> list[Path] | float:
    """The shards to evaluate on, or the fraction of all documents."""
    rule = config.eval_split
    if rule is None and config.input.startswith("openwebtext"):
        rule = list(OPENWEBTEXT_EVALUATION)
    return shards.held_out(files, _joined(config, rule) if _is_patterns(rule) else rule)
