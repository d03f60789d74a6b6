"""Text to shards at any scale: a plan, a run for each of its tasks, a choice, the shards, and the move to their places.

Each step keeps what it makes in a hidden folder beside the shards, under its name only when it is complete: killed at
any instant and started again, the same command goes on where it was, and the shards are the same bytes whoever worked.
"""

import contextlib
import fcntl
import functools
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from runtime import shards as naming
from runtime.errors import UserError
from runtime.executors import Bar, Counters, Executor, run_tasks
from text import corpus, encoding_shards, tokenizers
from text.encoding_choice import Choice, choose, find_choice
from text.encoding_plan import SPLITS, Corpus, Options, Plan, plan, read_plan
from text.encoding_runs import Run, find_run, write_run
from text.encoding_shards import Place

# Shards of fewer tokens are written by one process: sooner than several have begun.
POOL_TOKENS = 200_000_000


class Summary(NamedTuple):
    """What became of a corpus in a split. shards: the files, in order. skipped: how many of what, by reason."""

    name: str
    split: str
    shards: Sequence[Path | str]
    documents: int
    tokens: int
    bytes: int
    skipped: dict[str, int]
    weight: float = 1.0


class _Nothing(UserError):
    """No document is left."""


class Job(NamedTuple):
    """A plan that is being carried out; all that workers need to know, which find the rest in the folder.

    out: folder of the shards. work: of what is made on the way.
    """

    out: Path
    work: Path

    @property
    def runs(self) -> Path:
        return self.work / "runs"


def encode(
    corpora: Sequence[Corpus],
    options: Options,
    *,
    encoder: str,
    out: Path,
    executor: Executor,
    overwrite: bool = False,
    quiet: bool = False,
) -> list[Summary] | None:
    """Makes the shards of some corpora in the folder `out`; what became of them, or None where Slurm is at work.

    encoder: the folder of the vocabulary. overwrite: replace shards of these names that other text or options made.
    quiet: without a bar.
    """
    tokenizer = _vocabulary(encoder)
    if options.format != "tfrecord" and tokenizer.end_of_text is None:
        raise UserError(
            f"{encoder}: the vocabulary has no end-of-text, by which documents are told apart in arrays; choose "
            "another, or --format tfrecord"
        )
    made = plan(corpora, options, encoder=encoder, tokenizer=tokenizer.digest)
    places = _places(made, out)
    work = places[-1].partial / "work"
    with _alone(places[-1]):
        if encoding_shards.finish_move(made, work) or _is_complete(made, places):
            _clear(places)
            return _summaries(made, places)
        _refuse_others(made, places, overwrite=overwrite)
        kept = read_plan(work)
        if kept is None or kept.fingerprint != made.fingerprint:
            _clear(places)
        (work / "runs").mkdir(parents=True, exist_ok=True)
        for place in _places(made, out, used=True):
            place.partial.mkdir(parents=True, exist_ok=True)
        made.write(work)
        try:
            if not _carry_out(made, Job(out, work), executor, quiet=quiet):
                return None
        except (UserError, OSError) as error:
            if any((work / "runs").glob("*.json")) and not isinstance(error, _Nothing):
                print(f"what is done is kept in {work}; the same command goes on from there", file=sys.stderr)
            else:
                _clear(places)
            raise
        return _summaries(made, places)


def _carry_out(made: Plan, job: Job, executor: Executor, *, quiet: bool) -> bool:
    """The steps, in turn. False where they were submitted."""
    counters = Counters(job.work / "progress", len(made.tasks))
    if not counters.path.exists() or counters.path.stat().st_size != 8 * len(made.tasks):
        counters.create()
    tasks = len(made.tasks)
    bar = None if quiet else Bar("encoding", sum(made.bytes), counters.total)
    # Of Slurm's jobs the last removes the work folder, but not what it notes itself.
    folder = job.out / f".{made.corpora[0].name}.slurm" if executor.kind == "slurm" else job.work / "executor"
    _vocabulary(made.encoder).encode_batch([""])  # what is made on the first call is there for all workers
    submitted = run_tasks(
        functools.partial(encode_task, job),
        tasks=tasks,
        executor=executor,
        folder=folder,
        is_done=lambda i: find_run(job.runs, i) is not None,
        progress=bar,
        name="encode",
    )
    if executor.kind == "slurm":
        count = executor.workers or min(tasks, 64)
        steps = [
            ("choose", functools.partial(choose_task, job), 1),
            ("shards", functools.partial(shards_task, job, count), count),
            ("move", functools.partial(move_task, job), 1),
        ]
        for name, step, number in steps:
            submitted = run_tasks(
                step,
                tasks=number,
                executor=executor,
                folder=folder,
                is_done=lambda _: False,
                name=name,
                after=submitted,
            )
        return False
    choose_task(job, 0)
    shards = _shards(made, job)
    count = len(shards)
    if sum(output.tokens for output in _chosen(job).outputs) < POOL_TOKENS:
        executor = Executor(workers=1)
    run_tasks(
        functools.partial(shards_task, job, count),
        tasks=count,
        executor=executor,
        folder=folder,
        is_done=lambda i: shards[i][2].exists(),
        progress=None
        if quiet
        else Bar("writing", count, lambda: sum(path.exists() for _, _, path in shards), " shards"),
        name="shards",
    )
    move_task(job, 0)
    return True


