"""An even sample of a corpus, as much of it as learning a vocabulary has memory for.

Each document has a number that only its text decides, a hash, and those with the smallest numbers are taken: every
document has the same chance, the same text gives the same sample in whatever order it is read, and no more than the
sample is ever held. Long documents are cut at line ends first, so that one large file is sampled like many small ones.
"""

import hashlib
import heapq
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from estimator import quantities
from estimator.tokenization.vocab_files import encodable

# Characters of a part of a long document, at least.
PART_CHARS = 65536
_PARTS = re.compile(rf".{{{PART_CHARS},}}?\n|.+", re.DOTALL)


class Cost(NamedTuple):
    """Bytes of memory that a byte of text costs: of ASCII, and of all other characters."""

    ascii: int
    other: int

    def of(self, text: str) -> int:
        size = len(text.encode())
        others = 0 if size == len(text) else len(_NO_ASCII.sub("", text).encode())
        return (size - others) * self.ascii + others * self.other


_NO_ASCII = re.compile(r"[\x00-\x7f]+")
ONE = Cost(1, 1)


class Subset(NamedTuple):
    """The texts taken, in the order of the corpus, and how much of it they are."""

    texts: list[str]
    size: int  # bytes
    of_size: int

    def __str__(self) -> str:
        whole = quantities.size(self.of_size)
        if self.size == self.of_size:
            return f"all {whole} of the text"
        return f"a sample of {quantities.size(self.size)}, evenly taken from {whole} of text"


def even(documents: Iterable[str], *, limit: int, cost: Cost = ONE) -> Subset:
    """As many parts of the documents as cost at most `limit` together; one part in any case."""
    taken: list[
        tuple[int, int, int, int, str]
    ] = []  # a heap, the largest hash first: -hash, -document, -part, cost, text
    spent = of_size = 0
    for document, text in enumerate(documents):
        for number, part in enumerate(_parts(encodable(text))):
            data = part.encode()
            of_size += len(data)
            rank = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
            price = cost.of(part)
            heapq.heappush(taken, (-rank, -document, -number, price, part))
            spent += price
            while spent > limit and len(taken) > 1:
                spent -= heapq.heappop(taken)[3]
    # As in the corpus; adjacent parts of a document form one text again.
    taken.sort(key=lambda item: (-item[1], -item[2]))
    texts = list(_joined(taken))
    return Subset(texts, sum(len(text.encode()) for text in texts), of_size)


def _parts(text: str) -> list[str]:
    return [text] if len(text) <= PART_CHARS else _PARTS.findall(text)


def _joined(taken: list[tuple[int, int, int, int, str]]) -> Iterator[str]:
    # Adjacent parts have the same difference of part number and position.
    places = enumerate(taken)
    for _, run in itertools.groupby(places, key=lambda entry: (entry[1][1], -entry[1][2] - entry[0])):
        yield "".join(item[4] for _, item in run)
