"""Records of many documents at once: a framed tf.train.Example each, and what an index tells of it.

Python does the least it can for a document (its bytes before the ids, three checksums); all else is done for the whole
batch in numpy. What is made here is what ShardWriter writes, and what encode.py sorts and merges without parsing it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from google_crc32c import extend
from google_crc32c import value as crc32c

from runtime.example import FAST_LIMIT, encode_varints, example_head, reduced
from runtime.record import FOOTER, HEADER, MASK_DELTA, header
from runtime.shard_index import MAX_ID

# What is known of a record. size: bytes of it, frame and all. count: tokens. payload: bytes of the ids as varints, the
# last of the data. fingerprint: crc32c of these. largest: the largest id, -1 without any.
ROW = np.dtype([("size", "<u4"), ("count", "<u4"), ("payload", "<u4"), ("fingerprint", "<u4"), ("largest", "<i4")])


class Records(NamedTuple):
    """Consecutive records.

    parts: their bytes, in as many parts as they were made of. rows: ROW [records].
    """

    parts: list[bytes]
    rows: np.ndarray


def encode_records(names: Sequence[bytes], tokens: Sequence[np.ndarray]) -> Records:
    """The documents as records, a part each.

    tokens: the ids of each, integers in 0 .. 2**31 - 1, without end-of-text; others are a ValueError.
    """
    rows = np.zeros(len(names), ROW)
    if not len(names):
        return Records([], rows)
    counts = np.fromiter(map(len, tokens), np.int64, len(tokens))
    ids = np.concatenate(tokens)
    if len(ids) and not 0 <= ids.min() <= ids.max() <= MAX_ID:
        raise ValueError(f"a token id is negative or above {MAX_ID}")
    rows["largest"] = reduced(np.maximum, ids, counts, empty=-1)
    rows["count"] = counts
    payloads = encode_varints(ids, counts)
    parts: list[bytes] = []
    fingerprints, sizes = [], []
    for name, payload in zip(names, payloads, strict=True):
        head = example_head(name, len(payload))
        crc = extend(crc32c(head), payload)
        size = len(head) + len(payload)
        footer = FOOTER.pack(((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF)
        parts.append(b"".join((header(size), head, payload, footer)))
        fingerprints.append(crc32c(payload))
        sizes.append(size)
    rows["fingerprint"] = fingerprints
    rows["size"] = sizes
    rows["size"] += HEADER.size + FOOTER.size
    rows["payload"] = list(map(len, payloads))
    return Records(parts, rows)


def payload_places(rows: np.ndarray) -> np.ndarray:
    """uint32: where the ids begin in the data of each record, 0 where they must be parsed."""
    places = rows["size"] - np.uint32(HEADER.size + FOOTER.size) - rows["payload"]
    places[(rows["largest"] < 0) | (rows["largest"] >= FAST_LIMIT)] = 0
    return places
