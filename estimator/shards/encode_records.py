"""Encodes batches of documents as framed tf.train.Examples, with the entries of their index.

Python does the least it can for a document (its bytes before the ids, three checksums); all else is done for the whole
batch, whose records are one piece of memory. ShardWriter writes these records, and encode.py sorts and merges them
without parsing them.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from google_crc32c import extend
from google_crc32c import value as crc32c

from estimator.shards.framing import FAST_LIMIT, OVERHEAD, footers, header
from estimator.shards.shard import MAX_ID
from estimator.shards.tf_example import encode_varints, example_head, largest

# Properties of a record. size: its bytes, with the frame. count: tokens. payload: bytes of the ids as varints, the
# last of the data. fingerprint: crc32c of these. largest: the largest id, -1 without any.
ROW = np.dtype([("size", "<u4"), ("count", "<u4"), ("payload", "<u4"), ("fingerprint", "<u4"), ("largest", "<i4")])


class Records(NamedTuple):
    """Consecutive records: their bytes, and ROW [records]."""

    data: bytes
    rows: np.ndarray


def encode_records(names: Sequence[bytes], tokens: Sequence[np.ndarray]) -> Records:
    """The documents as records.

    tokens: the ids of each, integers in 0 .. 2**31 - 1, without end-of-text; others are a ValueError.
    """
    rows = np.zeros(len(names), ROW)
    if not len(names):
        return Records(b"", rows)
    rows["count"] = counts = np.fromiter(map(len, tokens), np.int64, len(tokens))
    ids = np.concatenate(tokens)
    if len(ids) and not 0 <= ids.min() <= ids.max() <= MAX_ID:
        raise ValueError(f"a token id is negative or above {MAX_ID}")
    rows["largest"] = largest(ids, counts)
    payloads = encode_varints(ids, counts)
    rows["payload"] = sizes = list(map(len, payloads))
    rows["fingerprint"] = list(map(crc32c, payloads))
    heads = list(map(example_head, names, sizes))
    rows["size"] = list(map(len, heads))
    rows["size"] += rows["payload"]
    headers = map(header, rows["size"].tolist())
    rows["size"] += OVERHEAD
    checksums = list(map(extend, map(crc32c, heads), payloads))
    parts = zip(headers, heads, payloads, footers(checksums), strict=True)
    return Records(b"".join(itertools.chain.from_iterable(parts)), rows)


def gathered(buffers: Sequence[memoryview], owner: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> bytes:
    """The bytes from `starts` to `stops` of these buffers, joined. owner: the buffer of each range."""
    places = zip(owner.tolist(), starts.tolist(), stops.tolist(), strict=True)
    return b"".join([buffers[number][start:stop] for number, start, stop in places])


def payload_places(rows: np.ndarray) -> np.ndarray:
    """uint32: where the ids begin in the data of each record, 0 where they must be parsed."""
    places = rows["size"] - np.uint32(OVERHEAD) - rows["payload"]
    places[(rows["largest"] < 0) | (rows["largest"] >= FAST_LIMIT)] = 0
    return places
