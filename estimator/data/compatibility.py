"""Whether shards fit the vocabulary and the model that they are read for."""

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Protocol

import numpy as np

from estimator.data.token_stream import Documents
from estimator.errors import UserError
from estimator.shards.npy_files import Ends
from estimator.shards.numpy_shards import ArrayShard
from estimator.shards.shard import Shard
from estimator.tokenization.vocab_files import END_OF_TEXT, NO_END

# Where it was written into text before encoding, GPT-2's vocabulary gives these ids, and not 50256.
GPT2_WRITTEN = (27, 91, 437, 1659, 5239, 91, 29)

DIGESTED = 64  # windows of an evaluation


def content_digest(shards: Iterable[Shard]) -> str:
    """A digest of the documents of shards: their order, lengths and fingerprints, whatever folder they are in."""
    digest = sha256()
    for shard in shards:
        digest.update(f"{shard.path.name}|{len(shard)}|".encode())
        digest.update(np.asarray(shard.token_counts).tobytes())
        digest.update(np.asarray(shard.fingerprints).tobytes())
    return digest.hexdigest()[:16]


def documents_digest(documents: Documents) -> str:
    """The same of the documents that are selected, with the parts that alone belong to them."""
    digest = sha256(repr(sorted(documents.parts.items())).encode())
    for shard, selected in zip(documents.shards, documents.selected, strict=True):
        chosen = slice(None) if selected is None else selected
        digest.update(f"{shard.path.name}|{len(shard) if selected is None else len(selected)}|".encode())
        digest.update(np.asarray(shard.token_counts)[chosen].tobytes())
        digest.update(np.asarray(shard.fingerprints)[chosen].tobytes())
    return digest.hexdigest()[:16]


def windows_digest(batch: Callable[[Sequence[int]], dict[str, np.ndarray]], windows: Sequence[int]) -> str:
    """A digest of windows of an evaluation, of which an even sample is read, and of their number.

    Its first half is the digest of earlier versions, by which `metrics_log.is_same_evaluation` knows their runs.
    """
    count = len(windows)
    number = min(count, DIGESTED)

    def digest(places: Sequence[int]) -> str:
        sample = batch([windows[place] for place in places])
        found = sha256(str(count).encode())
        for name in ("tokens", "weights"):
            found.update(np.ascontiguousarray(sample[name]).tobytes())
        return found.hexdigest()[:16]

    return "".join(digest([i * count // among for i in range(number)]) for among in (DIGESTED, number))


class Vocabulary(Protocol):
    """A vocabulary: its size, the id that ends a document if it has one, and its sha256."""

    n_vocab: int
    end_of_text: int | None

    @property
    def digest(self) -> str: ...

    def encode(self, text: str) -> list[int]: ...


def end_of_text(
    vocabulary: Vocabulary | None, folder: str | None, *, n_vocab: int, gpt2: int, described: int | None = None
) -> int:
    """The id between documents: the vocabulary's own, or `gpt2`, GPT-2's, where none is named.

    folder: where the vocabulary is. described: the vocabulary's size by nanoGPT's meta.pkl; it has no such id, so
    the next one is taken. UserError where there is none, or where it is not below n_vocab.
    """
    if vocabulary is None and described is not None and described != gpt2 + 1:
        if n_vocab <= described:
            raise UserError(
                f"n_vocab is {n_vocab}; meta.pkl has a vocabulary of {described}, and one more id stands between "
                f"documents: set n_vocab to {described + 1} or more"
            )
        return described
    if vocabulary is None:
        if n_vocab <= gpt2:
            raise UserError(
                f"n_vocab is {n_vocab}, without the end-of-text of GPT-2's vocabulary, {gpt2}; set "
                "encoder_path to the folder of the vocabulary that the shards were made with"
            )
        return gpt2
    if vocabulary.end_of_text is None:
        raise UserError(f"encoder_path: {folder}: {NO_END}")
    return vocabulary.end_of_text


def ends(vocabulary: Vocabulary | None, end_of_text: int) -> Ends:
    """What ends a document of an array: its id and, with GPT-2's vocabulary, its name encoded as text."""
    written = GPT2_WRITTEN if vocabulary is None else tuple(vocabulary.encode(END_OF_TEXT))
    return Ends(end_of_text, written if written == GPT2_WRITTEN else ())


def notes(shards: Iterable[Shard], folder: str | None) -> list[str]:
    """Lines for the console about what could not be checked. folder: where the vocabulary is."""
    unknown = [shard.path for shard in shards if not shard.tokenizer and isinstance(shard, ArrayShard)]
    if not unknown:
        return []
    others = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
    taken = folder or "GPT-2's"
    return [f"vocabulary: {unknown[0].name}{others} does not say which it was made with; it is taken to be {taken}"]


def common_digest(
    shards: Iterable[Shard], vocabulary: Vocabulary | None, folder: str | None, *, n_vocab: int
) -> str | None:
    """The digest of the vocabulary of all shards, None where neither they nor `vocabulary`, in `folder`, tell it.

    UserError about a shard that has another one, or ids that are not in it or not below n_vocab.
    """
    encoder = f"the one in encoder_path, {folder}"
    fix = "give the folder of the one it was made with, or encode the text again"
    digest, first = (vocabulary.digest, None) if vocabulary else (None, None)
    for shard in shards:
        if digest is None and shard.tokenizer:
            digest, first = shard.tokenizer, shard
        if shard.tokenizer not in (None, digest):
            if first:
                raise UserError(
                    f"{shard.path} and {first.path} were made with different vocabularies; use one for both"
                )
            raise UserError(f"{shard.path} was made with another vocabulary than {encoder}; {fix}")
        if vocabulary and shard.max_id >= vocabulary.n_vocab:
            has = f"{shard.path} has the token id {shard.max_id}, so it was made with another vocabulary than {encoder}"
            raise UserError(f"{has}, which has {vocabulary.n_vocab} entries; {fix}")
        if shard.max_id >= n_vocab:
            raise UserError(
                f"n_vocab is {n_vocab}, but {shard.path} has the token id {shard.max_id}; set n_vocab to the size of "
                "the vocabulary that it was made with"
            )
    return digest
