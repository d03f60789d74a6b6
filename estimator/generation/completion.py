"""Turns prompts into text with any model: the keys of generation, streaming, stop strings and sample files."""

import argparse
import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from estimator import storage
from estimator.config import ConfigError, Section, UserPaths
from estimator.errors import UserError
from estimator.generation import arguments as flags
from estimator.generation import stop_strings
from estimator.tokenization.tokenizer import Tokenizer, encodable

# (prompts, stopped=rows that need no more tokens, first_row=number) -> chunks of the new tokens of each row
Stream = Callable[..., Iterator[list[list[int]]]]


TOKEN_ID = re.compile("0|[1-9][0-9]{0,9}")  # one spelling for each, since a dictionary takes two as two keys
LEAST_PENALTY = 0.001  # of repetition: scores are divided by it, and float32 ends


class Settings(NamedTuple):
    """How the next token is drawn; the defaults take the model's own distribution. In compiled code, scalars or [B].

    temperature: 0 takes the likeliest. top_k: among the k likeliest, ties included; 0 is all. top_p: among the
    smallest set of likeliest tokens that has at least this probability (Holtzman et al. 2019); 1 is all. min_p: among
    tokens at least this probable relative to the likeliest one. repetition_penalty: divides positive and multiplies
    negative scores of tokens of the prompt and the answer (Keskar et al. 2019). frequency_penalty, presence_penalty:
    subtracted from a token's score for each time, and once if, the answer has it (OpenAI). logit_bias: added to the
    scores of token ids.
    """

    temperature: Any = 1.0
    top_k: Any = 0
    top_p: Any = 1.0
    min_p: Any = 0.0
    repetition_penalty: Any = 1.0
    frequency_penalty: Any = 0.0
    presence_penalty: Any = 0.0
    logit_bias: Mapping[int, float] | None = None

    @property
    def has_penalties(self) -> bool:
        return (self.repetition_penalty, self.frequency_penalty, self.presence_penalty) != (1, 0, 0)


class PredictionConfig(Section):
    """Prediction."""

    predict_path: Annotated[str | None, UserPaths] = Field(
        None, description='text file that samples are appended to; "auto" is predictions.txt in model_path'
    )
    predict_batch_size: int = Field(
        1, gt=0, le=2**16, description="samples generated simultaneously, and by default in all"
    )
    num_samples: int | None = Field(None, gt=0, lt=2**31, description="samples per prompt; null is predict_batch_size")
    length: int | None = Field(None, gt=0, lt=2**31, description="new tokens per sample; null fills the context")
    temperature: float = Field(1.0, ge=0, le=100, description="divides the logits; 0 is greedy decoding")
    top_k: int = Field(0, ge=0, lt=2**31, description="sample from the k most likely tokens; 0 is all")
    top_p: float = Field(
        1.0, gt=0, le=1, description="nucleus sampling: smallest set of tokens with this total probability; 1 is all"
    )
    min_p: float = Field(
        0.0, ge=0, le=1, description="drop tokens less probable than this times the most probable one; 0 keeps all"
    )
    repetition_penalty: float = Field(
        1.0,
        ge=LEAST_PENALTY,
        le=1000,
        description="above 1 lowers the logits of tokens in the prompt and the sample (CTRL); 1 is off",
    )
    frequency_penalty: float = Field(
        0.0, ge=-100, le=100, description="subtracted from a token's logit for each time it is in the sample"
    )
    presence_penalty: float = Field(
        0.0, ge=-100, le=100, description="subtracted from a token's logit once it is in the sample"
    )
    logit_bias: dict[str, Annotated[float, Field(ge=-1e6, le=1e6)]] = Field(
        {}, description='added to the logits of token ids: {"50256": -100}'
    )
    best_of: int | None = Field(
        None,
        gt=0,
        le=2**12,
        description="candidates per sample, of which the one with the highest mean log-probability is kept; null is 1",
    )
    stop: list[str] = Field([], description="strings that end a sample; they are not part of it")
    sample_prompts: list[str] = Field(
        [""],
        min_length=1,
        description='prompts of sample_steps; "" starts a document, and with input chat it is "Hello!"',
    )
    sample_length: int = Field(100, gt=0, lt=2**31, description="new tokens per sample of sample_steps")
    chat_system: str | None = Field(
        None, description="input chat: system message of every conversation: an instruction, or a speaker's name"
    )

    def conflicts(self) -> Iterator[ConfigError]:
        if "" in self.stop:
            yield ConfigError("stop", "an empty string would end every sample immediately; remove it")
        if wrong := [key for key in self.logit_bias if not TOKEN_ID.fullmatch(key)]:
            message = f'{wrong[0][:40]!r} is not a token id; write ids as in {{"50256": -100}}, without 0 before them'
            yield ConfigError("logit_bias", message)

    @property
    def samples(self) -> int:
        return self.num_samples or self.predict_batch_size

    @property
    def settings(self) -> Settings:
        """How the next token is drawn."""
        return Settings(
            self.temperature,
            self.top_k,
            self.top_p,
            self.min_p,
            self.repetition_penalty,
            self.frequency_penalty,
            self.presence_penalty,
            {int(token): bias for token, bias in self.logit_bias.items()} or None,
        )


