"""Input functions by name: from the files that the JSON names to the batches of a step, on each host its own rows.

An input function says which shards are trained on and how; all else is common: checking them, dividing them into
training and evaluation documents (`runtime/shards.py`) and cutting windows (`runtime/windows.py`). To add one, write a
function that returns `Group`s and put it in INPUTS.
"""

import functools
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeGuard

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from runtime import shards
from runtime.config import Problem, Section
from runtime.errors import UserError
from runtime.windows import Documents, EvaluationWindows, Mixed, Packed, Source, Stitched, Window
from text import corpus, prepare, tokenizers
from text.tokenizers import Tokenizer

GPT2_END_OF_TEXT = 50256
EVALUATION_FRACTION = 0.05
# The shards that the OpenWebText models of 2019 were evaluated on; they were trained on all others.
OPENWEBTEXT_EVALUATION = (1, 2, 11, 12, 16, 34, 36, 58, 60, 61, 62, 67, 83)
Name = Literal["openwebtext", "openwebtext_long", "openwebtext_longbiased", "generic_text", "packed", "text"]
Files = str | list[str]
# JSON has no tuples.
Pair = Annotated[tuple[list[str], float], BeforeValidator(lambda pair: tuple(pair) if isinstance(pair, list) else pair)]


class InputConfig(Section):
    """Data."""

    input: Name = Field("openwebtext", description="how documents become windows of n_ctx tokens, see docs/data.md")
    data_path: Files | None = Field(
        None, description="folder, files or patterns: of shards; for input text, of .txt and .jsonl files"
    )
    dataset: list[Pair] | None = Field(
        None, description="for generic_text: [[files, weight], ...], names or patterns within data_path"
    )
    stitch: int | None = Field(
        None, gt=0, description="documents joined for one window (generic_text, openwebtext); null fits the input"
    )
    eval_split: list[int] | Files | float | None = Field(
        None, description="what is evaluated on: shard numbers, file patterns, or a fraction of the documents"
    )
    encoder_path: str | None = Field(None, description="folder of the vocabulary; null lets input text learn one")
    data_seed: int = Field(0, description="of the order of the data")

    @model_validator(mode="after")
    def _check_values(self) -> "InputConfig":
        if self.input == "generic_text" and not self.dataset:
            raise Problem("dataset", 'missing; input generic_text needs it: [[["a_*.tfrecords"], 0.5], ...]')
        if any(not files or weight <= 0 for files, weight in self.dataset or []):
            raise Problem("dataset", "each part needs files and a weight above 0: [[files, weight], ...]")
        if isinstance(self.eval_split, float) and not 0 < self.eval_split < 1:
            raise Problem("eval_split", f"a fraction must be between 0 and 1, not {self.eval_split}")
        if isinstance(self.eval_split, str | list) and not self.eval_split:
            raise Problem("eval_split", "empty; name at least one shard, or leave it out")
        return self


class Data(NamedTuple):
    """Opened data.

    train: windows by number. evaluation: a fixed set of windows. notes: lines for the console.
    encoder_path: folder of the vocabulary, if known. tokenizer: its digest as the shards have it, if they do.
    token_bytes: int32 [ids], bytes of text that each id stands for, if the vocabulary is known.
    """

    train: Source
    evaluation: EvaluationWindows
    end_of_text: int
    encoder_path: Path | None
    tokenizer: str | None
    token_bytes: np.ndarray | None
    notes: list[str]


class Group(NamedTuple):
    """Shards that are trained on in one way.

    stitch: documents joined for each window; 0 is as many as fill a window on average; None packs every token instead.
    weight: share of the windows, among all groups.
    """

    files: list[Path]
    stitch: int | None = None
    weight: float = 1.0


# Input functions.


def openwebtext(config: InputConfig) -> list[Group]:
    return [Group(_openwebtext(config, "openwebtext-newspaper"), config.stitch or 42)]


def openwebtext_long(config: InputConfig) -> list[Group]:
    return [Group(_openwebtext(config, "openwebtext-newspaper-long"), config.stitch or 2)]


def openwebtext_longbiased(config: InputConfig) -> list[Group]:
    short, long = (_openwebtext(config, f"openwebtext-newspaper{kind}", only=True) for kind in ("", "-long"))
    return [Group(short, 42, 0.3), Group(long, 2, 0.7)]


