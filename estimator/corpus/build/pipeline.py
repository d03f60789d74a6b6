"""Text to shards at any scale: a plan, a run for each of its tasks, a choice, the shards, and the move to their places.

Each step writes to a hidden folder next to the shards and renames its output when it is complete. A command that was
killed at any instant continues where it stopped, and the shards have the same bytes whichever workers ran.
"""

import contextlib
import functools
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from estimator.corpus import documents
from estimator.corpus.build import marks, workspace, write_shards
from estimator.corpus.build.executors import Bar, Counters, Executor, run_tasks, submit
from estimator.corpus.build.plan import BuildPlan, Corpus, Options, note_on_names, plan, read_plan
from estimator.corpus.build.select_documents import choose, find_choice
from estimator.corpus.build.sorted_runs import BLANK, SHORT, SortedRun, find_run, forget_damaged, write_run
from estimator.corpus.build.workspace import Job, Summary
from estimator.corpus.build.write_shards import ShardLocation
from estimator.errors import UserError
from estimator.storage import locks
from estimator.tokenization import tokenizer as tokenizers
from estimator.tokenization import vocab_files

# Shards of fewer tokens are written by one process: sooner than several have begun.
POOL_TOKENS = 200_000_000


class _Nothing(documents.NoTextError):
    """No document is left."""


def encode(
    corpora: Sequence[Corpus],
    options: Options,
    *,
    encoder: str,
    out: Path,
    executor: Executor,
    overwrite: bool = False,
    again: bool = False,
    quiet: bool = False,
) -> list[Summary] | None:
    """Makes the shards of some corpora in the folder `out`; what became of them, or None where Slurm is at work.

    encoder: the folder of the vocabulary. overwrite: replace shards of these names that other text or options made.
    again: make complete ones of this text and these options again. quiet: without a bar.
    """
    tokenizer = vocabulary(encoder)
    if tokenizer.end_of_text is None:
        raise UserError(f"{encoder}: {vocab_files.NO_END}")
    made = plan(corpora, options, encoder=encoder, tokenizer=tokenizer.digest)
    if not quiet and (note := note_on_names(made)):
        print(note, file=sys.stderr)
    places = workspace.places_of(made, out)
    work = places[-1].partial / "work"
    with _alone(places[-1]):
        if write_shards.finish_move(made, work) or (not again and workspace.is_complete(made, places)):
            workspace.clear(places)
            if not quiet:
                print("the shards are complete already; --overwrite makes them again", file=sys.stderr)
            return workspace.summaries_of(made, places)
        workspace.refuse_others(made, places, overwrite=overwrite)
        kept = read_plan(work)
        if kept is None or kept.fingerprint != made.fingerprint:
            workspace.clear(places)
        (work / "runs").mkdir(parents=True, exist_ok=True)
        forget_damaged(work / "runs", len(made.tasks))
        for mark in (work / write_shards.MARKS).glob("*.json"):
            marks.forget_damaged(mark)
        for place in workspace.places_of(made, out, used=True):
            place.partial.mkdir(parents=True, exist_ok=True)
        made.write(work)
        try:
            if not _carry_out(made, Job(out, work), executor, quiet=quiet):
                return None
        except (UserError, OSError) as error:
            if any((work / "runs").glob("*.json")) and not isinstance(error, _Nothing):
                print(f"finished work is kept in {work}; the same command continues from it", file=sys.stderr)
            else:
                workspace.clear(places)
            raise
        return workspace.summaries_of(made, places)


