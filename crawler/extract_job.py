"""From archives of pages to JSON lines of documents, in steps that may be killed anywhere and are then taken up again.

1. read(i): the pages of unit i are extracted and judged alone; those that pass go into a part, with their signatures.
2. choose(): the signatures of all parts tell which documents were there before.
3. finish(i): the documents of part i that stay become NAME.jsonl.gz.
4. report(): what became of every page, and the parts are removed.

Each file appears whole or not at all and depends on nothing but the inputs and the settings. Each step leaves a mark
with the checksums of its files: a command that continues does a step again whose files on this machine have changed.
"""

import collections
import contextlib
import functools
import glob
import gzip
import hashlib
import io
import itertools
import json
import multiprocessing.util
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crawler import extraction
from crawler.extract_files import RESTORE, load, packed, values_of
from crawler.extraction import Extracted, PageSource
from crawler.isolation import LIMITS, Failure, Isolated, Limits
from crawler.pages import Damage, Page, Progress, Unit, pages
from estimator import format_version, storage
from estimator.corpus import language_id, minhash, quality_filters
from estimator.corpus.build import marks
from estimator.corpus.build.executors import Bar, Counters, Executor, run_tasks, submit
from estimator.errors import UserError
from estimator.storage import locks

PARTS = ".parts"
REPORT = "report.json"
DIGEST_COLUMNS = 4
STAYS, EXACT, NEAR = range(3)


class ExtractSettings(NamedTuple):
    """What decides about the documents.

    extractor: a key of extraction.EXTRACTORS. languages: codes of which a document must be one; () takes all.
    language_share: and of which at least this share of it must be. rules: names of filters.RULES.
    near_duplicates: the similarity from which a document counts as one, or None. limits: of the extraction of a page.
    """

    extractor: str = "best"
    languages: tuple[str, ...] = ()
    language_share: float = 0.65
    rules: tuple[str, ...] = tuple(quality_filters.RULES)
    near_duplicates: float | None = None
    limits: Limits = LIMITS

    def check(self) -> None:
        """UserError for values that make no sense."""
        if not 0 <= self.language_share <= 1:
            raise UserError("--language_share is a share of the text, from 0 to 1")
        if self.near_duplicates is not None:
            minhash.check(self.near_duplicates)
        if not 0 < self.limits.seconds < 1e6 or self.limits.megabytes < 1:
            raise UserError("--page_seconds and --page_megabytes must be above 0, and no page takes a week")


class Extract(NamedTuple):
    """The function that the isolated processes call."""

    extractor: str

    def __call__(self, source: PageSource) -> Extracted:
        return extraction.extract(source, extractor=self.extractor)