# The steps, each of which finds all it needs in the folder.


def encode_task(job: Job, task: int) -> None:
    """Makes the run of a task."""
    made = _plan(job, task=task)
    counters = Counters(job.work / "progress", len(made.bytes))
    write_run(
        made,
        task,
        _vocabulary(made.encoder, digest=made.tokenizer),
        folder=job.runs,
        progress=lambda count: counters.set(task, min(count, made.bytes[task])),
    )
    counters.set(task, made.bytes[task])


def choose_task(job: Job, _: int) -> None:
    """Makes the choice, unless it is there."""
    if find_choice(job.work) is None:
        made = _plan(job)
        runs = _runs(made, job)
        choice = choose(made, runs, folder=job.work)
        if not any(output.documents for output in choice.outputs):
            raise _nothing(made, runs)


def shards_task(job: Job, count: int, task: int) -> None:
    """Writes every count-th shard, beginning with one, unless it is there."""
    made = _plan(job)
    choice = _chosen(job)
    runs = None
    for output, number, path in _shards(made, job)[task::count]:
        if not path.exists():
            runs = runs or _runs(made, job)
            tokenizer = _vocabulary(made.encoder, digest=made.tokenizer)
            encoding_shards.write_shard(
                made, choice, runs, choice.outputs[output], number, path=path, tokenizer=tokenizer
            )


def move_task(job: Job, _: int) -> None:
    """Moves the shards to their places, the lists of them last."""
    made = _plan(job)
    places = _places(made, job.out)
    if not encoding_shards.finish_move(made, job.work):
        encoding_shards.begin_move(made, job.work, places, _manifests(made, job, places))
        encoding_shards.finish_move(made, job.work)
    _clear(places)


def _plan(job: Job, *, task: int | None = None) -> Plan:
    made = read_plan(job.work, task=task)
    if made is None:
        raise UserError(f"{job.work} has gone while the work was done; run encode.py again")
    return made


def _chosen(job: Job) -> Choice:
    choice = find_choice(job.work)
    if choice is None:
        raise UserError(f"{job.work}: the choice of documents is missing; run encode.py again")
    return choice


def _runs(made: Plan, job: Job) -> list[Run]:
    runs = [find_run(job.runs, task) for task in range(len(made.tasks))]
    missing = [task for task, run in enumerate(runs) if run is None]
    if missing:
        raise UserError(f"{job.runs}: the run of task {missing[0]} is missing; run encode.py again")
    return [run for run in runs if run is not None]


def _vocabulary(encoder: str, *, digest: str | None = None) -> tokenizers.Tokenizer:
    """The vocabulary in a folder, read once in a process; UserError where it is not the one of a digest."""
    with contextlib.suppress(OSError):
        stamps = [(entry.name, entry.stat().st_mtime_ns) for entry in os.scandir(encoder)]
        tokenizer = _read_vocabulary(encoder, tuple(sorted(stamps)))
        if digest not in (None, tokenizer.digest):
            raise UserError(f"{encoder}: the vocabulary has changed while text is encoded; run encode.py again")
        return tokenizer
    return tokenizers.load(encoder)


@functools.lru_cache(maxsize=1)
def _read_vocabulary(encoder: str, stamps: tuple[tuple[str, int], ...]) -> tokenizers.Tokenizer:
    """stamps: of the files, by which a changed one is read anew."""
    return tokenizers.load(encoder)


def _nothing(made: Plan, runs: Sequence[Run]) -> _Nothing:
    skipped = sum((Counter(run.skipped) for run in runs), Counter())
    if set(skipped) <= {"blank"}:
        return _Nothing(*corpus.no_text([part.path for task in made.tasks for part in task.parts]).args)
    found = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items()))
    return _Nothing(
        f"no document has {made.options.min_tokens} tokens or more, so nothing was written ({found}); "
        "lower --min_tokens or add text"
    )


# Places and lists.


