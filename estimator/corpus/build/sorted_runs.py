"""A task's text as a run: its documents as finished records, sorted, and the data needed to select among them.

A run is three files. `N.records`: the records in the order of their keys. `N.columns`: KEYED of each record in that
order, then TEXTS of each in the order of the texts' digests. `N.json`, which is moved there last: counts, also of
omitted documents.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np

from estimator import storage
from estimator.corpus import archive_parts, formats, minhash, normalize
from estimator.corpus.build import marks
from estimator.corpus.build.plan import BuildPlan, Options, Task
from estimator.corpus.documents import Document
from estimator.corpus.parts import Part
from estimator.hashing import key_of, splitmix64
from estimator.shards.encode_records import ROW, encode_records, gathered
from estimator.tokenization import special_text
from estimator.tokenization.tokenizer import Tokenizer
from estimator.tokenization.vocab_files import utf8

# offset: of the record in the file of records. bytes: of the text as UTF-8. position: in the order of the input.
_OWN = [("key", "<u8"), ("offset", "<u8"), ("bytes", "<u4"), ("position", "<u4")]
KEYED = np.dtype([*_OWN, *[(name, ROW[name]) for name in ROW.names or ()]])
# first, second: 128 bits of the text's digest, of which the first are mixed with the seed of the order. place: among
# the records, in the order of their keys.
TEXTS = np.dtype([("first", "<u8"), ("second", "<u8"), ("place", "<u4")])
BATCH_CHARS = 1 << 21  # text encoded at a time: below it, the overhead of a call matters
BATCH_DOCUMENTS = 1 << 13
WRITTEN_DOCUMENTS = 1 << 8  # at a time, for the same reason
BLANK, SHORT = "blank", "shorter than min_tokens"


class SortedRun(NamedTuple):
    """A finished run. skipped: how many documents or files were left out, by reason."""

    folder: Path
    task: int
    documents: int
    skipped: dict[str, int]

    def keyed(self) -> np.ndarray:
        """KEYED [documents], mapped into memory."""
        return self._column(KEYED, 0)

    def texts(self) -> np.ndarray:
        """TEXTS [documents], mapped into memory."""
        return self._column(TEXTS, KEYED.itemsize * self.documents)

    def signatures(self) -> np.ndarray:
        """uint32 [documents, HASHES], in the order of the keys, mapped into memory."""
        shape = (self.documents, minhash.HASHES)
        path = _path(self.folder, self.task, "signatures")
        return np.memmap(path, "<u4", "r", shape=shape) if self.documents else np.empty(shape, np.uint32)

    @property
    def records_path(self) -> Path:
        return _path(self.folder, self.task, "records")

    def _column(self, dtype: np.dtype, offset: int) -> np.ndarray:
        if not self.documents:
            return np.empty(0, dtype)
        return np.memmap(_path(self.folder, self.task, "columns"), dtype, "r", offset, (self.documents,))


def _path(folder: Path, task: int, kind: str) -> Path:
    return folder / f"{task:05d}.{kind}"


def find_run(folder: Path, task: int) -> SortedRun | None:
    """The finished run of a task, if its files are all there and as long as they were."""
    facts = marks.read_mark(_path(folder, task, "json"))
    return SortedRun(folder, task, facts["documents"], facts["skipped"]) if facts else None


def forget_damaged(folder: Path, tasks: int) -> None:
    """Removes the mark of each finished run whose files no longer have their checksums, so that it is made again."""
    for task in range(tasks):
        marks.forget_damaged(_path(folder, task, "json"))


def write_run(
    plan: BuildPlan, task: int, tokenizer: Tokenizer, *, folder: Path, progress: Callable[[int], None] | None = None
) -> None:
    """Reads, cleans and encodes the text of a task. plan: with this task alone. progress: called with bytes read."""
    (work,) = plan.tasks
    options = plan.options
    skipped: Counter[str] = Counter()
    made = _Made(options, task)
    encoder = formats.KINDS[options.kind].encoder(special_text.reading(tokenizer, options.reading.special))
    for batch in _batches(_documents(work, options, skipped, progress)):
        kept = made.add(batch, encoder)
        if kept < len(batch):
            skipped[SHORT] += len(batch) - kept
    keyed, texts, order = made.sorted()
    files = {
        _path(folder, task, "records"): made.records(order),
        _path(folder, task, "columns"): [keyed.tobytes(), texts.tobytes()],
    }
    if options.drop_near_duplicates:
        signatures = np.concatenate([np.empty((0, minhash.HASHES), "<u4"), *made.signatures])
        files[_path(folder, task, "signatures")] = [signatures[order].tobytes()]
    sums = {}
    for path, parts in files.items():
        with storage.new_file(str(path)) as target:
            file = marks.Summed(target)
            for part in parts:
                file.write(part)
        sums[path.name] = file.sum
    facts = {"documents": len(keyed), "skipped": dict(sorted(skipped.items()))}
    marks.write_mark(str(_path(folder, task, "json")), facts, sums)


def _documents(
    task: Task, options: Options, skipped: Counter[str], progress: Callable[[int], None] | None
) -> Iterator[Document]:
    """The documents of a task, cleaned, that are not blank."""
    on_fault = options.fault_handler(skipped)
    clean = normalize.cleaner(fix=options.fix_text, normalize=options.normalize)

    done = 0
    for part in task.parts:
        read = 0

        def show(count: int) -> None:
            nonlocal read
            read = count
            if progress:
                progress(done + read)  # noqa: B023 (called within this turn of the loop)

        documents_of = formats.KINDS[options.kind].documents_of
        for document in documents_of(part, reading=options.reading, on_fault=on_fault, progress=show):
            if clean:
                document = Document(document.name, clean(document.text))
            if document.text and not document.text.isspace():
                yield document
            else:
                skipped[BLANK] += 1
        done += read or _size(part)


def _size(part: Part) -> int:
    path = archive_parts.archive_of(part.path) or part.path
    return storage.size(path) if storage.exists(path) else 0


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    chars = 0
    for document in documents:
        batch.append(document)
        chars += len(document.text)
        if chars >= BATCH_CHARS or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch


class _Made:
    """The records of a task so far, in memory: less than half of its text."""

    def __init__(self, options: Options, task: int):
        self._options = options
        self._task = task
        self._records: list[memoryview] = []  # of each batch
        self._rows: list[np.ndarray] = []
        self._bytes: list[int] = []
        self._digests: list[bytes] = []
        self.signatures: list[np.ndarray] = []

    def add(self, batch: list[Document], encoder: formats.Encoder) -> int:
        """Encodes documents; the number of those that are long enough."""
        texts = [utf8(document.text) for document in batch]
        tokens = encoder.encode_utf8(texts)
        if min(map(len, tokens)) < self._options.min_tokens:
            kept = [i for i, ids in enumerate(tokens) if len(ids) >= self._options.min_tokens]
            batch, texts, tokens = [batch[i] for i in kept], [texts[i] for i in kept], [tokens[i] for i in kept]
        records = encode_records([name.encode(errors="replace") for name, _ in batch], tokens)
        self._records.append(memoryview(records.data))
        self._rows.append(records.rows)
        self._bytes += map(len, texts)
        self._digests += [sha256(text).digest()[:16] for text in texts]
        if self._options.drop_near_duplicates:
            self.signatures.append(minhash.signatures(text for _, text in batch))
        return len(batch)

    def sorted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """KEYED in the order of the keys, TEXTS in that of the digests, and the number of the document at each key."""
        rows = np.concatenate([np.empty(0, ROW), *self._rows])
        digests = np.frombuffer(b"".join(self._digests), "<u8").reshape(-1, 2)
        first = splitmix64(digests[:, 0] ^ np.uint64(key_of(self._options.seed)))
        by_text = np.argsort(first, kind="stable")
        if self._options.shuffle:
            order, keys = by_text, first
        else:
            order = np.arange(len(rows))
            keys = (np.uint64(self._task) << np.uint64(32)) + order.astype(np.uint64)
        keyed = np.empty(len(rows), KEYED)
        keyed["key"] = keys[order]
        keyed["position"] = order
        keyed["bytes"] = np.array(self._bytes, np.uint32)[order]
        for name in ROW.names or ():
            keyed[name] = rows[name][order]
        keyed["offset"] = np.cumsum(keyed["size"], dtype=np.uint64) - keyed["size"]
        texts = np.empty(len(rows), TEXTS)
        place = np.empty(len(rows), np.uint32)
        place[order] = np.arange(len(rows), dtype=np.uint32)
        texts["first"], texts["second"], texts["place"] = first[by_text], digests[by_text, 1], place[by_text]
        return keyed, texts, order

    def records(self, order: np.ndarray) -> Iterator[bytes]:
        """The records in this order, some at a time."""
        batch = np.repeat(np.arange(len(self._rows)), list(map(len, self._rows)))[order]
        stops = [rows["size"].cumsum(dtype=np.int64) for rows in self._rows]
        stop = np.concatenate([np.empty(0, np.int64), *stops])[order]
        start = stop - np.concatenate([np.empty(0, ROW), *self._rows])["size"][order]
        for at in range(0, len(order), WRITTEN_DOCUMENTS):
            some = slice(at, at + WRITTEN_DOCUMENTS)
            yield gathered(self._records, batch[some], start[some], stop[some])
