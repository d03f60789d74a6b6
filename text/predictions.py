"""Prompts in, texts out: what `--predict_text`, `--predict_file` and `--interactive` do around a model."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from runtime import storage
from runtime.config import Problem, Section
from runtime.errors import UserError
from text.tokenizers import Tokenizer, encodable

# (prompts, stopped=rows that need no more, first_row=number) -> the new tokens of each row, a chunk at a time
Stream = Callable[..., Iterator[list[list[int]]]]


class PredictionConfig(Section):
    """Prediction."""

    predict_path: str | None = Field(None, description="text file that samples are appended to")
    predict_batch_size: int = Field(1, gt=0, description="samples generated at a time, and by default in all")
    num_samples: int | None = Field(None, gt=0, description="samples of one prompt; null is predict_batch_size")
    length: int | None = Field(None, gt=0, description="new tokens of a sample; null fills the context")
    temperature: float = Field(1.0, ge=0, description="divides the scores; 0 always takes the likeliest token")
    top_k: int = Field(0, ge=0, description="draw among the k likeliest tokens; 0 is all")
    top_p: float = Field(1.0, gt=0, le=1, description="draw among the likeliest tokens that have this share together")
    stop: list[str] = Field([], description="strings at which a sample ends; they are left out of it")
    chat_system: str | None = Field(
        None, description="input chat: what conversations begin with: an instruction, or a name of the histories"
    )

    @model_validator(mode="after")
    def _check(self) -> "PredictionConfig":
        if "" in self.stop:
            raise Problem("stop", "an empty string would stop at once; leave it out")
        return self

    @property
    def samples(self) -> int:
        return self.num_samples or self.predict_batch_size


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("prediction")
    group.add_argument("--length", type=int, metavar="N", help="new tokens")
    group.add_argument("--num_samples", type=int, metavar="N", help="samples of the prompt")
    group.add_argument("--temperature", type=float, metavar="T", help="0 takes the likeliest token")
    group.add_argument("--top_k", type=int, metavar="K", help="draw among the K likeliest tokens")
    group.add_argument("--top_p", type=float, metavar="P", help="draw among the likeliest with share P together")
    group.add_argument("--stop", action="append", metavar="STRING", help="end a sample here; repeatable")
    group.add_argument("--seed", type=int, metavar="S", help="repeats the samples that were drawn with it")


def overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keys of the JSON file that the command line gives."""
    keys = ("length", "num_samples", "temperature", "top_k", "top_p", "stop")
    return {key: getattr(arguments, key) for key in keys if getattr(arguments, key) is not None}


def read_prompt(path: str) -> str:
    """The whole file, its last newline kept."""
    try:
        with storage.open(path, "r") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save the prompt as UTF-8 text") from None


def prompt_tokens(
    prompt: str, tokenizer: Tokenizer, *, seen: Callable[[int], int], note: Callable[[str], None]
) -> list[int]:
    """The prompt's tokens, the last `seen(count)` of them; an empty prompt is the start of a document."""
    tokens = tokenizer.encode(prompt)
    if not tokens:
        if tokenizer.end_of_text is None:
            raise UserError("the prompt is empty, and the vocabulary has no <|endoftext|> to start from; give a prompt")
        return [tokenizer.end_of_text]
    most = seen(len(tokens))
    if len(tokens) > most:
        note(f"the prompt has {len(tokens):,} tokens; the model sees the last {most:,}")
    return tokens[-most:]


class Continuation:
    """A sample's continuation while it grows."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]):
        self._tokenizer, self._stop = tokenizer, stop
        self._tokens: list[int] = []
        self._shown = 0
        self.text = ""
        self.stopped = False

    def extend(self, tokens: list[int]) -> None:
        if self.stopped:
            return
        self._tokens += tokens
        self.text = self._tokenizer.decode(self._tokens)
        found = [self.text.find(word) for word in self._stop if word in self.text]
        if found:
            self.text, self.stopped = self.text[: min(found)], True

    def fresh(self, *, final: bool) -> str:
        """What has been added since the last call, without an end that later tokens may still change."""
        end = len(self.text)
        if not final:
            held = [n for word in self._stop for n in range(1, len(word)) if self.text.endswith(word[:n])]
            end -= max(held, default=0)
            while end > self._shown and self.text[end - 1] == "\N{REPLACEMENT CHARACTER}":
                end -= 1
        new, self._shown = self.text[self._shown : end], max(self._shown, end)
        return new


def generate(prompt: list[int], tokenizer: Tokenizer, stream: Stream, config: PredictionConfig) -> Iterator[str]:
    """Continuations of one prompt, predict_batch_size at a time."""
    for first in range(0, config.samples, config.predict_batch_size):
        texts = [
            Continuation(tokenizer, config.stop) for _ in range(min(config.predict_batch_size, config.samples - first))
        ]
        stopped: set[int] = set()
        for chunk in stream([prompt] * len(texts), stopped=stopped, first_row=first):
            for row, (text, tokens) in enumerate(zip(texts, chunk, strict=True)):
                text.extend(tokens)
                if text.stopped:
                    stopped.add(row)
        yield from (text.text for text in texts)


def write_samples(prompt: str, continuations: Iterator[str], *, path: str | None, show: Callable[[str], None]) -> None:
    """Shows each sample and appends it to `path`, in the layout of ConnorJL/GPT2."""
    prompt = encodable(prompt)
    if path and not storage.is_remote(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    for number, continuation in enumerate(continuations):
        sample = f"{'=' * 40} SAMPLE {number} {'=' * 40}\n{prompt}{continuation}\n{'=' * 80}\n"
        show(sample)
        if path:
            storage.append(path, sample)


class Continuer:
    """Continues prompts: one, into as many samples as are asked for, or those of a conversation at the keyboard.

    seen: of how many of a prompt's tokens the model sees.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stream: Stream,
        config: PredictionConfig,
        *,
        seen: Callable[[int], int],
        note: Callable[[str], None],
    ):
        self._tokenizer, self._stream, self._config = tokenizer, stream, config
        self._prompt = partial(prompt_tokens, tokenizer=tokenizer, seen=seen, note=note)

    def replies(self, prompt: str) -> Iterator[str]:
        return generate(self._prompt(prompt), self._tokenizer, self._stream, self._config)

    def interact(self, *, ask: Callable[[str], str], show: Callable[[str], None]) -> None:
        """Prompt after prompt until the end of input, each continuation shown while it is made."""
        number = 0
        while True:
            try:
                prompt = ask(">>> ")
            except EOFError:
                show("\n")
                return
            text, stopped = Continuation(self._tokenizer, self._config.stop), set[int]()
            for (tokens,) in self._stream([self._prompt(prompt)], stopped=stopped, first_row=number):
                text.extend(tokens)
                if text.stopped:
                    stopped.add(0)
                show(text.fresh(final=text.stopped))
            show(text.fresh(final=True) + "\n")
            number += 1