def _places(made: Plan, out: Path, *, used: bool = False) -> list[Place]:
    """Of each corpus and split; that of the training text of the first corpus, where the work is done, last.

    used: only of splits that there may be documents of.
    """
    splits = {0} | {task.split for task in made.tasks} | {1 + i for i, part in enumerate(made.options.split) if part}
    names = [each.name for each in made.corpora]
    return [
        encoding_shards.place(out, name, split)
        for name in reversed(names)
        for split in (2, 1, 0)
        if not used or split in splits
    ]


def _shards(made: Plan, job: Job) -> list[tuple[int, int, Path]]:
    """Every shard: its output, its number there, and where it is written."""
    found = []
    for number, output in enumerate(_chosen(job).outputs):
        place = encoding_shards.place(job.out, made.corpora[output.corpus].name, output.split)
        for i in range(output.shards):
            found.append((number, i, place.partial / encoding_shards.file_name(made, place, i)))
    return found


def _manifests(made: Plan, job: Job, places: Sequence[Place]) -> list[dict[str, Any] | None]:
    """What the list of the shards tells, for each place; None where there are none."""
    choice = _chosen(job)
    runs = _runs(made, job)
    by_place: dict[Place, dict[str, Any]] = {}
    shards = _shards(made, job)
    for number, output in enumerate(choice.outputs):
        each = made.corpora[output.corpus]
        skipped: Counter[str] = Counter(choice.dropped[output.corpus])
        for task, run in zip(made.tasks, runs, strict=True):
            if task.corpus == output.corpus:
                skipped.update(run.skipped)
        paths = [path for of, _, path in shards if of == number]
        if not paths and output.split:
            continue
        manifest = {
            "shards": {path.name: path.stat().st_size for path in paths},
            "documents": output.documents,
            "tokens": output.tokens,
            "bytes": output.bytes,
            "split": SPLITS[output.split],
            "corpus": each.name,
            "weight": each.weight,
            "inputs": each.inputs,
            "skipped": dict(sorted(skipped.items())),
            "tokenizer": made.tokenizer,
            "options": made.options._asdict(),
            "fingerprint": made.fingerprint,
        }
        by_place[encoding_shards.place(job.out, each.name, output.split)] = manifest
    return [by_place.get(place) for place in places]


def _summaries(made: Plan, places: Sequence[Place]) -> list[Summary]:
    """What the lists of the shards tell, of the corpora and splits in turn."""
    found = []
    for place in reversed(places):
        facts = encoding_shards.read_list(place)
        if facts is not None and facts.get("fingerprint") == made.fingerprint:
            shards = [place.folder / name for name in facts["shards"]]
            counts = {key: facts[key] for key in ("documents", "tokens", "bytes", "skipped", "weight", "split")}
            found.append(Summary(name=place.name, shards=shards, **counts))
    return found


def _is_complete(made: Plan, places: Sequence[Place]) -> bool:
    """Whether the shards of this plan are all at their places."""
    facts = encoding_shards.read_list(places[-1])
    if facts is None or facts.get("fingerprint") != made.fingerprint:
        return False
    try:
        for place in places:
            naming.check_whole(place.folder, place.name)
    except UserError:
        return False
    return True


def _refuse_others(made: Plan, places: Sequence[Place], *, overwrite: bool) -> None:
    """UserError where shards of other text, or a file of other people, would be replaced."""
    for place in places:
        if place.shards() and not overwrite:
            raise UserError(
                f"{place.folder} already has shards of the name {place.name}, of other text or options; use "
                "--overwrite to replace them, or choose another --name"
            )
        if place.manifest.exists() and naming.read_manifest(place.folder, place.name) is None:
            raise UserError(
                f"{place.manifest} is where the list of the shards belongs; rename it, or choose another --name"
            )


def _clear(places: Sequence[Place]) -> None:
    """Removes what was made on the way."""
    for place in places:
        shutil.rmtree(place.partial, ignore_errors=True)
        if place.folder != places[-1].folder:
            with contextlib.suppress(OSError):
                place.folder.rmdir()  # if nothing is in it


@contextlib.contextmanager
def _alone(place: Place) -> Iterator[None]:
    """UserError where another process makes the same shards; the system frees the lock of a process that dies."""
    new = not place.folder.exists()
    place.folder.mkdir(parents=True, exist_ok=True)
    path = place.folder / f".{place.name}.lock"
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError):  # the file of another process, or one that it has just removed
            raise UserError(
                f"another process is writing the shards {place.name} in {place.folder}; wait for it, and try again"
            ) from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            if new:
                with contextlib.suppress(OSError):
                    os.rmdir(place.folder)  # if nothing came of it
