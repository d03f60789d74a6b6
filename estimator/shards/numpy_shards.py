"""Shards of other programs: flat `.npy` arrays of token ids, and `.npz` chunks of them, read in place and written.

In both, end-of-text follows each document. An array becomes documents through an index made once (`shard.Index`), so
that they behave as TFRecord shards do; an `.npz` is unpacked into one flat array first. A document
of more than LONG ids is several, so that a file without a single end-of-text can be divided too.
"""

import contextlib
import os
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from google_crc32c import extend

from estimator import storage
from estimator.errors import UserError
from estimator.shards import npy_files, token_bins
from estimator.shards.build_index import Builder, ends_checksum, keep, load_index, progress, save
from estimator.shards.framing import read_at
from estimator.shards.npy_files import HEADER_BYTES, IDS, Ends
from estimator.shards.shard import MAX_ID, Buffer, Index, RecordSpan, Shard
from estimator.shards.tf_example import encode_varints

SUFFIXES = (".npy", ".npz", token_bins.SUFFIX)
LONG = 1 << 15


class ArrayShard(Shard):
    """The documents of a flat array by number, never in memory as a whole."""

    def __init__(self, path: Path, descriptor: int, index: Index, *, dtype: np.dtype):
        super().__init__(path, descriptor, index)
        self._dtype = dtype

    def span(self, document: int, start: int = 0, stop: int | None = None) -> RecordSpan:
        count = int(self.token_counts[document])
        stop = count if stop is None else min(stop, count)
        if start >= stop:
            return RecordSpan(np.zeros(0, np.int32), 0, 0)
        width = self._dtype.itemsize
        data = read_at(self._descriptor, width * (stop - start), self._index.row(document)[0] + width * start)
        if len(data) < width * (stop - start):
            raise UserError(f"{self.path} has become shorter while it was read; copy or make it again")
        return RecordSpan(np.frombuffer(data, self._dtype).astype(np.int32), 0, stop - start)

    def record(self, document: int) -> tuple[bytes, np.ndarray]:
        """An empty name, because arrays hold none, and the ids (int32) of a document."""
        return b"", self.tokens(document)


