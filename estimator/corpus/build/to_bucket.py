"""Shards for a bucket: made on this machine's disk, then copied there, the lists of them last.

Local files stay until the upload is complete, so that the same command continues wherever it was stopped.
"""

import argparse
import re
import shutil
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from estimator import json_text, storage
from estimator.corpus.build import pipeline
from estimator.corpus.build.executors import Executor
from estimator.corpus.build.plan import SPLITS, Corpus, Options, plan
from estimator.corpus.build.workspace import Summary, counts_of
from estimator.errors import UserError
from estimator.storage import cache_root, user_paths
from estimator.tokenization import tokenizer

_COPYING = ".copying"  # here, while shards of the fingerprint in it are copied


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options `--out`, `--encoder` and `--work` of `encode`."""
    add = parser.add_argument
    add(
        "--out",
        required=True,
        type=user_paths.argument,
        metavar="DIR",
        help="folder of the shards, here or in a bucket",
    )
    add(
        "--encoder",
        default="encoder",
        type=user_paths.argument,
        metavar="DIR",
        help="folder of the vocabulary (%(default)s)",
    )
    add(
        "--work",
        type=user_paths.folder,
        metavar="DIR",
        help="where shards for a bucket are made before they are copied there",
    )


def encode(
    corpora: Sequence[Corpus],
    options: Options,
    *,
    encoder: str,
    out: str,
    executor: Executor,
    overwrite: bool = False,
    work: Path | None = None,
) -> list[Summary] | None:
    """As `pipeline.encode`, also for an `out` such as gs://bucket/folder. work: where the shards are made then."""
    if not storage.is_remote(out):
        replaced = {"overwrite": overwrite, "again": overwrite}
        return pipeline.encode(corpora, options, encoder=encoder, out=Path(out), executor=executor, **replaced)
    if executor.kind == "slurm":
        raise UserError(f"--out {out}: Slurm's jobs write to a disk that all of them see; copy the shards from there")
    names = [each.name for each in corpora]
    fingerprint = plan(corpora, options, encoder=encoder, tokenizer=tokenizer.load(encoder).digest).fingerprint
    local = (work or cache_root.root() / "encode") / sha256(f"{out} {names}".encode()).hexdigest()[:16]
    if _facts(out, _list_names(names[0])[-1]).get("fingerprint") != fingerprint:
        begun = local / _COPYING
        there = _files_of(names, out)
        if there and not overwrite and not (begun.is_file() and begun.read_text(encoding="utf-8") == fingerprint):
            raise UserError(
                f"{out} already has {there[0]}, of other text, other options or an earlier version that read it "
                "otherwise; use --overwrite to replace it, or choose another --name"
            )
        pipeline.encode(corpora, options, encoder=encoder, out=local, executor=executor, overwrite=True)
        begun.write_text(fingerprint, encoding="utf-8")
        _copy(local, out, names=names, there=there)
    shutil.rmtree(local, ignore_errors=True)
    return [summary for name in names for summary in _summaries(out, name, fingerprint)]


def _list_names(name: str) -> list[str]:
    """Where the lists of the shards of a corpus are, below `out`: that of training last."""
    return [f"test/{name}_test.json", f"{name}_valid.json", f"{name}.json"]


def _facts(out: str, name: str) -> dict[str, Any]:
    path = storage.join(out, *name.split("/"))
    if not storage.is_file(path):
        return {}
    try:
        values = json_text.loads(storage.read_bytes(path))
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _files_of(names: Sequence[str], out: str) -> list[str]:
    """All files of some corpora that are in the bucket, by their paths below `out`."""
    ours = "|".join(map(re.escape, names))
    kinds = r"(tfrecords(\.gz)?|npy|npz)(\..*)?"
    pattern = re.compile(rf"(({ours})(_valid)?|test/({ours})_test)(_\d+\.{kinds}|\.json)")
    below = len(out.rstrip("/")) + 1
    return [path[below:] for path in storage.listing(out) if pattern.fullmatch(path[below:])]


def _copy(local: Path, out: str, *, names: Sequence[str], there: Sequence[str]) -> None:
    """Copies all that was made, after the old lists are removed by which readers would know other shards."""
    lists = [each for name in reversed(names) for each in _list_names(name)]
    made = [str(path.relative_to(local)) for path in sorted(local.rglob("*")) if path.is_file()]
    made.remove(_COPYING)
    for name in [*lists, *there]:
        if name in there and (name in lists or name not in made):
            storage.remove(storage.join(out, *name.split("/")))
    for name in [*(name for name in made if name not in lists), *(name for name in lists if name in made)]:
        storage.upload(local / name, storage.join(out, *name.split("/")))


def _summaries(out: str, name: str, fingerprint: str) -> list[Summary]:
    found = []
    for split, path in zip(SPLITS, reversed(_list_names(name)), strict=True):
        facts = _facts(out, path)
        if facts.get("fingerprint") == fingerprint:
            folder, _, stem = path.removesuffix(".json").rpartition("/")
            shards = [storage.join(out, *filter(None, (folder, shard))) for shard in facts["shards"]]
            found.append(Summary(name=stem, split=split, shards=shards, **counts_of(facts, storage.join(out, path))))
    return found