class ExtractJob(NamedTuple):
    """The work on some units. out: folder of the results. processes: that extract the pages of one unit."""

    units: Sequence[Unit]
    settings: ExtractSettings
    out: str
    processes: int = 1

    def begin(self, *, overwrite: bool = False) -> bool:
        """Makes ready for the steps; False where all is done already.

        Raises UserError where the folder holds the work of other inputs or settings, unless it is to be overwritten,
        and where another process is at work in it.
        """
        lock = self._part("lock")
        if not storage.is_remote(self.out) and os.path.isfile(lock) and locks.is_held(lock):
            raise locks.Busy(self.busy + locks.holder(lock))
        plan = {"settings": json.loads(json.dumps(self.settings._asdict())), "inputs": self._inputs()}
        for path in (self._path(REPORT), self._part("plan.json")):
            if storage.exists(path) and not overwrite and values_of(path)["plan"] != plan:
                raise UserError(
                    f"{path} is of other inputs or settings; choose another folder, or replace it with --overwrite"
                )
        if overwrite:
            storage.remove(storage.join(self.out, PARTS))
            storage.remove(self._path(REPORT))
            for unit in self.units:
                storage.remove(self._result(unit))
        elif storage.exists(self._path(REPORT)):
            self._check_results()
            self._clear()
            return False
        if not storage.is_remote(self.out):  # a bucket keeps checksums itself
            os.makedirs(self._part(""), exist_ok=True)
            self._forget_damaged()
        storage.write_json_atomic(self._part("plan.json"), format_version.stamped({"plan": plan}))
        return True

    @property
    def busy(self) -> str:
        return f"{self.out}: another process is at work in this folder; wait for it, or choose another --out"

    def _forget_damaged(self) -> None:
        """Removes the marks that do not fit their files, and those of steps that come after one that is done again."""
        for mark in storage.glob(glob.escape(self._part("")) + "*.mark"):
            marks.forget_damaged(Path(mark))
        if not all(map(self.is_read, range(len(self.units)))):
            storage.remove(self._part("chosen.mark"))
        if not self.is_chosen():
            for number in range(len(self.units)):
                storage.remove(self._part(f"{number:05d}.written.mark"))

    def bytes_of(self, number: int) -> int:
        """Of the files of a unit."""
        return self.units[number].bytes

    def is_read(self, number: int) -> bool:
        return storage.exists(self._part(f"{number:05d}.read.mark"))

    def read(self, number: int, *, progress: Progress | None = None) -> None:
        """Step 1 of one unit."""
        counts: collections.Counter[str] = collections.Counter()
        damaged: list[dict[str, str]] = []
        rows: list[np.ndarray] = []
        with packed(self._part(f"{number:05d}.jsonl.gz")) as (file, documents):
            for fate, document in self._documents(self.units[number], damaged, progress):
                counts["pages"] += 1
                if document is None:
                    counts[fate] += 1
                    continue
                file.write(json.dumps(document, ensure_ascii=False).encode("utf-8") + b"\n")
                rows.append(self._row(document["text"]))
        width = DIGEST_COLUMNS + (0 if self.settings.near_duplicates is None else minhash.HASHES)
        array = np.stack(rows) if rows else np.empty((0, width), np.uint32)
        sums = {f"{number:05d}.jsonl.gz": documents.sum, f"{number:05d}.npy": self._save(f"{number:05d}.npy", array)}
        facts = {"counts": dict(sorted(counts.items())), "damaged": damaged}
        marks.write_mark(self._part(f"{number:05d}.read.mark"), facts, sums)

    def _documents(
        self, unit: Unit, damaged: list[dict[str, str]], progress: Progress | None
    ) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """For each page the reason why it is left out, or its document."""
        waiting: collections.deque[Page] = collections.deque()
        problems: collections.deque[str] = collections.deque()

        def sources() -> Iterator[PageSource]:
            try:
                for page in pages(unit, progress=progress):
                    if page.problem:
                        problems.append(page.problem)
                    else:
                        waiting.append(page)
                        yield PageSource(page.body, page.content_type, page.url, page.kind)
            except Damage as damage:
                damaged.append({"file": unit.paths[0], "cause": str(damage)})

        extract = Extract(self.settings.extractor)
        with Isolated(
            extract, limits=self.settings.limits, processes=self.processes, preload=extraction.MODULES
        ) as isolated:
            for result in isolated.map(sources()):
                yield self._judged(waiting.popleft(), result)
        for problem in problems:
            yield problem, None

    def _judged(self, page: Page, result: Extracted | Failure) -> tuple[str, dict[str, Any] | None]:
        if isinstance(result, Failure):
            return result.reason, None
        if not result.text:
            return "empty", None
        language = language_id.language_of(result.text)
        wanted = self.settings.languages
        if wanted and (language.code not in wanted or language.share < self.settings.language_share):
            return "language", None
        if broken := quality_filters.reason(result.text, language=language.code, rules=self.settings.rules):
            return broken, None
        facts = {"id": page.id, "url": page.url, "title": result.title, "author": result.author, "date": result.date}
        facts |= {"fetched": page.date, "language": language.code, "language_share": language.share}
        return "", {**facts, "charset": result.charset, "text": result.text}

    def _row(self, text: str) -> np.ndarray:
        digest = np.frombuffer(hashlib.blake2b(text.encode(), digest_size=4 * DIGEST_COLUMNS).digest(), "<u4")
        if self.settings.near_duplicates is None:
            return digest
        return np.concatenate([digest, minhash.signatures([text])[0]])

    def is_chosen(self) -> bool:
        return storage.exists(self._part("chosen.mark"))

    def choose(self) -> None:
        """Step 2: STAYS, EXACT or NEAR for every document of all parts."""
        parts = [load(self._part(f"{number:05d}.npy")) for number in range(len(self.units))]
        digests = np.concatenate([part[:, :DIGEST_COLUMNS] for part in parts])
        _, firsts, names = np.unique(digests, axis=0, return_index=True, return_inverse=True)
        chosen = np.where(firsts[names.ravel()] == np.arange(len(digests)), STAYS, EXACT).astype(np.uint8)
        if self.settings.near_duplicates is not None:
            signatures = [part[:, DIGEST_COLUMNS:] for part in parts]
            alike = minhash.duplicates(signatures, threshold=self.settings.near_duplicates)
            chosen[alike & (chosen == STAYS)] = NEAR
        starts = np.cumsum([0, *map(len, parts)]).tolist()
        facts = {"starts": starts}  # of each part's documents among all
        marks.write_mark(self._part("chosen.mark"), facts, {"chosen.npy": self._save("chosen.npy", chosen)})

    def is_finished(self, number: int) -> bool:
        return storage.exists(self._part(f"{number:05d}.written.mark"))

    def finish(self, number: int) -> None:
        """Step 3 of one unit."""
        fates = self._fates()[number]
        with (
            storage.open(self._part(f"{number:05d}.jsonl.gz")) as documents_read,
            gzip.open(documents_read) as part,
            packed(self._result(self.units[number])) as (file, documents),
        ):
            for fate, line in zip(fates, part, strict=True):
                if fate == STAYS:
                    file.write(line)
        name = f"../{self.units[number].name}.jsonl.gz"
        marks.write_mark(self._part(f"{number:05d}.written.mark"), {}, {name: documents.sum})

    def _fates(self) -> list[np.ndarray]:
        """What `choose` decided, for the documents of each part."""
        chosen = load(self._part("chosen.npy"))
        starts = json.loads(storage.read_bytes(self._part("chosen.mark")))["starts"]
        return [chosen[start:stop] for start, stop in itertools.pairwise(starts)]

    def report(self) -> dict[str, Any]:
        """Step 4: the counts of all units, which are also in the folder as report.json."""
        total: collections.Counter[str] = collections.Counter()
        files, sums, damaged = {}, {}, []
        for number, (unit, fates) in enumerate(zip(self.units, self._fates(), strict=True)):
            part = json.loads(storage.read_bytes(self._part(f"{number:05d}.read.mark")))
            added = {"exact_duplicate": int((fates == EXACT).sum()), "near_duplicate": int((fates == NEAR).sum())}
            counts = part["counts"] | {name: count for name, count in added.items() if count}
            counts["documents"] = int((fates == STAYS).sum())
            assert 2 * counts.get("pages", 0) == sum(counts.values()), (unit.name, counts)
            files[f"{unit.name}.jsonl.gz"] = counts
            damaged += part["damaged"]
            written = json.loads(storage.read_bytes(self._part(f"{number:05d}.written.mark")))
            sums |= {os.path.basename(name): summed for name, summed in written["files"].items()}
            total.update(counts)
        result = {"total": dict(sorted(total.items())), "damaged": damaged, "files": files, "sums": sums}
        result["plan"] = values_of(self._part("plan.json"))["plan"]
        storage.write_json_atomic(self._path(REPORT), format_version.stamped(result))
        self._clear()
        return result

    def _check_results(self) -> None:
        """Raises UserError where a file of documents is not as it was written."""
        for name, written in marks.sums_of(values_of(self._path(REPORT)).get("sums", {})).items():
            if not marks.has_sum(self._path(name), written):
                raise UserError(f"{self._path(name)} is missing or has changed since it was extracted; {RESTORE}")

    def _clear(self) -> None:
        """Removes intermediate files: the parts, and unfinished files of killed processes."""
        storage.remove(storage.join(self.out, PARTS))
        for target in [] if storage.is_remote(self.out) else [self._path(REPORT), *map(self._result, self.units)]:
            for path in storage.glob(glob.escape(target) + ".*.tmp"):
                storage.remove(path)

    def _inputs(self) -> list[list[Any]]:
        """What the result depends on: the files of each unit and their sizes."""
        found = []
        for unit in self.units:
            facts = hashlib.sha256(json.dumps(unit.paths).encode()).hexdigest()
            found.append([unit.name, unit.kind, unit.bytes, facts])
        return found

    def _save(self, name: str, array: np.ndarray) -> marks.Sum:
        data = io.BytesIO()
        np.save(data, array)
        storage.write_bytes_atomic(self._part(name), data.getvalue())
        return marks.Sum().extended(data.getvalue())

    def _path(self, name: str) -> str:
        return storage.join(self.out, name)

    def _part(self, name: str) -> str:
        return storage.join(self.out, PARTS, name)

    def _result(self, unit: Unit) -> str:
        return self._path(f"{unit.name}.jsonl.gz")