def open_array(path: str | Path, ends: Ends, *, cache: Path | None = None) -> ArrayShard:
    """Opens a flat `.npy`, or an `.npz` of one-dimensional arrays, of any type of integers.

    cache: a folder for the unpacked copy, and for the index where it cannot be next to the file.
    Raises UserError when the file is damaged or no array of token ids.
    """
    path = Path(path)
    unpacked, digest = npy_files.unpacked(path, ends, cache) if path.suffix == ".npz" else (path, None)
    descriptor = os.open(unpacked, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        if path.suffix == token_bins.SUFFIX:
            at = token_bins.layout(path, size=size)
        else:
            at = token_bins.Layout(*npy_files.layout(unpacked, size=size)[:2])
        index = _index_of(unpacked, descriptor, ends.end_of_text, at, digest=digest, cache=cache, named=path)
    except BaseException:
        os.close(descriptor)
        raise
    return ArrayShard(path, descriptor, index, dtype=at.dtype)


# Documents of an array.


class _Documents:
    """Puts the documents of a run of ids into an index, however the run is divided into parts.

    first: place of the first id in the file; width: bytes of each. name: of the array, for errors.
    """

    def __init__(self, end_of_text: int, *, first: int, width: int, name: str):
        self._builder = Builder()
        self._end_of_text = end_of_text
        self._first, self._width, self._name = first, width, name
        self._ids = 0  # so far
        self._start = self._count = self._crc = 0  # of the document that is open

    def add(self, ids: np.ndarray) -> None:
        """The next ids."""
        smallest, largest = int(ids.min(initial=0)), int(ids.max(initial=0))
        if smallest < 0 or largest > MAX_ID:
            wrong = smallest if smallest < 0 else largest
            raise UserError(f"{self._name} has the token id {wrong}, which is negative or above {MAX_ID}")
        is_end = ids == self._end_of_text
        values = ids[~is_end].astype(np.uint32)
        self._builder.max_id = max(self._builder.max_id, int(values.max(initial=0)) if len(values) else -1)
        parts = self._parts(is_end.nonzero()[0].tolist(), len(ids))
        payloads = encode_varints(values, [stop - start for start, stop, _ in parts])
        for (start, stop, is_last), payload in zip(parts, payloads, strict=True):
            if not self._count:
                self._start = self._ids + start
            self._count += stop - start
            self._crc = extend(self._crc, payload)
            if is_last:
                self._close()
        self._ids += len(ids)

    def add_divided(self, ids: np.ndarray, starts: np.ndarray | None) -> None:
        """The next ids. starts: numbers of the ids, of all the file, that begin a document whatever is before them."""
        if starts is not None:
            low, high = np.searchsorted(starts, [self._ids, self._ids + len(ids)])
            begun = self._ids
            for start in starts[low:high].tolist():
                self.add(ids[self._ids - begun : start - begun])
                if self._count:
                    self._close()
            ids = ids[self._ids - begun :]
        self.add(ids)

    def _parts(self, ends: list[int], size: int) -> list[tuple[int, int, bool]]:
        """(start, stop, whether it ends a document) of the parts of documents among the next `size` ids."""
        parts, start, count = [], 0, self._count
        for number, end in enumerate([*ends, size]):
            while start < end or (count and number < len(ends)):
                stop = min(end, start + LONG - count)
                count += stop - start
                is_last = count == LONG or (stop == end and number < len(ends))
                parts.append((start, stop, is_last))
                start, count = stop, 0 if is_last else count
                if stop == end:
                    break
            start = end + 1
        return parts

    def _close(self) -> None:
        place = self._first + self._width * self._start
        self._builder.add_at(place, count=self._count, fingerprint=self._crc)
        self._count = self._crc = 0

    def finish(self, *, size: int, ends: int, tokenizer: str | None) -> list[Buffer]:
        """The index file, in parts. size, ends: of the array's file."""
        if self._count:
            self._close()
        self._builder.size = size
        return self._builder.finish(ends=ends, tokenizer=tokenizer)


def index_path(path: Path, end_of_text: int) -> Path:
    """The sidecar of an array, by the id that its documents end with."""
    return path.with_name(f"{path.name}.{end_of_text}.index")


def _index_of(
    path: Path,
    descriptor: int,
    end_of_text: int,
    at: token_bins.Layout,
    *,
    digest: str | None,
    cache: Path | None,
    named: Path,
) -> Index:
    size = os.fstat(descriptor).st_size
    ends = ends_checksum(descriptor, size)
    places = [index_path(path, end_of_text)]
    if cache:
        places.append(cache / f"{path.name}.{size:x}-{ends:08x}.{end_of_text}.index")
    for place in places:
        index = load_index(place)
        if index and (index.size, index.ends) == (size, ends):
            return index
    documents = _Documents(end_of_text, first=at.first, width=at.dtype.itemsize, name=str(named))
    with progress(named, size) as bar:
        width = at.dtype.itemsize
        for offset in range(at.first, size, IDS * width):
            data = read_at(descriptor, min(IDS * width, size - offset), offset)
            ids = np.frombuffer(data, at.dtype)
            documents.add_divided(ids, at.starts)
            bar.update(len(data))
    return keep(documents.finish(size=size, ends=ends, tokenizer=digest), places)


# Writers.


def type_for(n_vocab: int) -> np.dtype:
    """The smallest of the two types that hold the ids of a vocabulary."""
    return np.dtype("<u2" if n_vocab <= 1 << 16 else "<u4")


class _Writer:
    """A file that appears under its name when the `with` block ends, or not at all.

    end_of_text: the id that is written after each document. tokenizer: the digest of the vocabulary.
    """

    together: int  # ids that are gathered before they are written, which is faster

    def __init__(self, path: str | Path, *, end_of_text: int, n_vocab: int, tokenizer: str | None = None):
        self.path = Path(path)
        self._tokenizer = tokenizer
        self._end_of_text = end_of_text
        self._dtype = type_for(max(n_vocab, end_of_text + 1))
        self._limit = min(1 << 8 * self._dtype.itemsize, MAX_ID + 1)
        self._waiting: list[np.ndarray] = []
        self._waiting_ids = 0
        self._stack = contextlib.ExitStack()
        # One name, so that a writer that is killed leaves one file.
        temporary = self._stack.enter_context(storage.replacing(self.path, temporary=f"{self.path}.tmp"))
        self._file = self._stack.enter_context(open(temporary, "wb", buffering=1 << 20))  # noqa: SIM115

    def write(self, name: bytes, tokens: np.ndarray) -> None:
        """Appends a document, without end-of-text, which is added. Arrays hold no names."""
        tokens = np.asarray(tokens)
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < self._limit:
            raise ValueError(f"a token id is negative, or does not fit into {self._dtype}")
        self._waiting.append(np.concatenate([tokens, [self._end_of_text]]).astype(self._dtype))
        self._waiting_ids += len(self._waiting[-1])
        if self._waiting_ids >= self.together:
            self._write_waiting()

    def _write_waiting(self) -> None:
        waiting, self._waiting, self._waiting_ids = self._waiting, [], 0
        self._add(np.concatenate(waiting) if waiting else np.zeros(0, self._dtype))

    def _add(self, ids: np.ndarray) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        raise NotImplementedError

    def _finished(self) -> None:
        """When the file is in its place."""

    def _abandon(self) -> None:
        """When it will not be."""

    def __enter__(self):
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._abandon()
            self._stack.__exit__(kind, error, traceback)
            return
        with self._stack:
            self._finish()
        self._finished()


class NpyWriter(_Writer):
    """Writes a flat array of uint16, or uint32 for vocabularies of more than 65,536 entries, and its index."""

    together = IDS

    def __init__(self, path: str | Path, **options: Any):
        super().__init__(path, **options)
        self._count = 0
        width = self._dtype.itemsize
        self._documents = _Documents(self._end_of_text, first=HEADER_BYTES, width=width, name=str(self.path))
        self._file.write(bytes(HEADER_BYTES))

    def _add(self, ids: np.ndarray) -> None:
        self._file.write(ids.tobytes())
        self._documents.add(ids)
        self._count += len(ids)

    def _finish(self) -> None:
        if self._waiting:
            self._write_waiting()
        self._file.seek(0)
        self._file.write(npy_files.header(self._dtype, self._count))

    def _finished(self) -> None:
        size = self.path.stat().st_size
        with open(self.path, "rb") as file:
            ends = ends_checksum(file.fileno(), size)
        parts = self._documents.finish(size=size, ends=ends, tokenizer=self._tokenizer)
        save(index_path(self.path, self._end_of_text), parts)


class NpzWriter(_Writer):
    """Writes compressed arrays arr_0, arr_1, ... of some documents each, end-of-text after every one, as
    `numpy.savez_compressed` does. The digest of the vocabulary is in the comment of the archive."""

    together = 1 << 16  # some windows

    def __init__(self, path: str | Path, **options: Any):
        super().__init__(path, **options)
        self._packed = zipfile.ZipFile(self._file, "w", zipfile.ZIP_DEFLATED, compresslevel=6)
        self._packed.comment = npy_files.comment(self._tokenizer)
        self._arrays = 0

    def _add(self, ids: np.ndarray) -> None:
        # Without the time, so that equal documents make equal files.
        member = zipfile.ZipInfo(f"arr_{self._arrays}.npy", (1980, 1, 1, 0, 0, 0))
        member.external_attr = 0o600 << 16
        with self._packed.open(member, "w") as file:
            file.write(npy_files.header(self._dtype, len(ids)))
            file.write(ids.tobytes())
        self._arrays += 1

    def _finish(self) -> None:
        if self._waiting or not self._arrays:
            self._write_waiting()
        self._packed.close()

    def _abandon(self) -> None:
        with contextlib.suppress(OSError):
            self._packed.close()
