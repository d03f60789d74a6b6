"""Turns text into the shards that training reads.

    python3 datasets/encode.py my_texts more.jsonl "notes/*.txt" --out data --encoder encoder

writes data/text_0.tfrecords, data/text_1.tfrecords, ... Inputs are files, folders (searched to the bottom) and
patterns, here or in a bucket, of text, JSON, CSV and Parquet, packed or not (docs/data.md); or python-docs, the
documentation of this Python installation. Several corpora, each with its own shards and weight:

    python3 datasets/encode.py --corpus wiki=wiki_texts:3 --corpus web=crawl/*.jsonl.zst --out data --encoder encoder

Killed at any moment and started again, the same command continues where it stopped.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":  # before the imports that take time
    from estimator import interrupts

    interrupts.exit_quietly()
    from estimator.system import malloc_settings

    malloc_settings.use()

import gc
import glob
import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from estimator import quantities, storage
from estimator.arguments import Parser
from estimator.corpus import archive_names, chat_template, file_search, formats, parts
from estimator.corpus.build import executors, pipeline, to_bucket
from estimator.corpus.build.plan import SPLITS, Corpus, Options
from estimator.corpus.build.workspace import Summary
from estimator.corpus.build.write_shards import SUFFIXES
from estimator.corpus.normalize import NORMAL_FORMS
from estimator.errors import UserError, run_program
from estimator.quantities import numbered
from estimator.storage import user_paths
from estimator.tokenization import tokenizer as tokenizers

# Objects between two searches for garbage in circles, of which nearly none is made here, in workers neither; the usual
# 700 take a twentieth of the time.
GARBAGE = 100_000


def main() -> None:
    arguments = _parser().parse_intermixed_args()
    gc.set_threshold(GARBAGE)
    start = time.perf_counter()
    encoder = _with_chat_tokens(arguments.encoder, arguments.out) if arguments.chat else arguments.encoder
    made = to_bucket.encode(
        _corpora(arguments.inputs, arguments.corpus, name=arguments.name),
        Options(
            kind=f"chat-{arguments.chat}" if arguments.chat else formats.PLAIN,
            reading=parts.reading_from(arguments),
            fix_text=arguments.fix_text,
            normalize=arguments.normalize,
            min_tokens=arguments.min_tokens,
            drop_exact_duplicates=arguments.exact_duplicates == "drop",
            drop_near_duplicates=arguments.near_duplicates == "drop",
            split=_split(arguments.split),
            shuffle=arguments.order == "shuffled",
            seed=arguments.seed,
            shard_tokens=arguments.shard_tokens,
            format=arguments.format,
            compress=arguments.gzip,
            skip_faults=arguments.on_error == "skip",
            task_bytes=arguments.task_bytes,
        ),
        encoder=encoder,
        out=arguments.out,
        executor=executors.from_arguments(arguments),
        overwrite=arguments.overwrite,
        work=arguments.work,
    )
    if made is not None:
        seconds = time.perf_counter() - start
        _report(made, seconds=seconds, out=arguments.out, encoder=encoder, is_chat=bool(arguments.chat))
    elif not arguments.slurm_script:
        print(f"submitted; when the last job has ended, the shards are in {arguments.out}")


def _with_chat_tokens(encoder: str, out: str) -> str:
    """The folder of a vocabulary with the tokens of the chat template: this one, or one made next to the shards."""
    tokenizer = tokenizers.load(encoder)
    if chat_template.is_for_chats(tokenizer):
        return encoder
    if storage.is_remote(out):
        raise UserError(f"{encoder}: the vocabulary lacks the tokens of chats; encode to a folder here to add them")
    larger = chat_template.extended(tokenizer)
    folder = Path(out) / "encoder"
    larger.save(folder)
    print(f"vocabulary       {folder}: {encoder} with the tokens of chats; n_vocab {larger.n_vocab} or more")
    return str(folder)


def _corpora(inputs: list[str], named: list[str], *, name: str) -> list[Corpus]:
    """The inputs as one corpus, or those that are given by NAME=PATH[:WEIGHT]; of one name, together."""
    if not named and not inputs:
        raise UserError("no input: name files, folders or patterns of text, or python-docs")
    if not named:
        return [Corpus(name, tuple(inputs))]
    if inputs:
        raise UserError("give inputs either alone or each by --corpus NAME=PATH[:WEIGHT], not both")
    corpora: dict[str, Corpus] = {}
    for entry in named:
        key, equals, path = entry.partition("=")
        if not (key and equals and path):
            raise UserError(f"--corpus {entry}: not NAME=PATH or NAME=PATH:WEIGHT")
        before, colon, last = path.rpartition(":")
        weight = 1.0
        if colon and _is_number(last):
            path, weight = before, float(last)
        if not weight > 0:
            raise UserError(f"--corpus {entry}: the weight must be above 0")
        known = corpora.get(key, Corpus(key, (), weight))
        corpora[key] = known._replace(inputs=(*known.inputs, user_paths.argument(path)), weight=weight)
    return list(corpora.values())


def _is_number(text: str) -> bool:
    try:
        return float(text) < float("inf")
    except ValueError:
        return False


def _split(text: str) -> tuple[float, float]:
    """Fractions of the documents to evaluate on and to test on, from valid=0.01,test=0.01."""
    fractions = dict.fromkeys(SPLITS[1:], 0.0)
    for entry in filter(None, text.split(",")):
        name, _, fraction = entry.partition("=")
        if name not in fractions or not _is_number(fraction):
            raise UserError(f"--split {text}: not like valid=0.01,test=0.01")
        fractions[name] = float(fraction)
    return fractions["valid"], fractions["test"]


def _report(made: list[Summary], *, seconds: float, out: str, encoder: str, is_chat: bool) -> None:
    count, tokens, size = (sum(getattr(each, key) for each in made) for key in ("documents", "tokens", "bytes"))
    skipped: Counter[str] = Counter()
    noted: Counter[str] = Counter()
    for each in made:
        if each.split == SPLITS[0]:
            skipped.update(each.skipped)
            noted.update(each.noted)
    for line in archive_names.warnings(archive_names.notes(noted)):
        print(line, file=sys.stderr)
    noted = Counter(archive_names.without_notes(noted))
    print(f"documents        {count:,}")
    print(f"skipped          {file_search.listed(skipped) or 'none'}")
    if noted:
        print(f"noted            {file_search.counted(noted)}")
    print(f"tokens           {tokens:,}")
    print(f"text             {quantities.size(size)} in {seconds:.1f} s, {quantities.size(size / seconds)}/s")
    print(f"bytes per token  {size / tokens:.3f}")
    for each in made:
        shards = f"{numbered(len(each.shards), 'shard')} of {numbered(each.tokens, 'token')}"
        print(f"written          {shards}: {', '.join(_ends(each.shards))}")
    print(f"in the JSON file {json.dumps(_keys(made, out=out, encoder=encoder, is_chat=is_chat))[1:-1]}")


def _keys(made: list[Summary], *, out: str, encoder: str, is_chat: bool) -> dict[str, Any]:
    """The keys of a file that trains on the shards: on each corpus by its weight, where there are several."""
    keys: dict[str, Any] = {"input": "chat" if is_chat else "packed", "data_path": out, "encoder_path": encoder}
    keys["n_vocab"] = pipeline.vocabulary(encoder).n_vocab
    training = [each for each in made if each.split == SPLITS[0] and each.shards]
    if len(training) > 1 and not is_chat:
        keys["dataset"] = [[_patterns(each, made), each.weight] for each in training]
    return keys


def _patterns(corpus: Summary, made: list[Summary]) -> list[str]:
    """Of the shards of a corpus, for training and evaluation, and of no other that begins in the same way."""
    names = {each.name for each in made if each.split == SPLITS[0]}
    literal = glob.escape(corpus.name)
    if not any(name.startswith(f"{corpus.name}_") for name in names):
        return [f"{literal}_*"]
    valid = f"{corpus.name}_{SPLITS[1]}"
    held_out = (f"{literal}_{SPLITS[1]}_*" for each in made if each.name == valid and each.shards)
    return [f"{literal}_[0-9]*", *held_out]


def _ends(paths: Sequence[Path | str]) -> list[str]:
    """The first and the last of many."""
    names = [str(path) for path in paths]
    return names if len(names) < 4 else [names[0], "...", names[-1]]


def _parser() -> Parser:
    defaults = Options._field_defaults
    parser = Parser(__doc__)
    add = parser.add_argument
    add("inputs", nargs="*", type=user_paths.argument, metavar="INPUT", help="file, folder, pattern, or python-docs")
    add(
        "--corpus",
        type=str,
        action="append",
        default=[],
        metavar="NAME=PATH[:WEIGHT]",
        help="shards NAME_*; may be repeated",
    )
    to_bucket.add_arguments(parser)
    add("--name", default="text", help="the shards are NAME_0.tfrecords and so on (%(default)s)")
    add("--overwrite", action="store_true", help="replace shards of this name, also complete ones")
    what = parser.add_argument_group("input and selection")
    add = what.add_argument
    parts.add_arguments(what)
    add("--chat", choices=("other", "me"), help="inputs are chats (docs/chat.md); the assistant's side of a history")
    add("--fix_text", action="store_true", help="repair characters that were decoded wrongly, with ftfy")
    add("--normalize", choices=NORMAL_FORMS, help="a Unicode normal form, such as NFKC")
    add(
        "--min_tokens",
        type=int,
        default=defaults["min_tokens"],
        metavar="N",
        help="skip shorter documents (%(default)s)",
    )
    add(
        "--exact_duplicates",
        choices=("drop", "keep"),
        default="drop",
        help="texts equal to an earlier one (%(default)s)",
    )
    add("--near_duplicates", choices=("drop", "keep"), default="keep", help="texts that are nearly equal (%(default)s)")
    add(
        "--on_error",
        choices=("fail", "skip", "stop"),
        default="fail",
        help="on unreadable text: fail (stop is the same), or skip and count it (%(default)s)",
    )
    how = parser.add_argument_group("how it is written")
    add = how.add_argument
    add("--split", default="", metavar="valid=F,test=F", help="fractions of the documents for evaluation and tests")
    add("--order", choices=("shuffled", "input"), default="shuffled", help="order of the documents (%(default)s)")
    add(
        "--seed",
        type=int,
        default=defaults["seed"],
        metavar="N",
        help="random seed of the order (%(default)s)",
    )
    add("--shard_tokens", type=int, default=defaults["shard_tokens"], metavar="N", help="size of a shard (%(default)s)")
    add("--format", choices=tuple(SUFFIXES), default=defaults["format"], help="format of the shards (%(default)s)")
    add("--gzip", action="store_true", help="compress the shards")
    add("--task_bytes", type=int, default=defaults["task_bytes"], metavar="N", help="input of a task (%(default)s)")
    executors.add_arguments(parser)
    return parser


if __name__ == "__main__":
    run_program(main)