def _carry_out(made: BuildPlan, job: Job, executor: Executor, *, quiet: bool) -> bool:
    """The steps, in turn. False where they were submitted."""
    counters = Counters(job.work / "progress", len(made.tasks))
    if not counters.path.exists() or counters.path.stat().st_size != 8 * len(made.tasks):
        counters.create()
    tasks = len(made.tasks)
    bar = None if quiet else Bar("encoding", sum(made.bytes), counters.total)
    # Of Slurm's jobs the last removes the work folder, but not what it notes itself.
    folder = job.out / f".{made.corpora[0].name}.slurm" if executor.kind == "slurm" else job.work / "executor"
    vocabulary(made.encoder).encode_utf8([b""])  # the first call's tables are shared with all workers
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
        submit(steps, executor=executor, folder=folder, after=submitted)
        return False
    choose_task(job, 0)
    shards = workspace.shards_of(made, job)
    count = len(shards)
    if sum(output.tokens for output in workspace.choice_of(job).outputs) < POOL_TOKENS:
        executor = Executor(workers=1)
    run_tasks(
        functools.partial(shards_task, job, count),
        tasks=count,
        executor=executor,
        folder=folder,
        is_done=lambda i: marks.read_mark(workspace.shard_mark(job, shards[i][2])) is not None,
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
    made = workspace.plan_of(job, task=task)
    counters = Counters(job.work / "progress", len(made.bytes))
    write_run(
        made,
        task,
        vocabulary(made.encoder, digest=made.tokenizer),
        folder=job.runs,
        progress=lambda count: counters.set(task, min(count, made.bytes[task])),
    )
    counters.set(task, made.bytes[task])


def choose_task(job: Job, _: int) -> None:
    """Selects the documents, unless the selection exists."""
    if find_choice(job.work) is None:
        made = workspace.plan_of(job)
        runs = workspace.runs_of(made, job)
        choice = choose(made, runs, folder=job.work)
        if not any(output.documents for output in choice.outputs):
            raise _nothing(made, runs)


def shards_task(job: Job, count: int, task: int) -> None:
    """Writes every count-th shard, beginning with one, unless it exists."""
    made = workspace.plan_of(job)
    choice = workspace.choice_of(job)
    runs = None
    for output, number, path in workspace.shards_of(made, job)[task::count]:
        mark = workspace.shard_mark(job, path)
        if marks.read_mark(mark) is None:
            runs = runs or workspace.runs_of(made, job)
            tokenizer = vocabulary(made.encoder, digest=made.tokenizer)
            write_shards.write_shard(
                made, choice, runs, choice.outputs[output], number, path=path, mark=mark, tokenizer=tokenizer
            )


def move_task(job: Job, _: int) -> None:
    """Moves the shards to their places, the lists of them last."""
    made = workspace.plan_of(job)
    places = workspace.places_of(made, job.out)
    if not write_shards.finish_move(made, job.work):
        write_shards.begin_move(made, job.work, places, workspace.manifests_of(made, job, places))
        if not write_shards.finish_move(made, job.work, verify=False):
            raise UserError(f"{job.work}: the list of moves was damaged while it was written; run encode.py again")
    workspace.clear(places)


def vocabulary(encoder: str, *, digest: str | None = None) -> tokenizers.Tokenizer:
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
    """stamps: of the files; a changed one is read again."""
    return tokenizers.load(encoder)


def _nothing(made: BuildPlan, runs: Sequence[SortedRun]) -> _Nothing:
    skipped = sum((Counter(run.skipped) for run in runs), Counter())
    if SHORT not in skipped:
        left_out = {reason: count for reason, count in skipped.items() if reason != BLANK}
        paths = list(dict.fromkeys(part.path for task in made.tasks for part in task.parts))
        return _Nothing(*documents.no_text(paths, left_out).args)
    listed = sorted((reason, count) for reason, count in skipped.items() if not documents.is_noted(reason))
    found = ", ".join(f"{count} {reason}" for reason, count in listed)
    return _Nothing(
        f"no document has {made.options.min_tokens} tokens or more, so nothing was written ({found}); "
        "lower --min_tokens or add text"
    )


@contextlib.contextmanager
def _alone(place: ShardLocation) -> Iterator[None]:
    """UserError where another process makes the same shards."""
    new = not place.folder.exists()
    place.folder.mkdir(parents=True, exist_ok=True)
    path = place.folder / f".{place.name}.lock"
    message = f"another process is writing the shards {place.name} in {place.folder}; wait for it, and try again"
    try:
        with locks.exclusive(path, message, remove=True):
            yield
    finally:
        if new:
            with contextlib.suppress(OSError):
                os.rmdir(place.folder)  # if nothing came of it
