"""Text named in a JSON file, ready for training: its vocabulary and shards, made in a cache once and found there."""

import contextlib
import errno
import functools
import itertools
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from estimator.corpus import archive_names, archive_parts, chat_template, file_search
from estimator.corpus import documents as corpus
from estimator.corpus.build import cache_records
from estimator.corpus.build.cache_records import OPTIONS, Fingerprint
from estimator.corpus.build.executors import Executor
from estimator.corpus.build.pipeline import encode
from estimator.corpus.build.plan import Corpus, Options
from estimator.corpus.build.workspace import Summary
from estimator.corpus.formats import KINDS
from estimator.corpus.parts import Part
from estimator.errors import UserError, of_key
from estimator.quantities import numbered, size
from estimator.storage import cache_root, locks
from estimator.tokenization import tokenizer as tokenizers
from estimator.tokenization.tokenizer import Tokenizer
from estimator.tokenization.train_bpe import SMALLEST, NothingToLearnError, train_byte_bpe
from estimator.tokenization.vocab_files import split_at

EXECUTOR = Executor(workers=1)


class Prepared(NamedTuple):
    """Text ready for training: its shards, the folder of their vocabulary, and shards of text that is held out.

    folder: the cache of the shards. texts: the files of text of the shards, and those that are held out.
    """

    shards: list[Path]
    encoder: Path
    folder: Path
    held_out: Sequence[Path] = ()
    texts: tuple[Sequence[str], Sequence[str]] = ((), ())


def folder_for(cache: Path, *options: Any) -> Path:
    """A folder for each choice of text and vocabulary: runs that share a cache do not undo each other's work."""
    return cache / f"text-{sha256(json.dumps(options).encode()).hexdigest()[:12]}"


def learnt_vocabulary(folder: Path) -> Path:
    """Where `prepare_text` keeps the vocabulary that it learns."""
    return folder / "encoder"


def smallest_vocabulary(options: Options) -> int:
    """Entries of the smallest vocabulary that is learned from text."""
    return SMALLEST + len(KINDS[options.kind].special_tokens) + len(options.reading.special)


def load_vocabulary(path: str, *, n_vocab: int) -> Tokenizer:
    """The vocabulary in a folder; UserError when a model of n_vocab has no room for it."""
    with of_key("encoder_path"):
        tokenizer = tokenizers.load(path)
    if tokenizer.n_vocab > n_vocab:
        raise UserError(
            f"n_vocab is {n_vocab}, but the vocabulary in {path} has {tokenizer.n_vocab} entries; "
            f"set n_vocab to {tokenizer.n_vocab} or more"
        )
    return tokenizer


def prepare_split(
    data_path: Sequence[str],
    held_out: Sequence[str],
    *,
    n_vocab: int,
    encoder_path: str | None,
    cache: Path,
    options: Options = OPTIONS,
    own: Path | None = None,
    held_out_by: str = "eval_split",
) -> Prepared:
    """`prepare_text` for the files of data_path, and apart from it for those among them that are held out, if any.

    held_out_by: the key that errors name for these.
    """
    left_out: Counter[str] = Counter()
    files, apart = _found(data_path, held_out, options, left_out)
    if not files:
        raise UserError("eval_split: takes all files of data_path; leave some to train on, or give a fraction: 0.05")
    with _named("data_path"):
        made = prepare_text(
            files, n_vocab=n_vocab, encoder_path=encoder_path, cache=cache, options=options, left_out=left_out, own=own
        )
    made = made._replace(texts=(files, apart))
    if not apart:
        return made
    # The run's own vocabulary, as the one in the folder is that of the last new run.
    encoder, cache = str(own if own and encoder_path is None else made.encoder), made.folder / "evaluation"
    with _named(held_out_by):
        other = prepare_text(apart, n_vocab=n_vocab, encoder_path=encoder, cache=cache, options=options)
    return made._replace(held_out=other.shards)


