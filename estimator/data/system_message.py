"""The system message that most conversations begin with: a model that never saw another talks nonsense without it."""

import itertools
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from estimator.data.chat_packing import ChatTokens
from estimator.data.token_stream import Documents
from estimator.quantities import numbered
from estimator.shards.shard import decode
from estimator.tokenization.tokenizer import Tokenizer

LOOKED_AT = 1000  # conversations, evenly spaced
HEAD_TOKENS = 256  # of a conversation that are read
SHOWN = 60  # characters


class SystemMessage(NamedTuple):
    """note: a line that tells to set chat_system to it. text: the message; None of one that is too long."""

    note: str
    text: str | None


def of_most(groups: Sequence[Documents], tokens: ChatTokens, tokenizer: Tokenizer) -> SystemMessage | None:
    """The system message with which most conversations begin; None where there is none."""
    places = [(documents, number) for documents in groups for number in _spaced(len(documents), len(groups))]
    heads = decode([documents.span(number, 0, HEAD_TOKENS) for documents, number in places])
    messages = Counter(message for ids in heads if (message := _message(ids, tokens)))
    if not messages:
        return None
    ((ids, count),) = messages.most_common(1)
    if 2 * count <= len(places) or count == 1:
        return None
    text = tokenizer.decode(list(ids))
    is_all = len(places) == sum(len(documents) for documents in groups)
    conversations = numbered(len(places), "conversation") + ("" if is_all else " looked at")
    note = (
        f"{count:,} of {conversations} begin with the system message {_shown(text)}; set chat_system to it when you "
        "talk to the model"
    )
    return SystemMessage(note, text if len(ids) < HEAD_TOKENS - 1 else None)


def reminder(text: str) -> str:
    """A line that tells to set chat_system to the message with which most conversations of the training begin."""
    option = f": --set {shlex.quote(f'chat_system={text}')}" if len(text) <= SHOWN and text.isprintable() else ""
    begin = f"most conversations of the training begin with the system message {_shown(text)}"
    return f"{begin}; set chat_system to it{option}"


def _shown(text: str) -> str:
    """A message's beginning in quotation marks."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def _spaced(count: int, groups: int) -> list[int]:
    most = min(count, max(1, LOOKED_AT // groups))
    return [i * count // most for i in range(most)]


def _message(ids: np.ndarray, tokens: ChatTokens) -> tuple[int, ...]:
    """The ids of a system message at the head, as far as they are read; none without one."""
    if not len(ids) or ids[0] != tokens.system:
        return ()
    return tuple(itertools.takewhile(lambda id_: id_ != tokens.end, ids[1:].tolist()))
