"""Divides documents into those to train on and those to evaluate on: none is in both."""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from estimator.data.token_stream import Documents
from estimator.errors import UserError, of_key
from estimator.hashing import splitmix64
from estimator.quantities import numbered
from estimator.shards.discovery import find, listed, number
from estimator.shards.shard import Shard

_PART = 1 << 16


_VAL = re.compile(r"(?<![a-z])val(?![a-z])", re.IGNORECASE)
_EVALUATION_NAME = re.compile(r"(?<![a-z])(valid|eval)", re.IGNORECASE)


EVALUATION_FRACTION = 0.05
NEAR = 1.4  # a share of the tokens may be so many times more or fewer than the fraction that was asked for


class ShardGroup(NamedTuple):
    """Shards that are trained on in one way.

    stitch: documents joined for each window; 0 is as many as fill a window on average; None packs every token instead.
    weight: share of the windows, among all groups. note: a line for the console, if there is something to say.
    """

    files: list[Path]
    stitch: int | None = None
    weight: float = 1.0
    note: str | None = None


def is_for_evaluation(path: Path) -> bool:
    """Whether the name says so."""
    # llm.c writes fineweb_val_000000.bin; of other shards `val` has never meant it.
    return bool(_EVALUATION_NAME.search(path.name) or (path.suffix == ".bin" and _VAL.search(path.name)))


def held_out(files: Sequence[Path], rule: Sequence[str] | Sequence[int] | str | float | None) -> list[Path] | float:
    """The shards to evaluate on, or the fraction of all tokens. UserError where no shard is left on either side.

    rule: what these patterns name, or those of `files` with these numbers, or this fraction; None takes the shards
    whose names say so, and a small fraction where that is none or all of them.
    """
    if isinstance(rule, float):
        return rule
    named = [rule] if isinstance(rule, str) else rule or []
    if rule is None:
        chosen = [path for path in files if is_for_evaluation(path)]
        if not chosen or len(chosen) == len(files):
            return EVALUATION_FRACTION
    else:
        patterns = [each for each in named if isinstance(each, str)]
        with of_key("eval_split"):
            chosen = find(patterns) if patterns else [path for path in files if number(path) in named]
    if not chosen or not set(files) - set(chosen):
        verb = "train" if chosen else "evaluate"
        missing = "" if chosen else f" (is {' or '.join(map(str, named))} missing? copy it there)"
        raise UserError(
            f"eval_split: no shard is left to {verb} on, of {listed(files)}{missing}; set eval_split to numbers or "
            "patterns of some of them, or to a fraction of the tokens, such as 0.05"
        )
    return chosen


class Split(NamedTuple):
    """Training documents of each group of shards, evaluation documents, and omitted files, if any."""

    training: list[Documents]
    evaluation: Documents
    left_out: int

    def notes(self, windows_per_epoch: int) -> list[str]:
        """Lines for the console: how much there is, in all training documents together and to evaluate on."""

        def count(parts: Sequence[Documents]) -> str:
            tokens = sum(part.total_tokens for part in parts)
            return f"{numbered(sum(map(len, parts)), 'document')} ({numbered(tokens, 'token')})"

        line = f"data: {count(self.training)} for training, {numbered(windows_per_epoch, 'window')} an epoch; "
        notes = [line + f"{count([self.evaluation])} for evaluation"]
        if cut := len(self.evaluation.parts):
            whole = "1 document is" if cut == 1 else f"{cut:,} equal documents are"
            notes.append(
                f"{whole} cut and counted on both sides, as whole ones cannot make up eval_split (default "
                f"{EVALUATION_FRACTION}) of the tokens: the end is evaluated on, the rest is trained on"
            )
        if self.left_out:
            left_out = numbered(self.left_out, "training document")
            notes.append(f"{left_out} left out, because the same text is evaluated on")
        return notes


class TextFiles(NamedTuple):
    """The files of text that shards in the cache were made of, as errors name them."""

    training: Sequence[str]
    evaluation: Sequence[str]