@contextlib.contextmanager
def _named(key: str) -> Iterator[None]:
    """Puts the key that names files without text in front of the error."""
    try:
        yield
    except corpus.NoTextError as error:
        raise UserError(f"{key}: {error}") from None


def find(key: str, paths: Sequence[str], options: Options, left_out: Counter[str] | None = None) -> list[str]:
    """`file_search.find` for the paths of a key of the JSON file, which its errors name."""
    with of_key(key):
        return file_search.find(paths, reading=options.looked_for(), left_out=left_out)


def _found(
    data_path: Sequence[str], held_out: Sequence[str], options: Options, left_out: Counter[str]
) -> tuple[list[str], list[str]]:
    """The files of data_path that are not held out, and those that are."""
    files = find("data_path", data_path, options, left_out)
    apart = find("eval_split", held_out, options, left_out) if held_out else []
    # An archive of which one key names a part is taken in parts in the other one too.
    divided = {file_search.real(archive) for file in files + apart if (archive := archive_parts.archive_of(file))}
    files, apart = _in_parts(files, divided), _in_parts(apart, divided)
    hidden = set(map(file_search.real, apart))
    return [file for file in files if file_search.real(file) not in hidden], apart


def _in_parts(files: Sequence[str], archives: Collection[str]) -> list[str]:
    """The files, each once, and the parts of some archives in their places."""
    parts = (
        itertools.chain(*archive_parts.by_name([file])) if file_search.real(file) in archives else [file]
        for file in files
    )
    return list(dict.fromkeys(itertools.chain.from_iterable(parts)))


def is_split_prepared(
    data_path: Sequence[str], held_out: Sequence[str], *, cache: Path, own: Path | None, **facts: Any
) -> bool:
    """Whether the cache holds what `prepare_split` makes. own, facts: its other arguments."""
    files, apart = _found(data_path, held_out, facts["options"], Counter())
    if not is_prepared(files, cache=cache, **facts) or (
        apart and not is_prepared(apart, cache=cache / "evaluation", **facts)
    ):
        return False
    if facts["encoder_path"] is not None or own is not None:
        return True
    fingerprint = cache_records.fingerprint_of(files, vocabulary_of=facts["n_vocab"], options=facts["options"])
    accepted = [fingerprint, cache_records.with_faults(fingerprint)]
    return cache_records.is_learned(cache, accepted, tokenizers.digest_in(learnt_vocabulary(cache)))


def is_prepared(
    data_path: Sequence[str], *, n_vocab: int, encoder_path: str | None, cache: Path, options: Options = OPTIONS
) -> bool:
    """Whether the cache holds these files as one corpus, as versions before names of files counted made it."""
    files = cache_records.files(cache)
    if files is None:
        return False
    given = None if encoder_path is None else load_vocabulary(encoder_path, n_vocab=n_vocab)
    paths, vocabulary = find("data_path", data_path, options), n_vocab if given is None else given.digest
    return files == cache_records.fingerprint_of(paths, vocabulary_of=vocabulary)["files"]