def generic_text(config: InputConfig) -> list[Group]:
    return [Group(shards.find(_joined(config, f)), config.stitch or 0, weight) for f, weight in config.dataset or []]


def packed(config: InputConfig) -> list[Group]:
    return [Group(shards.find(_list(config.data_path)))]


INPUTS: dict[Name, Callable[[InputConfig], list[Group]]] = {
    "openwebtext": openwebtext,
    "openwebtext_long": openwebtext_long,
    "openwebtext_longbiased": openwebtext_longbiased,
    "generic_text": generic_text,
    "packed": packed,
    "text": packed,  # of the shards that the text has become
}


def open_data(config: InputConfig, *, n_ctx: int, n_vocab: int, cache: Path) -> Data:
    """Opens what the configuration names, for windows of n_ctx + 1 tokens with ids below n_vocab.

    cache: a folder for what is made of the data once. Raises UserError where something is missing or does not fit.
    """
    if config.data_path is None and config.input != "generic_text":
        raise UserError("data_path: missing; name the folder of the shards, or for input text the text files")
    if config.input == "text":
        config = _with_text_prepared(config, n_vocab, cache)
    groups = INPUTS[config.input](config)
    files = list(dict.fromkeys(path for group in groups for path in group.files))
    held_out = _held_out(config, files)
    if not isinstance(held_out, float):
        files = list(dict.fromkeys([*files, *held_out]))
    opened = shards.open_all(files, cache=cache)
    tokenizer = tokenizers.load(config.encoder_path) if config.encoder_path else None
    end_of_text = _end_of_text(config, tokenizer, n_vocab)
    digest = shards.check_vocabulary(list(opened.values()), n_vocab=n_vocab)
    if tokenizer and digest not in (None, tokenizer.digest):
        raise UserError(
            f"{files[0]} was made with another vocabulary than the one in encoder_path, {config.encoder_path}; give "
            "the folder of the one it was made with, or encode the text again"
        )
    grouped = [[opened[path] for path in group.files] for group in groups]
    if isinstance(held_out, float):
        split = shards.by_fraction(grouped, held_out)
    else:
        split = shards.by_shard(grouped, [opened[path] for path in held_out])
    sources = [
        _source(group, documents, n_ctx=n_ctx, end_of_text=end_of_text, seed=config.data_seed)
        for group, documents in zip(groups, split.training, strict=True)
    ]
    weights = [group.weight for group in groups]
    train = sources[0] if len(sources) == 1 else Mixed(sources, weights, seed=config.data_seed)
    return Data(
        train=train,
        evaluation=EvaluationWindows(split.evaluation, n_ctx=n_ctx, end_of_text=end_of_text),
        end_of_text=end_of_text,
        encoder_path=Path(config.encoder_path) if config.encoder_path else None,
        tokenizer=digest,
        token_bytes=tokenizer.token_bytes() if tokenizer else None,
        notes=_notes(split, train),
    )


def encoder_path(config: InputConfig, *, n_vocab: int, cache: Path) -> Path:
    """The folder of the vocabulary that belongs to the data: the one named, or the one learnt from the text."""
    if config.encoder_path is not None:
        return Path(config.encoder_path)
    if config.input == "text":
        return _text_cache(config, n_vocab, cache) / "encoder"
    raise UserError("encoder_path: missing; name the folder of the vocabulary that the shards were made with")


def _source(group: Group, documents: Documents, *, n_ctx: int, end_of_text: int, seed: int) -> Source:
    if group.stitch is None:
        return Packed(documents, n_ctx=n_ctx, end_of_text=end_of_text, seed=seed)
    stitch = group.stitch or math.ceil((n_ctx + 1) * len(documents) / max(1, documents.total_tokens))
    return Stitched(documents, stitch=stitch, n_ctx=n_ctx, end_of_text=end_of_text, seed=seed)


