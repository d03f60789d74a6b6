"""Whether shards fit the vocabulary and the model that they are read for."""

from collections.abc import Iterable
from typing import Protocol

from runtime.errors import UserError
from runtime.tfrecord import Shard


class Vocabulary(Protocol):
    """What is known of a vocabulary here: its size, the id that ends a document if it has one, and its sha256."""

    n_vocab: int
    end_of_text: int | None

    @property
    def digest(self) -> str: ...


def end_of_text(vocabulary: Vocabulary | None, folder: str | None, *, n_vocab: int, gpt2: int) -> int:
    """The id that stands between documents: the vocabulary's own, or `gpt2`, GPT-2's, where none is named.

    folder: where the vocabulary is. UserError where it has no such id, or where GPT-2's is not below n_vocab.
    """
    if vocabulary is None:
        if n_vocab <= gpt2:
            raise UserError(
                f"n_vocab is {n_vocab}, without the end-of-text of GPT-2's vocabulary, {gpt2}; set "
                "encoder_path to the folder of the vocabulary that the shards were made with"
            )
        return gpt2
    if vocabulary.end_of_text is None:
        raise UserError(
            f"encoder_path: the vocabulary in {folder} has no end-of-text to stand between documents; "
            "give it a special token <|endoftext|>"
        )
    return vocabulary.end_of_text


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
