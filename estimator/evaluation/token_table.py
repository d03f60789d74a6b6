"""Log-probabilities of the tokens of a text as a table: `--score`."""

import csv
import sys
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

from estimator import storage
from estimator.evaluation.perplexity import Text
from estimator.evaluation.scorer import Scorer
from estimator.evaluation.windows import cut, sliding
from estimator.tokenization.text_decoder import TextDecoder, token_text, word_begins
from estimator.tokenization.tokenizer import Tokenizer

COLUMNS = ("index", "id", "token", "logprob", "word")


class Row(NamedTuple):
    """A token. index: its place among all of the text. token: its text. logprob: in nats, None if it was not scored.
    word: number of the word in which it begins."""

    index: int
    id: int
    token: str
    logprob: float | None
    word: int


def rows(scorer: Scorer, texts: Sequence[Text], tokenizer: Tokenizer, *, context: int, stride: int) -> Iterator[Row]:
    """The rows of all tokens, but not of the end-of-text in front of a document, which is no text."""
    windows = (
        window
        for text in texts
        for window in cut(text.tokens, sliding(len(text.tokens), context=context, stride=stride))
    )
    scores = scorer(windows)
    index, word = 0, -1
    for text in texts:
        logprobs: list[float | None] = [None]
        while len(logprobs) < len(text.tokens):
            logprobs += next(scores).logprobs.tolist()
        decoder, tokens = TextDecoder(tokenizer), text.tokens[text.begins :].tolist()
        begins = word_begins([decoder.push(token) for token in tokens])
        for number, (token, is_new) in enumerate(zip(tokens, begins, strict=True), start=text.begins):
            word += is_new
            yield Row(index, token, token_text(tokenizer, token), logprobs[number], word)
            index += 1


def write(table: Iterator[Row], path: str | None) -> None:
    """Writes CSV with a header to a file, which appears whole, or to stdout."""
    if path is None:
        _write(table, sys.stdout)
        return
    with storage.new_file(path, "w") as file:
        _write(table, file)


def _write(table: Iterator[Row], file: IO[str]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for index, number, token, logprob, word in table:
        writer.writerow((index, number, token, "" if logprob is None else f"{logprob:.6f}", word))