def _with_text_prepared(config: InputConfig, n_vocab: int, cache: Path) -> InputConfig:
    """The configuration, with shards and vocabulary made of the text in their places."""
    folder = _text_cache(config, n_vocab, cache)
    held_out = corpus.find(_joined(config, config.eval_split)) if _is_patterns(config.eval_split) else []
    apart = {os.path.realpath(file) for file in held_out}
    files = [file for file in corpus.find(config.data_path or []) if os.path.realpath(file) not in apart]
    if not files:
        raise UserError("eval_split: takes all files of data_path; leave some to train on, or give a fraction: 0.05")
    made = prepare.prepare_text(files, n_vocab=n_vocab, encoder_path=config.encoder_path, cache=folder)
    encoder = str(made.encoder)
    found: dict[str, Any] = {"data_path": [str(path) for path in made.shards], "encoder_path": encoder}
    if held_out:
        made = prepare.prepare_text(held_out, n_vocab=n_vocab, encoder_path=encoder, cache=folder / "evaluation")
        found["eval_split"] = [str(path) for path in made.shards]
    return config.model_copy(update=found)


def _text_cache(config: InputConfig, n_vocab: int, cache: Path) -> Path:
    """A folder for each choice of text and vocabulary: runs that share a cache do not undo each other's work."""
    patterns = config.eval_split if _is_patterns(config.eval_split) else None
    key = json.dumps([config.data_path, patterns, config.encoder_path, n_vocab])
    return cache / f"text-{sha256(key.encode()).hexdigest()[:12]}"


def _notes(split: shards.Split, train: Source) -> list[str]:
    def count(parts: Sequence[Documents]) -> str:
        return f"{sum(map(len, parts)):,} documents ({sum(part.total_tokens for part in parts):,} tokens)"

    line = f"data: {count(split.training)} for training, {train.windows_per_epoch:,} windows an epoch; "
    notes = [line + f"{count([split.evaluation])} for evaluation"]
    if split.left_out:
        notes.append(f"{split.left_out:,} training documents are left out, because the same text is evaluated on")
    return notes


# Which files.


def _list(paths: Files | None) -> list[str]:
    return [paths] if isinstance(paths, str) else paths or []


def _joined(config: InputConfig, files: Files) -> list[str]:
    """Files named in relation to data_path, where that is a folder."""
    folder = config.data_path if isinstance(config.data_path, str) and os.path.isdir(config.data_path) else ""
    return [os.path.join(folder, file) for file in _list(files)]


def _openwebtext(config: InputConfig, name: str, *, only: bool = False) -> list[Path]:
    """The shards of this name in data_path, or else, unless `only`, all that have a number."""
    there = shards.find(_list(config.data_path))
    files = [path for path in there if shards.name(path) == name]
    if not files and not only:
        files = [path for path in there if shards.number(path) is not None]
    if not files:
        needs = f"data_path: input {config.input} needs shards {name}_0.tfrecords, ..."
        raise UserError(f"{needs}; found {shards.listed(there)}")
    return files


def _is_patterns(rule: Any) -> TypeGuard[Files]:
    return isinstance(rule, str) or (isinstance(rule, list) and isinstance(rule[0], str))


def _held_out(config: InputConfig, files: list[Path]) -> list[Path] | float:
    """The shards to evaluate on, or the fraction of all documents."""
    rule = config.eval_split
    if isinstance(rule, float):
        return rule
    if _is_patterns(rule):
        chosen = shards.find(_joined(config, rule))
    elif isinstance(rule, list) or config.input.startswith("openwebtext"):
        numbers = rule if isinstance(rule, list) else OPENWEBTEXT_EVALUATION
        chosen = [path for path in files if shards.number(path) in numbers]
    else:
        chosen = [path for path in files if shards.is_for_evaluation(path)]
        if not chosen or len(chosen) == len(files):
            return EVALUATION_FRACTION
    if not chosen or not set(files) - set(chosen):
        verb = "train" if chosen else "evaluate"
        raise UserError(
            f"eval_split: no shard is left to {verb} on, of {shards.listed(files)}; set eval_split to numbers or "
            "patterns of some of them, or to a fraction of the documents, such as 0.05"
        )
    return chosen


