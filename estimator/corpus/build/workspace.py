"""Shared by the steps of encoding: the work folder and its contents, and the locations and lists of shards."""

import contextlib
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from estimator import format_version
from estimator.corpus.build import write_shards
from estimator.corpus.build.plan import SPLITS, BuildPlan, read_plan
from estimator.corpus.build.select_documents import Choice, find_choice
from estimator.corpus.build.sorted_runs import SortedRun, find_run
from estimator.corpus.build.write_shards import ShardLocation
from estimator.corpus.documents import is_noted
from estimator.errors import UserError
from estimator.json_text import sealed
from estimator.shards import discovery as naming


class Summary(NamedTuple):
    """What became of a corpus in a split. shards: the files, in order. skipped: how many of what, by reason.

    noted: other counts. weight: share in training.
    """

    name: str
    split: str
    shards: Sequence[Path | str]
    documents: int
    tokens: int
    bytes: int
    skipped: dict[str, int]
    weight: float = 1.0
    noted: Mapping[str, int] = MappingProxyType({})

    @property
    def stem(self) -> str:
        """What the paths of the shards begin with: FOLDER/NAME."""
        return f"{str(self.shards[0]).rpartition('/')[0] or '.'}/{self.name}"


class Job(NamedTuple):
    """A plan that is being carried out; all that workers need to know, which find the rest in the folder.

    out: folder of the shards. work: folder of intermediate files.
    """

    out: Path
    work: Path

    @property
    def runs(self) -> Path:
        return self.work / "runs"


def plan_of(job: Job, *, task: int | None = None) -> BuildPlan:
    made = read_plan(job.work, task=task)
    if made is None:
        raise UserError(f"{job.work} has gone while the work was done; run encode.py again")
    return made


def choice_of(job: Job) -> Choice:
    choice = find_choice(job.work)
    if choice is None:
        raise UserError(f"{job.work}: the choice of documents is missing; run encode.py again")
    return choice


def runs_of(made: BuildPlan, job: Job) -> list[SortedRun]:
    runs = [find_run(job.runs, task) for task in range(len(made.tasks))]
    missing = [task for task, run in enumerate(runs) if run is None]
    if missing:
        raise UserError(f"{job.runs}: the run of task {missing[0]} is missing; run encode.py again")
    return [run for run in runs if run is not None]


# Places and lists.


def places_of(made: BuildPlan, out: Path, *, used: bool = False) -> list[ShardLocation]:
    """Of each corpus and split; that of the training text of the first corpus, where the work is done, last.

    used: only of splits that there may be documents of.
    """
    splits = {0} | {task.split for task in made.tasks} | {1 + i for i, part in enumerate(made.options.split) if part}
    names = [each.name for each in made.corpora]
    return [
        write_shards.place(out, name, split)
        for name in reversed(names)
        for split in (2, 1, 0)
        if not used or split in splits
    ]


def shards_of(made: BuildPlan, job: Job) -> list[tuple[int, int, Path]]:
    """Every shard: its output, its number there, and where it is written."""
    found = []
    for number, output in enumerate(choice_of(job).outputs):
        place = write_shards.place(job.out, made.corpora[output.corpus].name, output.split)
        for i in range(output.shards):
            found.append((number, i, place.partial / write_shards.file_name(made, place, i)))
    return found


def shard_mark(job: Job, shard: Path) -> Path:
    """The mark that a shard in a hidden folder, and its index, are whole."""
    return job.work / write_shards.MARKS / f"{shard.name}.json"