# Who does the steps.


def run(harvest: ExtractJob, executor: Executor, *, quiet: bool = False) -> dict[str, Any] | None:
    """All steps; the report, or None where Slurm jobs were submitted that make it."""
    tasks = len(harvest.units)
    multiprocessing.util.get_temp_dir()  # of this process, which removes it; workers that are ended would leave theirs
    with _notes(harvest, executor) as folder:
        counters = Counters(folder / "progress", tasks)
        counters.create()
        for number in filter(harvest.is_read, range(tasks)):
            counters.set(number, harvest.bytes_of(number))
        submitted = run_tasks(
            functools.partial(_read, harvest, counters),
            tasks=tasks,
            executor=executor,
            folder=folder,
            is_done=harvest.is_read,
            progress=None if quiet else Bar("extracting", sum(map(harvest.bytes_of, range(tasks))), counters.total),
            name="extract",
        )
        if executor.kind == "slurm":
            steps = (("choose", _choose, 1), ("write", _finish, tasks), ("report", _report, 1))
            bound = [(name, functools.partial(step, harvest), count) for name, step, count in steps]
            submit(bound, executor=executor, folder=folder, after=submitted)
            return None
        _choose(harvest, 0)
        run_tasks(
            functools.partial(_finish, harvest),
            tasks=tasks,
            executor=executor,
            folder=folder,
            is_done=harvest.is_finished,
            name="write",
        )
    return harvest.report()


def _read(harvest: ExtractJob, counters: Counters, number: int) -> None:
    harvest.read(number, progress=lambda count: counters.set(number, min(count, harvest.bytes_of(number))))
    counters.set(number, harvest.bytes_of(number))


def _choose(harvest: ExtractJob, _: int) -> None:
    if not harvest.is_chosen():
        harvest.choose()


def _finish(harvest: ExtractJob, number: int) -> None:
    if not harvest.is_finished(number):
        harvest.finish(number)


def _report(harvest: ExtractJob, _: int) -> None:
    harvest.report()


@contextlib.contextmanager
def _notes(harvest: ExtractJob, executor: Executor) -> Iterator[Path]:
    """A folder on this machine for what executors note; with Slurm one that all machines see."""
    if not storage.is_remote(harvest.out):
        with locks.exclusive(Path(harvest.out, PARTS, "lock"), harvest.busy):
            folder = Path(harvest.out, PARTS, "executor")
            folder.mkdir(exist_ok=True)
            yield folder
    elif executor.kind == "slurm":
        raise UserError("--executor slurm needs a folder that all machines see: give --out a path, not a bucket")
    else:
        with tempfile.TemporaryDirectory(prefix="extract-") as name:
            yield Path(name)
