"""The system message that most conversations begin with: a model that never saw another talks nonsense without it."""

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np

from estimator.data.chat_packing import ChatTokens
from estimator.data.token_stream import Documents
from estimator.quantities import numbered
from estimator.shards.shard import decode
from estimator.tokenization.tokenizer import Tokenizer

LOOKED_AT = 1000  # conversations, evenly spaced
HEAD_TOKENS = 256  # of a conversation that are read
SHOWN = 60  # characters


def note(groups: Sequence[Documents], tokens: ChatTokens, tokenizer: Tokenizer) -> str:
    """A line that tells to set chat_system, where most conversations begin with the same one, or ""."""
    places = [(documents, number) for documents in groups for number in _spaced(len(documents), len(groups))]
    heads = decode([documents.span(number, 0, HEAD_TOKENS) for documents, number in places])
    messages = Counter(message for ids in heads if (message := _message(ids, tokens)))
    if not messages:
        return ""
    ((ids, count),) = messages.most_common(1)
    if 2 * count <= len(places) or count == 1:
        return ""
    text = tokenizer.decode(list(ids))
    shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    is_all = len(places) == sum(len(documents) for documents in groups)
    conversations = numbered(len(places), "conversation") + ("" if is_all else " looked at")
    return (
        f"{count:,} of {conversations} begin with the system message {shown!r}; set chat_system to it when you talk to "
        "the model"
    )


def _spaced(count: int, groups: int) -> list[int]:
    most = min(count, max(1, LOOKED_AT // groups))
    return [i * count // most for i in range(most)]


def _message(ids: np.ndarray, tokens: ChatTokens) -> tuple[int, ...]:
    """The ids of a system message at the head, as far as they are read; none without one."""
    if not len(ids) or ids[0] != tokens.system:
        return ()
    return tuple(itertools.takewhile(lambda id_: id_ != tokens.end, ids[1:].tolist()))
