"""Says how much is missing where a training text is shorter than a window."""

from collections.abc import Sequence

import numpy as np

from estimator.errors import UserError
from estimator.quantities import numbered
from estimator.shards.shard import Shard


def too_short(tokens: int, n_ctx: int, *, files: Sequence[str], shards: Sequence[Shard], kept: int) -> UserError:
    """For so many tokens, of documents with `kept` tokens; the others of their shards are held out."""
    others = " and others" if len(files) > 1 else ""
    everything = sum(int(shard.token_counts.sum(dtype=np.int64)) for shard in shards)
    left = max(0, everything - n_ctx - 1) * 100 // max(1, everything)  # percent that can be held out
    held_out, fix = "", "add text"
    if left and kept < everything:
        held_out = f" of {everything:,}, as the others are held out"
        fix = f"hold out less (eval_split: a fraction of at most {left / 100:g})"
    return UserError(
        f"{files[0]}{others}: the training text has {numbered(tokens, 'token')}{held_out}, "
        f"less than one window of n_ctx + 1 = {n_ctx + 1}; {fix} or make n_ctx smaller"
    )
