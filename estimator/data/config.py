"""The keys of the JSON file that name data."""

from collections.abc import Iterator
from typing import Annotated, Literal, get_args

from pydantic import Field

from estimator.config import ConfigError, Section, UserPaths
from estimator.corpus import chat_files, parts
from estimator.data import chat_packing
from estimator.data.key_types import Held, Part, Paths

Name = Literal["openwebtext", "openwebtext_long", "openwebtext_longbiased", "generic_text", "packed", "text", "chat"]
CONTINUOUS = tuple(name for name in get_args(Name) if name != "chat")  # of which any token may begin a window
READ_BY: dict[str, tuple[Name, ...]] = {  # the inputs that some keys are for
    "dataset": ("generic_text", "packed"),
    "stitch": ("openwebtext", "openwebtext_long", "generic_text"),
    "sampling": ("packed", "text"),
    "text_format": ("text",),
    "text_key": ("text",),
    "separator": ("text",),
    "documents": ("text",),
    "text_encoding": ("text", "chat"),
    "on_error": ("text", "chat"),
    "special": CONTINUOUS,
    "chat_loss": ("chat",),
    "chat_voice": ("chat",),
    "n_ctx_min": CONTINUOUS,
    "separate_documents": CONTINUOUS,
}


class InputConfig(Section):
    """Data."""

    input: Name = Field("openwebtext", description="how documents become windows of n_ctx tokens; see docs/data.md")
    data_path: Paths = Field(
        None,
        description="folder, files or patterns of shards; for inputs text and chat also of text, JSON, CSV or Parquet",
    )
    text_format: Literal["plain", "tokens"] | None = Field(
        None, description="input text: tokens reads lines of space-separated tokens of a vocab.txt; null: plain"
    )
    text_key: str | list[str] | None = Field(
        None,
        description="input text: key or column of the text, a path such as data.text, or several to join; null: text",
    )
    documents: Literal["file", "line", "blank_line", "title"] | None = Field(
        None,
        description="input text: documents of a text file: the file, lines, blocks, WikiText articles; null: file",
    )
    separator: str | None = Field(
        None,
        description='input text: separator of documents; null: <|endoftext|>, in text files only; "": none',
    )
    text_encoding: str | None = Field(
        None, description="inputs text and chat: encoding of the files, such as utf-16 or cp1252; null: utf-8"
    )
    special: list[str] | None = Field(
        None, description="special tokens to recognize in texts and prompts, such as <|startoftext|>"
    )
    on_error: Literal["fail", "skip"] | None = Field(
        None, description="inputs text and chat: on unreadable text, fail, or skip and count it; null: fail"
    )
    chat_loss: chat_packing.Loss | None = Field(
        None, description="input chat: tokens in the loss: the assistant's replies, or all messages; null: replies"
    )
    chat_voice: chat_files.Voice | None = Field(
        None, description="input chat: speaker of a history that the assistant learns: other, or me; null: other"
    )
    dataset: list[Part] | None = Field(
        None, description="generic_text, packed: [[files, weight], ...]; names or patterns below data_path"
    )
    sampling: Literal["once", "random", "sentences"] | None = Field(
        None,
        description="packed, text: each token once per epoch, or windows from random tokens or sentences; null: once",
    )
    n_ctx_min: int | None = Field(
        None,
        gt=0,
        description="cut every second training window into contexts of this length, or 2, 4, ... times it; null: none",
    )
    separate_documents: bool = Field(False, description="no attention across documents of a window; positions restart")
    stitch: int | None = Field(
        None, gt=0, description="generic_text, openwebtext: documents joined per window; null: by input"
    )
    eval_split: Held = Field(
        None, description="evaluation data: shard numbers, file patterns, or a fraction of the text; 0: none"
    )
    encoder_path: Annotated[str | None, UserPaths] = Field(
        None, description="folder of the vocabulary; null: that of init_from, or input text trains one"
    )
    data_cache_gb: float = Field(200.0, gt=0, description="limit in GB of local copies of remote data")
    data_seed: int = Field(0, ge=0, lt=2**64, description="random seed of the data order")

    def conflicts(self) -> Iterator[ConfigError]:
        for key, readers in READ_BY.items():
            if self.input not in readers and getattr(self, key) not in (None, False):
                others = " or ".join(readers)
                yield ConfigError(key, f"input {self.input} does not use it; leave it out, or set input to {others}")
        if self.input == "generic_text" and not self.dataset:
            yield ConfigError("dataset", 'missing; input generic_text needs it: [[["a_*.tfrecords"], 0.5], ...]')
        if self.dataset and isinstance(self.data_path, list):
            yield ConfigError("data_path", "with dataset, one folder, which its files are in")
        if self.sampling == "sentences" and self.encoder_path is None and self.input != "text":
            yield ConfigError("encoder_path", "missing; sampling sentences finds their ends by the vocabulary")
        if self.text_encoding is not None and not parts.is_encoding(self.text_encoding):
            yield ConfigError("text_encoding", "no such encoding; write utf-16 or cp1252, or leave it out for utf-8")
        if self.text_format == "tokens" and self.encoder_path is None:
            yield ConfigError("encoder_path", "missing; text_format tokens needs the folder of vocab.txt")
        if any(not files or weight <= 0 for files, weight in self.dataset or []):
            yield ConfigError("dataset", "each part needs files and a weight above 0: [[files, weight], ...]")
        if isinstance(self.eval_split, float) and not 0 <= self.eval_split < 1:
            yield ConfigError("eval_split", f"a fraction must be from 0 to below 1, not {self.eval_split}")
        if isinstance(self.eval_split, str | list) and not self.eval_split:
            yield ConfigError("eval_split", "empty; name at least one shard, or leave it out")