def prepare_text(
    data_path: str | Sequence[str],
    *,
    n_vocab: int,
    encoder_path: str | None,
    cache: Path,
    options: Options = OPTIONS,
    left_out: Mapping[str, int] = MappingProxyType({}),
    own: Path | None = None,
) -> Prepared:
    """The shards and the vocabulary for text named in a JSON file: made in the folder `cache` once, then found there.

    data_path: as for `file_search.find`. n_vocab: of the model. encoder_path: the vocabulary; when it is None, one of
    at most n_vocab entries is trained on this text. own: the vocabulary of a run that has begun, which is used then,
    whatever text it was learned from.
    options: the special tokens that their kind of files needs are added to the vocabulary.
    left_out: what data_path lacks of a folder, by reason, which is shown when the text is read.
    The shards are rebuilt when a file, an option or the vocabulary changes.
    Several processes may ask for the same cache simultaneously, and any of them may be killed at any time.
    In a read-only place a cache that will not do is left as it is, and one of the user's is used.
    """
    special, smallest = KINDS[options.kind].special_tokens, smallest_vocabulary(options)
    if encoder_path is None and n_vocab < smallest:
        raise UserError(f"n_vocab is {n_vocab}, but a vocabulary trained on text has at least {smallest} entries")
    given = load_vocabulary(encoder_path, n_vocab=n_vocab) if encoder_path is not None else None
    paths = file_search.find(data_path, reading=options.looked_for())
    vocabulary = n_vocab if given is None else given.digest
    fingerprint = cache_records.fingerprint_of(paths, vocabulary_of=vocabulary, options=options)
    kept = tokenizers.load(own) if own is not None and given is None else None
    made_here = given is None or bool(special)
    source = paths[0] if len(paths) == 1 else numbered(len(paths), "file")
    with contextlib.ExitStack() as held:
        is_writable = held.enter_context(_locked(cache))
        digest = tokenizers.digest_in(learnt_vocabulary(cache)) if made_here else None
        if kept and digest not in (None, kept.digest):
            held.close()  # new runs have learned another there, maybe while this process waited
            cache = folder_for(cache.parent, cache.name, kept.digest)
            is_writable = held.enter_context(_locked(cache))
            digest = tokenizers.digest_in(learnt_vocabulary(cache))
        encoder = learnt_vocabulary(cache) if made_here else Path(str(encoder_path))
        if kept and digest != kept.digest and is_writable:
            _put(kept, encoder)
            digest = kept.digest
        accepted = _accepted(cache, fingerprint, paths, source, options, is_writable=is_writable)
        is_learned = given is not None or kept or cache_records.is_learned(cache, accepted, digest)
        learns = is_writable and not is_learned
        shards = cache_records.shards(cache, accepted, needs_encoder=made_here, digest=digest)
        if shards is None and not is_writable:
            return prepare_text(
                paths, n_vocab=n_vocab, encoder_path=encoder_path, cache=_writable(cache), options=options,
                left_out=left_out, own=own,
            )  # fmt: skip
        if shards is None:
            cache_records.forget_shards(cache)
            if left_out:
                print(f"left out of data_path: {file_search.listed(left_out)}", flush=True)
            if kept:
                print(f"keeping the run's vocabulary ({own}); a run in another folder learns its own", flush=True)
        if learns and _learn(paths, source, fingerprint, n_vocab=n_vocab, cache=cache, options=options):
            shards = None
        if shards is None:
            if special and given is not None:
                _put(chat_template.extended(given, n_vocab=n_vocab), encoder)
            summary = _encode(paths, source, str(encoder), out=cache / "shards", options=options)
            shards, skipped = list(map(Path, summary.shards)), summary.skipped if options.skip_faults else ()
            undivided = archive_names.notes(summary.noted)
            cache_records.write_prepared(cache, fingerprint, shards, skipped, undivided)
    return Prepared(shards, encoder, cache)


def _writable(cache: Path) -> Path:
    """A cache of this user in the place of one in a read-only place."""
    root = cache_root.root()
    if cache.parent == root:
        raise UserError(f"{cache}: nothing can be written there; set GPT2_CACHE to a folder for prepared text")
    place = folder_for(root, str(cache.absolute()))
    print(f"nothing can be written in {cache}: the text is prepared in {place}", flush=True)
    return place


def _put(vocabulary: Tokenizer, folder: Path) -> None:
    """Saves a vocabulary in its folder, unless an equal one is in it."""
    if tokenizers.digest_in(folder) == vocabulary.digest:
        return
    vocabulary.save(folder)
    if tokenizers.digest_in(folder) != vocabulary.digest:  # next to the files of another kind
        shutil.rmtree(folder)
        vocabulary.save(folder)


