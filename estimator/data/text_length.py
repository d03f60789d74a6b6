"""Whether text makes up a window to train on, and what to do where it does not."""

from typing import Protocol

import numpy as np

from estimator.errors import UserError
from estimator.quantities import numbered
from estimator.shards.shard import Shard


class Text(Protocol):
    """The part of `token_stream.Documents` that counts here."""

    shards: list[Shard]
    files: list[str]
    total_tokens: int


def check_length(documents: Text, tokens: int, n_ctx: int) -> None:
    """UserError where the documents, of so many tokens together, do not make a window."""
    if tokens < n_ctx + 1:
        others = " and others" if len(documents.files) > 1 else ""
        everything = sum(int(shard.token_counts.sum(dtype=np.int64)) for shard in documents.shards)
        left = max(0, everything - n_ctx - 1) * 100 // max(1, everything)  # percent that can be held out
        held_out, fix = "", "add text"
        if left and documents.total_tokens < everything:
            held_out = f" of {everything:,}, as the others are held out"
            fix = f"hold out less (eval_split: a fraction of at most {left / 100:g})"
        raise UserError(
            f"{documents.files[0]}{others}: the training text has {numbered(tokens, 'token')}{held_out}, "
            f"less than one window of n_ctx + 1 = {n_ctx + 1}; {fix} or make n_ctx smaller"
        )