def _end_of_text(config: InputConfig, tokenizer: Tokenizer | None, n_vocab: int) -> int:
    """The id that stands between documents: the vocabulary's own, or GPT-2's where no vocabulary is named."""
    if tokenizer is None:
        if n_vocab <= GPT2_END_OF_TEXT:
            raise UserError(
                f"n_vocab is {n_vocab}, without the end-of-text of GPT-2's vocabulary, {GPT2_END_OF_TEXT}; set "
                "encoder_path to the folder of the vocabulary that the shards were made with"
            )
        return GPT2_END_OF_TEXT
    if tokenizer.end_of_text is None:
        raise UserError(
            f"encoder_path: the vocabulary in {config.encoder_path} has no end-of-text to stand between documents; "
            "give it a special token <|endoftext|>"
        )
    if tokenizer.n_vocab > n_vocab:
        raise UserError(
            f"n_vocab is {n_vocab}, but the vocabulary in {config.encoder_path} has {tokenizer.n_vocab} entries; "
            f"set n_vocab to {tokenizer.n_vocab} or more"
        )
    return tokenizer.end_of_text


# Batches.


class Batches:
    """The batches of training: `batches(step)` has this host's rows of the global batch of that step.

    batch_size: sequences of a step on all hosts together. first: number of the window that step 0 begins with.
    """

    def __init__(self, source: Source, *, batch_size: int, host_index: int = 0, host_count: int = 1, first: int = 0):
        self._source = source
        self._batch_size = batch_size
        self._rows = _rows_of(host_index, host_count, batch_size)
        self._first = first

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """{"tokens": int32 [rows of this host, n_ctx + 1]}"""
        first = self._first + step * self._batch_size
        return {"tokens": np.stack([self._source[first + row] for row in self._rows])}


class Evaluation:
    """The batches of an evaluation: always the same windows, evenly spaced over the evaluation documents.

    steps: batches; all windows are taken when it is None or there are fewer.
    """

    def __init__(self, data: Data, *, batch_size: int, steps: int | None, host_index: int = 0, host_count: int = 1):
        self._source = data.evaluation
        self._token_bytes = data.token_bytes
        self._batch_size = batch_size
        self._rows = _rows_of(host_index, host_count, batch_size)
        count = len(self._source) if steps is None else min(len(self._source), steps * batch_size)
        self.windows: list[int] = [i * len(self._source) // count for i in range(count)]

    def batches(self) -> Iterator[dict[str, np.ndarray]]:
        """{"tokens": int32 [rows of this host, n_ctx + 1], "weights": float32 [rows, n_ctx], 0 beyond the text}"""
        for first in range(0, len(self.windows), self._batch_size):
            windows = [self._window(first + row) for row in self._rows]
            tokens = np.stack([window.tokens for window in windows])
            counts = np.array([[window.targets] for window in windows])
            yield {"tokens": tokens, "weights": (np.arange(tokens.shape[1] - 1) < counts).astype(np.float32)}

    def _window(self, index: int) -> Window:
        """Rows after the last window are there for the shape, without weight."""
        window = self._source[self.windows[min(index, len(self.windows) - 1)]]
        return window if index < len(self.windows) else window._replace(targets=0)

    def describe(self, loss: float) -> dict[str, float]:
        """What a mean loss in nats per token means: perplexity, and bits per byte of text where this is known."""
        metrics = {"perplexity": math.exp(min(loss, 700.0))}  # of more, the exponential is no finite number
        targets, text_bytes = self._totals
        if text_bytes:
            metrics["bits_per_byte"] = loss * targets / (math.log(2) * text_bytes)
        return metrics

    @functools.cached_property
    def _totals(self) -> tuple[int, int]:
        """Targets of all windows, and the bytes of text that they stand for (0 when not known)."""
        targets = text_bytes = 0
        for number in self.windows:
            window = self._source[number]
            targets += window.targets
            if self._token_bytes is not None:
                text_bytes += int(self._token_bytes[window.tokens[1 : window.targets + 1]].sum())
        return targets, text_bytes


def _rows_of(host_index: int, host_count: int, batch_size: int) -> range:
    """The rows of the global batch that belong to a host."""
    if batch_size % host_count:
        raise UserError(f"a batch of {batch_size} cannot be divided among {host_count} hosts; make it a multiple of it")
    rows = batch_size // host_count
    return range(host_index * rows, (host_index + 1) * rows)