def by_shard(groups: Sequence[Sequence[Shard]], held_out: Sequence[Shard], *, texts: TextFiles | None = None) -> Split:
    """Evaluates on whole shards. Documents of the others with the same text as one of theirs are left out."""
    known = np.unique(np.concatenate([shard.fingerprints for shard in held_out]))

    def is_new(fingerprints: np.ndarray) -> np.ndarray:
        nearest = np.searchsorted(known[:-1], fingerprints)
        return known[nearest] != fingerprints if len(known) else np.ones(len(fingerprints), bool)

    for group in groups:
        if all(shard in held_out for shard in group):
            raise UserError(
                f"eval_split: {listed(shard.path for shard in group)} would only be evaluated on, and nothing of the "
                "group is left to train on; set eval_split to other shards, or to a fraction: 0.05"
            )
    others = [[shard for shard in group if shard not in held_out] for group in groups]
    training = [_select(group, is_new) for group in others]
    for group, found in zip(others, training, strict=True):
        if not len(found) and any(map(len, group)):
            raise _same_texts(texts or TextFiles(*([str(each.path) for each in part] for part in (group, held_out))))
    everything = sum(len(shard) for group in others for shard in group)
    return _checked(Split(training, Documents(held_out), everything - sum(map(len, training))), texts)


def _same_texts(files: TextFiles) -> UserError:
    folders = [{os.path.dirname(path) for path in part} for part in files]
    are_apart = all(len(each) == 1 and all(each) for each in folders) and folders[0] != folders[1]
    training, evaluation = (f"{min(each)}/" for each in folders) if are_apart else map(listed, files)
    return UserError(
        f"no text is left to train on, as {training} and {evaluation} hold the same texts, and the latter is evaluated "
        "on; put others into one of them, or set eval_split to a fraction, such as 0.05"
    )


def by_fraction(
    groups: Sequence[Sequence[Shard]],
    fraction: float,
    *,
    by_tokens: bool = False,
    divisible: bool = True,
    texts: TextFiles | None = None,
) -> Split:
    """Evaluates on a fraction of the documents, chosen by a hash of their text: equal ones are on the same side.

    A document stays on its side when others are added. Where that would hold out far more or fewer tokens than the
    fraction, as with few or large documents, documents are chosen by their lengths, and the end of one is cut off.
    by_tokens: the shards are of a version that divides so; others do so only where nothing would be left on a side.
    divisible: a document may be cut. A fraction of 0 evaluates on nothing.
    """
    shards = list(dict.fromkeys(shard for group in groups for shard in group))
    if not fraction:
        return _checked(Split([Documents(group) for group in groups], Documents([]), 0), texts)
    smallest = min((int(_hashes(part).min()) for shard in shards for part in _parts(shard)), default=0)
    limit = max(int(fraction * 2**64), smallest + 1)
    training = [_select(group, lambda fingerprints: _hashes(fingerprints) >= limit) for group in groups]
    evaluation = _select(shards, lambda fingerprints: _hashes(fingerprints) < limit)
    split = Split(training, evaluation, 0)
    everything = Documents(shards).total_tokens
    is_near = fraction / NEAR <= evaluation.total_tokens / max(1, everything) <= fraction * NEAR
    is_possible = evaluation.total_tokens and all(part.total_tokens for part in training)
    if is_possible and (is_near or not by_tokens):
        return _checked(split, texts)
    return _checked(_by_tokens(groups, shards, fraction, divisible=divisible), texts, fraction=fraction)


