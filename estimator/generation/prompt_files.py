"""Prompts from a file, one a line, with one JSON object a line as output."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from estimator import json_text, storage
from estimator.errors import UserError
from estimator.generation.completion import Continuation, PredictionConfig
from estimator.tokenization.tokenizer import Tokenizer, encodable

SUFFIX = ".jsonl"  # of prompts and samples that are one JSON object per line
BATCH_SIZE = 16  # rows generated simultaneously if predict_batch_size is not given

# (prompts, stopped=, first_row=) -> chunks with `tokens` and `logprobs`, each a list for every row
Generate = Callable[..., Iterator[Any]]


class Prompt(NamedTuple):
    """text: to continue. fields: the other keys of its line, which the output repeats."""

    text: str
    fields: dict[str, Any]


class Sample(NamedTuple):
    """A continuation: its text, tokens, and their log-probabilities in nats."""

    text: str
    tokens: list[int]
    logprobs: list[float]

    @property
    def score(self) -> float:
        """Mean log-probability of a token; that of no token is the lowest."""
        return sum(self.logprobs) / len(self.logprobs) if self.logprobs else -float("inf")


def read(path: str, *, is_json: bool) -> list[Prompt]:
    """The prompts of a file. Raises UserError with the line that is not one.

    is_json: each line is an object with the key "prompt"; else each line is a prompt. Empty lines are left out.
    """
    prompts = []
    for number, line in enumerate(storage.read_bytes(path).removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            text = line.decode().removesuffix("\r")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}, line {number}, byte {error.start}: not UTF-8; save the file as UTF-8") from None
        if text.strip():
            prompts.append(_parsed(text, f"{path}, line {number}") if is_json else Prompt(text, {}))
    if not prompts:
        raise UserError(f"{path} holds no prompts; write one per line")
    return prompts


def are_objects(prompts: Sequence[Prompt]) -> bool:
    """Whether each prompt is the text of a JSON object."""

    def is_object(text: str) -> bool:
        try:
            return isinstance(json_text.loads(text), dict)
        except ValueError:
            return False

    return all(is_object(prompt.text) for prompt in prompts)


def _parsed(line: str, where: str) -> Prompt:
    try:
        fields = json_text.loads(line)
        json.dumps(fields, allow_nan=False)  # the output repeats them
    except json.JSONDecodeError as error:
        raise UserError(
            f'{where}, column {error.colno}: not JSON ({error.msg}); write {{"prompt": "..."}} on each line'
        ) from None
    except ValueError as error:
        raise UserError(f'{where}: not JSON ({error}); write {{"prompt": "..."}} on each line') from None
    if not isinstance(fields, dict) or not isinstance(fields.get("prompt"), str):
        raise UserError(f'{where}: no object with a string "prompt"; write {{"prompt": "..."}} on each line')
    return Prompt(fields["prompt"], fields)


def complete(
    prompts: Sequence[list[int]], tokenizer: Tokenizer, generate: Generate, config: PredictionConfig
) -> Iterator[list[Sample]]:
    """Yields the samples of each prompt, in order.

    Rows are numbered through all prompts, so the samples depend neither on the batch size nor on the other prompts'
    texts. With length null, where a sample fills the context, only prompts of equal length share a batch.
    """
    candidates = config.best_of or 1
    owners = [number for number in range(len(prompts)) for _ in range((config.num_samples or 1) * candidates)]
    size = config.predict_batch_size if config.predict_batch_size > 1 else BATCH_SIZE
    done: dict[int, list[Sample]] = {}
    first, reported = 0, 0
    while first < len(owners):
        rows = [prompts[owner] for owner in owners[first : first + size]]
        if config.length is None:
            equal = next((i for i, row in enumerate(rows) if len(row) != len(rows[0])), len(rows))
            rows = rows[:equal]
        for offset, sample in enumerate(_batch(rows, tokenizer, generate, config, first_row=first)):
            done.setdefault(owners[first + offset], []).append(sample)
        first += len(rows)
        while reported < len(prompts) and (first >= len(owners) or owners[first] > reported):
            samples = done.pop(reported)
            groups = [samples[start : start + candidates] for start in range(0, len(samples), candidates)]
            yield [max(group, key=lambda sample: sample.score) for group in groups]
            reported += 1


def _batch(
    rows: list[list[int]], tokenizer: Tokenizer, generate: Generate, config: PredictionConfig, *, first_row: int
) -> list[Sample]:
    texts = [Continuation(tokenizer, config.stop) for _ in rows]
    tokens: list[list[int]] = [[] for _ in rows]
    logprobs: list[list[float]] = [[] for _ in rows]
    stopped: set[int] = set()
    for chunk in generate(rows, stopped=stopped, first_row=first_row):
        for row, text in enumerate(texts):
            if not text.stopped:
                text.extend(chunk.tokens[row])
                tokens[row] += chunk.tokens[row]
                logprobs[row] += chunk.logprobs[row]
            if text.stopped:
                stopped.add(row)
    samples = []
    for text, ids, values in zip(texts, tokens, logprobs, strict=True):
        ended = text.finish()
        count = _token_count(ids, ended, tokenizer) if text.stopped else len(ids)
        samples.append(Sample(ended, ids[:count], values[:count]))
    return samples


def _token_count(tokens: list[int], text: str, tokenizer: Tokenizer) -> int:
    """How many tokens the text before a stop string has, the one in which the stop string begins left out."""
    return next(n for n in range(len(tokens), -1, -1) if text.startswith(tokenizer.decode(tokens[:n])))


def output_line(prompt: Prompt, samples: Sequence[Sample], *, with_logprobs: bool) -> str:
    """The JSON line of one prompt: the fields of its input line, and "completions"."""
    texts: list[Any] = [sample.text for sample in samples]
    if with_logprobs:
        pairs = zip(texts, samples, strict=True)
        texts = [{"text": text, "tokens": item.tokens, "logprobs": item.logprobs} for text, item in pairs]
    line = json.dumps({**prompt.fields, "prompt": prompt.text, "completions": texts}, ensure_ascii=False)
    return encodable(line) + "\n"
