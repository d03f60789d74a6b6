"""Text to shards at any scale: a plan, a run for each of its tasks, a choice, the shards, and the move to their places.

Each step keeps what it makes in a hidden folder beside the shards, under its name only when it is complete: killed at
any instant and started again, the same command goes on where it was, and the shards are the same bytes whoever worked.
"""

import contextlib
import fcntl
import functools
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from runtime.errors import UserError
from runtime.executors import Bar, Counters, Executor, run_tasks
from text import corpus, encoding_job, encoding_shards, tokenizers
from text.encoding_choice import choose, find_choice
from text.encoding_job import Job, Summary
from text.encoding_plan import Corpus, Options, Plan, plan, read_plan
from text.encoding_runs import Run, find_run, write_run
from text.encoding_shards import Place

# Shards of fewer tokens are written by one process: sooner than several have begun.
POOL_TOKENS = 200_000_000


class _Nothing(UserError):
    """No document is left."""


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
    places = encoding_job.places_of(made, out)
    work = places[-1].partial / "work"
    with _alone(places[-1]):
        if encoding_shards.finish_move(made, work) or encoding_job.is_complete(made, places):
            encoding_job.clear(places)
            return encoding_job.summaries_of(made, places)
        encoding_job.refuse_others(made, places, overwrite=overwrite)
        kept = read_plan(work)
        if kept is None or kept.fingerprint != made.fingerprint:
            encoding_job.clear(places)
        (work / "runs").mkdir(parents=True, exist_ok=True)
        for place in encoding_job.places_of(made, out, used=True):
            place.partial.mkdir(parents=True, exist_ok=True)
        made.write(work)
        try:
            if not _carry_out(made, Job(out, work), executor, quiet=quiet):
                return None
        except (UserError, OSError) as error:
            if any((work / "runs").glob("*.json")) and not isinstance(error, _Nothing):
                print(f"what is done is kept in {work}; the same command goes on from there", file=sys.stderr)
            else:
                encoding_job.clear(places)
            raise
        return encoding_job.summaries_of(made, places)


def _carry_out(made: Plan, job: Job, executor: Executor, *, quiet: bool) -> bool:
    """The steps, in turn. False where they were submitted."""
    counters = Counters(job.work / "progress", len(made.tasks))
    if not counters.path.exists() or counters.path.stat().st_size != 8 * len(made.tasks):
        counters.create()
    tasks = len(made.tasks)
    bar = None if quiet else Bar("encoding", sum(made.bytes), counters.total)
    # Of Slurm's jobs the last removes the work folder, but not what it notes itself.
    folder = job.out / f".{made.corpora[0].name}.slurm" if executor.kind == "slurm" else job.work / "executor"
    _vocabulary(made.encoder).encode_utf8([b""])  # what is made on the first call is there for all workers
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
    shards = encoding_job.shards_of(made, job)
    count = len(shards)
    if sum(output.tokens for output in encoding_job.choice_of(job).outputs) < POOL_TOKENS:
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
    made = encoding_job.plan_of(job, task=task)
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
        made = encoding_job.plan_of(job)
        runs = encoding_job.runs_of(made, job)
        choice = choose(made, runs, folder=job.work)
        if not any(output.documents for output in choice.outputs):
            raise _nothing(made, runs)


def shards_task(job: Job, count: int, task: int) -> None:
    """Writes every count-th shard, beginning with one, unless it is there."""
    made = encoding_job.plan_of(job)
    choice = encoding_job.choice_of(job)
    runs = None
    for output, number, path in encoding_job.shards_of(made, job)[task::count]:
        if not path.exists():
            runs = runs or encoding_job.runs_of(made, job)
            tokenizer = _vocabulary(made.encoder, digest=made.tokenizer)
            encoding_shards.write_shard(
                made, choice, runs, choice.outputs[output], number, path=path, tokenizer=tokenizer
            )


def move_task(job: Job, _: int) -> None:
    """Moves the shards to their places, the lists of them last."""
    made = encoding_job.plan_of(job)
    places = encoding_job.places_of(made, job.out)
    if not encoding_shards.finish_move(made, job.work):
        encoding_shards.begin_move(made, job.work, places, encoding_job.manifests_of(made, job, places))
        encoding_shards.finish_move(made, job.work)
    encoding_job.clear(places)


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