def _by_tokens(
    groups: Sequence[Sequence[Shard]], shards: Sequence[Shard], fraction: float, *, divisible: bool
) -> Split:
    """Evaluates on the fraction of the tokens: whole documents in the order of their hashes, then the end of one."""
    hashes = {shard: _hashes(np.asarray(shard.fingerprints)) for shard in shards}
    lengths: Counter[int] = Counter()
    longest: dict[int, int] = {}
    for shard in shards:
        for of, length in zip(hashes[shard].tolist(), np.asarray(shard.token_counts).tolist(), strict=True):
            lengths[of] += length
            longest[of] = length
    wanted = missing = max(1, int(fraction * lengths.total()))
    held_out = set()
    for of in sorted(lengths):
        if 0 < lengths[of] <= missing:
            held_out.add(of)
            missing -= lengths[of]
    cut: tuple[int, int] | None = None  # a document's hash, and its tokens to train on
    if missing * NEAR > wanted * (NEAR - 1) and len(held_out) < len(lengths):
        left = [of for of in sorted(lengths) if of not in held_out]
        of = next((each for each in left if lengths[each] > 2 * missing), max(left, key=lengths.__getitem__))
        copies = lengths[of] // max(1, longest[of])
        if divisible and longest[of] > 1:
            cut = (of, longest[of] - max(1, min(missing // max(1, copies), longest[of] // 2)))
        elif not held_out:
            held_out.add(min(left, key=lengths.__getitem__))

    def chosen(parts: Sequence[Shard], *, evaluated: bool) -> Documents:
        selected, pieces, count = [], {}, 0
        for shard in parts:
            is_held_out = np.isin(hashes[shard], np.array(sorted(held_out), np.uint64))
            is_cut = hashes[shard] == np.uint64(cut[0]) if cut else np.zeros(len(shard), bool)
            here = (is_cut | (is_held_out == evaluated)).nonzero()[0].astype(np.uint32)
            if cut:
                for at in is_cut[here].nonzero()[0].tolist():
                    pieces[count + at] = (cut[1], longest[cut[0]]) if evaluated else (0, cut[1])
            selected.append(here)
            count += len(here)
        return Documents(parts, selected, pieces)

    return Split([chosen(group, evaluated=False) for group in groups], chosen(shards, evaluated=True), 0)


def _hashes(fingerprints: np.ndarray) -> np.ndarray:
    return splitmix64(fingerprints.astype(np.uint64))


def _parts(shard: Shard) -> list[np.ndarray]:
    """The fingerprints in parts, so that computing with them takes little memory."""
    fingerprints = shard.fingerprints
    return [fingerprints[start : start + _PART] for start in range(0, len(fingerprints), _PART)]


def _select(shards: Sequence[Shard], wanted: Callable[[np.ndarray], np.ndarray]) -> Documents:
    """The documents whose fingerprints are wanted."""
    selected: list[np.ndarray | None] = []
    for shard in shards:
        found = [
            wanted(part).nonzero()[0].astype(np.uint32) + np.uint32(i * _PART) for i, part in enumerate(_parts(shard))
        ]
        selected.append(None if sum(map(len, found)) == len(shard) else np.concatenate(found))
    return Documents(shards, selected)


def _checked(split: Split, texts: TextFiles | None, *, fraction: float = 0.0) -> Split:
    """The split, whose documents are named by the files of text that they are from; UserError for one without any.

    fraction: that asked for, if a part may lack text because of it.
    """
    for verb, parts in (("train", split.training), ("evaluate", [split.evaluation])):
        for documents in parts:
            documents.files = list(texts.training) if texts else documents.files
            if not documents.total_tokens and documents.shards:
                is_large = fraction > EVALUATION_FRACTION * NEAR and sum(map(len, documents.shards)) > 1
                if verb == "train" and is_large:
                    raise UserError(
                        f"eval_split: {fraction:g} leaves no document of {listed(documents.files)} to train on; write "
                        f"a smaller fraction, such as {EVALUATION_FRACTION}"
                    )
                raise UserError(
                    f"no text is left to {verb} on, of those in {listed(documents.files)}, which may be a single "
                    "document, or all alike; add documents, cut them into shorter ones, or set eval_split to other "
                    f"{'files' if texts else 'shards'}"
                )
    return split