def require_known_ids(config: PredictionConfig, tokenizer: Tokenizer) -> None:
    """Raises UserError for an id of logit_bias that the vocabulary does not have."""
    if wrong := [token for token in config.settings.logit_bias or () if token >= tokenizer.n_vocab]:
        raise UserError(f"logit_bias: token {wrong[0]} is not one of the vocabulary's {tokenizer.n_vocab:,}; remove it")


def overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keys of the JSON file that the command line sets."""
    values = {key: getattr(arguments, key) for key in flags.KEYS if getattr(arguments, key) is not None}
    if arguments.stop is not None:
        values["stop"] = [unescaped(typed(text)) for text in arguments.stop]
    return values


def typed(text: str) -> str:
    """Decodes text of the command line or keyboard, without a byte order mark.

    Where the locale is not UTF-8, Python read the UTF-8 bytes as surrogates.
    """
    try:
        return text.encode(errors="surrogateescape").decode(errors="replace").removeprefix("\ufeff")
    except UnicodeEncodeError:  # other surrogates
        return encodable(text)


def unescaped(text: str) -> str:
    r"""Replaces the escapes \n, \r, \t, \\ and \u00e9; keeps other backslashes."""
    return re.sub(r"\\(?:([nrt\\])|u([0-9a-fA-F]{4}))", _escaped, text)


def _escaped(match: re.Match[str]) -> str:
    return chr(int(match[2], 16)) if match[2] else {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}[match[1]]


def read_prompt(path: str) -> str:
    """The whole file without a byte order mark, including its last newline; UserError if it is not UTF-8."""
    try:
        with storage.open(path, "r") as file:
            return file.read().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save the prompt as UTF-8 text") from None


def prompt_tokens(
    prompt: str, tokenizer: Tokenizer, *, seen: Callable[[int], int], note: Callable[[str], None]
) -> list[int]:
    """The last `seen(count)` tokens of the prompt; for an empty prompt, the start of a document.

    seen: number of tokens of the prompt -> number of them that the model uses.
    """
    tokens = tokenizer.encode(prompt)
    if not tokens:
        if tokenizer.end_of_text is None:
            raise UserError("the prompt is empty, and the vocabulary has no <|endoftext|> to start from; give a prompt")
        return [tokenizer.end_of_text]
    if prompt.endswith(" ") and not prompt.isspace() and _begins_words_with_spaces(tokenizer):
        shown = f"...{prompt[-40:]}" if len(prompt) > 40 else prompt
        note(
            f"the prompt {shown!r} ends with a space, but words of this vocabulary begin with one; remove it for "
            "better continuations"
        )
    most = seen(len(tokens))
    if len(tokens) > most:
        note(f"the prompt has {len(tokens):,} tokens; the model sees the last {most:,}")
    return tokens[-most:]


def _begins_words_with_spaces(tokenizer: Tokenizer) -> bool:
    """Whether some letter is one token with the space before it, as in GPT-2's vocabulary, and not in one of bytes."""
    space = len(tokenizer.encode("a "))
    return any(len(tokenizer.encode(f"a {letter}")) <= space for letter in string.ascii_letters) and space > 1