def manifests_of(made: BuildPlan, job: Job, places: Sequence[ShardLocation]) -> list[dict[str, Any] | None]:
    """What the list of the shards tells, for each place; None where there are none."""
    choice = choice_of(job)
    runs = runs_of(made, job)
    by_place: dict[ShardLocation, dict[str, Any]] = {}
    shards = shards_of(made, job)
    for number, output in enumerate(choice.outputs):
        each = made.corpora[output.corpus]
        skipped: Counter[str] = Counter(choice.dropped[output.corpus])
        skipped.update(made.left_out[output.corpus])
        for task, run in zip(made.tasks, runs, strict=True):
            if task.corpus == output.corpus:
                skipped.update(run.skipped)
        paths = [path for of, _, path in shards if of == number]
        if not paths and output.split:
            continue
        manifest = {
            "shards": {path.name: path.stat().st_size for path in paths},
            naming.FRACTION_OF: "tokens",
            "documents": output.documents,
            "tokens": output.tokens,
            "bytes": output.bytes,
            "split": SPLITS[output.split],
            "corpus": each.name,
            "weight": each.weight,
            "inputs": each.inputs,
            "skipped": {reason: count for reason, count in sorted(skipped.items()) if not is_noted(reason)},
            "noted": {reason: count for reason, count in sorted(skipped.items()) if is_noted(reason)},
            "tokenizer": made.tokenizer,
            "options": made.options.identity(),
            "fingerprint": made.fingerprint,
        }
        by_place[write_shards.place(job.out, each.name, output.split)] = sealed(format_version.stamped(manifest))
    return [by_place.get(place) for place in places]


def summaries_of(made: BuildPlan, places: Sequence[ShardLocation]) -> list[Summary]:
    """What the lists of the shards tell, of the corpora and splits in turn."""
    found = []
    for place in reversed(places):
        facts = write_shards.read_list(place)
        if facts is not None and facts.get("fingerprint") == made.fingerprint:
            counts = counts_of(facts, place.manifest)
            shards = [place.folder / name for name in facts["shards"]]
            found.append(Summary(name=place.name, shards=shards, split=facts["split"], **counts))
    return found


def counts_of(facts: dict[str, Any], path: Path | str) -> dict[str, Any]:
    """What a list of shards counts, for its `Summary`. Raises UserError if a program has not written it so."""

    def is_count(value: object) -> bool:
        return type(value) is int and value >= 0

    def are_counts(value: object) -> bool:
        return isinstance(value, dict) and all(map(is_count, value.values()))

    kinds = {
        "documents": is_count,
        "tokens": is_count,
        "bytes": is_count,
        "skipped": are_counts,
        "noted": are_counts,
        "weight": lambda value: type(value) in (int, float) and value > 0,
    }
    values = {"noted": {}, **facts}
    wrong = [key for key, is_right in kinds.items() if not is_right(values.get(key))]
    shards = facts.get("shards")
    # A corpus whose documents are all in others, too, has none of its own.
    if not isinstance(shards, dict) or bool(shards) != bool(facts.get("documents")):
        wrong.append("shards")
    if facts.get("split", SPLITS[0]) not in SPLITS:
        wrong.append("split")
    if wrong:
        raise UserError(
            f"{path} is damaged: {wrong[0]} is {str(facts.get(wrong[0]))[:40]}; restore it from a copy, or make the "
            "shards again with --overwrite"
        )
    return {key: values[key] for key in kinds}


def is_complete(made: BuildPlan, places: Sequence[ShardLocation]) -> bool:
    """Whether the shards of this plan are all at their places."""
    lists = [write_shards.read_list(place) for place in places]
    if lists[-1] is None or any(
        (facts or {}).get("fingerprint") != made.fingerprint
        for place, facts in zip(places, lists, strict=True)
        if facts or place.shards()
    ):
        return False
    try:
        for place, facts in zip(places, lists, strict=True):
            naming.check_whole(place.folder, place.name)
            if facts:
                counts_of(facts, place.manifest)
    except UserError:
        return False
    return True


def refuse_others(made: BuildPlan, places: Sequence[ShardLocation], *, overwrite: bool) -> None:
    """UserError where shards of other text, or a file of other people, would be replaced."""
    for place in places:
        if place.shards() and not overwrite:
            raise UserError(
                f"{place.folder} already has shards of the name {place.name}, incomplete, or of other text, other "
                "options or an earlier version that read it otherwise; use --overwrite to replace them, or choose "
                "another --name"
            )
        if place.manifest.exists() and naming.read_manifest(place.folder, place.name) is None:
            raise UserError(
                f"{place.manifest} is damaged or of something else, and the list of the shards belongs there; move it "
                "elsewhere or restore it from a copy, or choose another --name"
            )


def clear(places: Sequence[ShardLocation]) -> None:
    """Removes intermediate files."""
    for place in places:
        shutil.rmtree(place.partial, ignore_errors=True)
        if place.folder != places[-1].folder:
            with contextlib.suppress(OSError):
                place.folder.rmdir()  # if nothing is in it