def _accepted(
    cache: Path, fingerprint: Fingerprint, paths: list[str], source: str, options: Options, *, is_writable: bool
) -> list[Fingerprint]:
    """The fingerprints of caches that will do: skipping faults makes no difference for a text without any.

    Raises UserError for a fault in the text, where the cache was made by a run that skips them and leaves out some.
    """
    both = [fingerprint, cache_records.with_faults(fingerprint)]
    if options.skip_faults or not cache_records.is_with_faults(cache, fingerprint):
        return both if options.skip_faults else both[:1]
    print(f"reading {source}, as the run that made {cache} may have skipped faults in it", flush=True)
    read = functools.partial(KINDS[options.kind].documents_of, reading=options.reading)
    for path in paths:
        for _ in read(Part(path), on_fault=options.fault_handler(Counter())):
            pass
    if is_writable:  # otherwise each run reads it
        cache_records.mark_faultless(cache, fingerprint)
    return both


def chat_vocabulary(encoder_path: str | None, *, n_vocab: int, cache: Path) -> Path:
    """Where `prepare_text` keeps the vocabulary of chats; made again, if need be, from the one in encoder_path."""
    folder = learnt_vocabulary(cache)
    if encoder_path:
        _put(chat_template.extended(load_vocabulary(encoder_path, n_vocab=n_vocab), n_vocab=n_vocab), folder)
    return folder


def _learn(
    paths: list[str], source: str, fingerprint: Fingerprint, *, n_vocab: int, cache: Path, options: Options
) -> bool:
    """Trains a vocabulary and notes its text; whether it differs from the one before."""
    folder = learnt_vocabulary(cache)
    before = tokenizers.digest_in(folder)
    if before is not None and not cache_records.is_noted(cache):
        print(f"learning the vocabulary again, as nothing says which text {folder} was learned from", flush=True)
    print(f"learning a vocabulary of {n_vocab} entries from {source}", flush=True)
    of = KINDS[options.kind]
    left_out: Counter[str] = Counter()
    read = functools.partial(of.documents_of, reading=options.reading, on_fault=options.fault_handler(left_out))
    names = options.reading.special
    texts = (of.words(each.text) for path in paths for each in read(Part(path)))
    words = (
        ("\n".join(part for part in split_at(text, names) if part not in names) for text in texts) if names else texts
    )
    with tempfile.TemporaryDirectory(prefix="gpt2-vocabulary-") as temporary:
        out = Path(temporary)
        try:
            learned = train_byte_bpe(words, n_vocab=n_vocab - len(of.special_tokens), out=out, special_tokens=names)
        except NothingToLearnError:
            raise corpus.no_text(paths, left_out) from None
    if of.special_tokens:
        learned = chat_template.extended(learned, n_vocab=n_vocab)
    if is_other := before != learned.digest:
        cache_records.forget_shards(cache)
        if before is not None:  # runs of older versions have no copy of their own
            place = learnt_vocabulary(folder_for(cache.parent, cache.name, before))
            _put(tokenizers.load(folder), place)
        _put(learned, folder)
    cache_records.write_learned(cache, fingerprint, learned.digest, left_out if options.skip_faults else ())
    return is_other


def _encode(paths: list[str], source: str, encoder: str, *, out: Path, options: Options) -> Summary:
    print(f"encoding {source} into {out}, which later runs will find there", flush=True)
    made = encode([Corpus("text", tuple(paths))], options, encoder=encoder, out=out, executor=EXECUTOR, quiet=True)
    assert made
    (summary,) = made
    print(
        f"encoded {numbered(summary.documents, 'document')}, {size(summary.bytes)}, into "
        f"{numbered(summary.tokens, 'token')}, {summary.bytes / summary.tokens:.2f} bytes per token",
        flush=True,
    )
    if counts := summary.skipped | archive_names.without_notes(summary.noted):
        print(f"left out or noted: {file_search.counted(counts)}", flush=True)
    return summary


@contextlib.contextmanager
def _locked(cache: Path) -> Iterator[bool]:
    """Lets one process at a time prepare a cache; False for one in a read-only place, which can only be read."""
    with contextlib.ExitStack() as stack:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locks.exclusive(cache / "lock", f"another process is preparing {cache}", wait=True))
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES) or not (cache / "lock").is_file():
                raise
            yield False
            return
        yield True