class Continuation:
    """The text of one sample while it grows, up to the stop string that ends first."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]):
        self._tokenizer, self._stop = tokenizer, stop
        self._tokens: list[int] = []
        self._shown = 0
        self.text = ""
        self.stopped = False

    def extend(self, tokens: list[int]) -> None:
        """Appends new tokens; after a stop string it does nothing."""
        if self.stopped:
            return
        self._tokens += tokens
        self.text = self._tokenizer.decode(self._tokens)
        self._look_for_stop(self._whole)

    def finish(self) -> str:
        """The text at the end of the sample, where a character that was cut off may be of a stop string, too."""
        if not self.stopped:
            self._look_for_stop(self.text)
        return self.text

    def _look_for_stop(self, text: str) -> None:
        if (begin := stop_strings.begin_of_first(text, self._stop)) is not None:
            self.text, self.stopped = text[:begin], True

    @property
    def _whole(self) -> str:
        """The text without an end that may be a part of a character."""
        return self.text.rstrip("\ufffd")

    def fresh(self, *, final: bool) -> str:
        """The text added since the last call; unless `final`, without an end that later tokens may still change."""
        if final:
            end = len(self.finish())
        else:
            end = len(self._whole) - stop_strings.undecided(self._whole, self._stop)
        new, self._shown = self.text[self._shown : end], max(self._shown, end)
        return new


def generate(prompt: list[int], tokenizer: Tokenizer, stream: Stream, config: PredictionConfig) -> Iterator[str]:
    """Yields the continuations of one prompt, generating predict_batch_size of them at a time."""
    for first in range(0, config.samples, config.predict_batch_size):
        count = min(config.predict_batch_size, config.samples - first)
        texts = [Continuation(tokenizer, config.stop) for _ in range(count)]
        stopped: set[int] = set()
        for chunk in stream([prompt] * count, stopped=stopped, first_row=first):
            for row, (text, tokens) in enumerate(zip(texts, chunk, strict=True)):
                text.extend(tokens)
                if text.stopped:
                    stopped.add(row)
        yield from (text.finish() for text in texts)


def show_stream(
    prompt: list[int],
    tokenizer: Tokenizer,
    stream: Stream,
    stop: Sequence[str],
    *,
    row: int,
    show: Callable[[str], None],
) -> str:
    """Shows one continuation while it is generated, then a newline; returns it. row: number of the sample."""
    text, stopped = Continuation(tokenizer, stop), set[int]()
    for (tokens,) in stream([prompt], stopped=stopped, first_row=row):
        text.extend(tokens)
        if text.stopped:
            stopped.add(0)
        show(text.fresh(final=text.stopped))
    show(text.fresh(final=True) + "\n")
    return text.text


def write_samples(prompt: str, continuations: Iterator[str], *, path: str | None, show: Callable[[str], None]) -> None:
    """Shows each sample and appends it to `path`, in the layout of ConnorJL/GPT2."""
    prompt = encodable(prompt)
    for number, continuation in enumerate(continuations):
        sample = f"{'=' * 40} SAMPLE {number} {'=' * 40}\n{prompt}{continuation}\n{'=' * 80}\n"
        if path:
            storage.append(path, sample)
        show(sample)


class Completer:
    """Continues prompts: one prompt with many samples, or typed prompts one after the other.

    seen: number of tokens of a prompt -> number of them that the model uses.
    """

    is_conversation = False

    def __init__(
        self,
        tokenizer: Tokenizer,
        stream: Stream,
        config: PredictionConfig,
        *,
        seen: Callable[[int], int],
        note: Callable[[str], None],
    ):
        self.tokenizer, self.stream, self.config = tokenizer, stream, config
        self.encode = partial(prompt_tokens, tokenizer=tokenizer, seen=seen, note=note)

    def replies(self, prompt: str) -> Iterator[str]:
        """Yields the continuations of one prompt."""
        return generate(self.encode(prompt), self.tokenizer, self.stream, self.config)

    def listen(self, prompt: str) -> list[int]:
        """The tokens of a typed prompt."""
        return self.encode(prompt)

    def remember(self, prompt: str, reply: str) -> None:
        """Prompts are independent."""

    def restart(self) -> str:
        """Nothing to forget: prompts are independent."""
        return ""
