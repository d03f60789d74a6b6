"""Text named in a JSON file, in the place of shards: the shards and vocabulary made of it, which are kept in a cache.

config: the configuration of the data everywhere (`data.config.InputConfig`).
"""

import contextlib
import itertools
import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from estimator import quantities
from estimator.corpus import archive_names, archive_parts, chat_template, file_search, split_names
from estimator.corpus import documents as corpus
from estimator.corpus.build import cache_records, text_cache
from estimator.corpus.build.plan import Options
from estimator.corpus.formats import KINDS, PLAIN
from estimator.corpus.parts import Part, Reading
from estimator.data import input_groups, named_in_configs, remote_data, split_folders
from estimator.data.config import InputConfig
from estimator.data.splits import TextFiles
from estimator.errors import UserError, of_key
from estimator.format_version import NEWEST_SPLIT, SplitRules
from estimator.quantities import numbered
from estimator.shards import discovery
from estimator.storage import cache_root
from estimator.tokenization import tokenizer as tokenizers

LOOKED_INTO = 50  # files, and documents of each, that `look` reads


def is_text(config: InputConfig) -> bool:
    """Whether text is named, and not shards."""
    if config.input != "chat":
        return config.input == "text"
    by_folders, _ = split_folders.divided(config)  # shards may be in folders called train and valid
    return not any(discovery.named(input_groups.as_list(each.data_path)) for each in (config, by_folders))


def prepared(
    config: InputConfig, *, n_vocab: int, folder: Path, own: Path | None = None, rules: SplitRules = NEWEST_SPLIT
) -> tuple[InputConfig, list[str], TextFiles]:
    """The configuration, with shards and vocabulary made of the text, in `folder`, in their places; notes; the files.

    own: the vocabulary of a run that has begun. rules: by which names divide the text; those of the oldest versions
    only with their cache of it.
    """
    files, held_out, notes, facts = _split(config, n_vocab=n_vocab, folder=folder, rules=rules)
    key = "data_path" if notes else "eval_split"  # notes are on names
    made = text_cache.prepare_split(files, held_out, own=own, held_out_by=key, **facts)
    found: dict[str, Any] = {"data_path": list(map(str, made.shards)), "encoder_path": str(made.encoder)}
    if held_out:
        found["eval_split"] = list(map(str, made.held_out))
    notes = notes + _on_archives(config, files, cache_records.undivided(made.folder))
    return config.model_copy(update=found), notes, TextFiles(*made.texts)


def is_prepared(
    config: InputConfig, *, n_vocab: int, cache: Path, vocabulary: Path | None, rules: SplitRules = NEWEST_SPLIT
) -> bool:
    """Whether the cache holds all that `prepared` makes of the text as it is now. vocabulary: the run's own."""
    with contextlib.suppress(UserError, OSError):  # without the text
        place = folder(config, n_vocab=n_vocab, cache=cache)
        if vocabulary:
            config, place = with_vocabulary(config, vocabulary, folder=place)
        files, held_out, _, facts = _split(config, n_vocab=n_vocab, folder=place, rules=rules)
        return text_cache.is_split_prepared(files, held_out, own=vocabulary, **facts)
    return False


def _split(
    config: InputConfig, *, n_vocab: int, folder: Path, rules: SplitRules
) -> tuple[list[str], list[str], list[str], dict[str, Any]]:
    """The files to train on, those to evaluate on if any are named, notes on them, and the facts of `text_cache`.

    rules: by which names divide the text. A cache by those of an earlier version is not replaced by one by newer ones.
    """
    rule = config.eval_split
    held_out = input_groups.joined(config, "eval_split", rule) if input_groups.is_patterns(rule) else []
    files, options = input_groups.as_list(config.data_path), _options(config)
    facts = {"n_vocab": n_vocab, "encoder_path": config.encoder_path, "cache": folder, "options": options}
    if held_out:
        return files, held_out, [], facts
    earlier = _earlier_split(config, facts)
    if earlier and rules == SplitRules.FOLDERS:
        return *earlier, facts
    evaluates, rules = config.eval_split is None, max(rules, SplitRules.FILES)
    training, held_out, notes = _named(files, options, evaluates=evaluates, rules=rules)
    if not earlier and any(map(archive_parts.archive_of, training)):  # archives that earlier versions did not divide
        before, *_ = _named(files, options, evaluates=evaluates, rules=SplitRules.FILES)
        earlier = before != training and text_cache.is_prepared(before, **facts)
    if earlier and notes and not text_cache.is_prepared(training, **facts):
        facts["cache"] = text_cache.folder_for(folder.parent, folder.name, "by names")
    return training, held_out, notes, facts


def _earlier_split(config: InputConfig, facts: dict[str, Any]) -> tuple[list[str], list[str], list[str]] | None:
    """What the cache holds, if it is the text as an earlier version divided it; None if it is not."""
    files = input_groups.as_list(config.data_path)
    if text_cache.is_prepared(files, **facts):  # which did not look at names
        return files, [], []
    by_folders, notes = split_folders.divided(config)
    training = input_groups.as_list(by_folders.data_path)
    if notes and text_cache.is_prepared(training, **facts):
        # Which looked at the names of two folders, and left out others next to them.
        part = by_folders.eval_split
        return training, list(map(str, part)) if isinstance(part, list) and config.eval_split is None else [], notes
    return None


def _named(
    paths: list[str], options: Options, *, evaluates: bool, rules: SplitRules
) -> tuple[list[str], list[str], list[str]]:
    """The files to train on, those to evaluate on by their names, and a line that says so.

    evaluates: False where eval_split selects the evaluation data, so that the names only exclude files from training.
    """
    by_name = archive_parts.by_name if rules == SplitRules.MEMBERS else split_names.by_name
    parts = by_name(text_cache.find("data_path", paths, options))
    if not parts.training:
        return paths, [], []
    held_out = (parts.evaluation or parts.test) if evaluates else []
    unused = [file for file in parts.evaluation + parts.test if file not in held_out]
    uses = ((held_out, "not trained on, but evaluated on"), (unused, "not used"))
    lines = [f"{split_names.listed(files)}: {use}" for files, use in uses if files]
    return [*parts.training, *parts.others], held_out, [f"by their names, {'; '.join(lines)}"]


def look(config: InputConfig) -> tuple[int, str]:
    """Bytes of the files of text, and a line on them; reads the beginning of the first files, prepares nothing.

    Raises UserError where data_path or a file's beginning would end the preparation.
    """
    named_in_configs.check(config.data_path)
    options = _options(config)
    files = text_cache.find("data_path", input_groups.as_list(config.data_path), options)
    left_out: Counter[str] = Counter()
    read = partial(KINDS[options.kind].documents_of, reading=options.reading, on_fault=options.fault_handler(left_out))
    found = sum(1 for path in files[:LOOKED_INTO] for _ in itertools.islice(read(Part(path)), LOOKED_INTO))
    if not found and len(files) <= LOOKED_INTO:
        with of_key("data_path"):
            raise corpus.no_text(files, left_out)
    total = sum(os.path.getsize(path) for path in files if os.path.isfile(path))
    names = files[0] if len(files) == 1 else numbered(len(files), "file")
    size = f", {quantities.size(total)}" if total else ""  # python-docs and remote files have none here
    return total, f"text: {names}{size}"


def warnings(config: InputConfig, *, rules: SplitRules = NEWEST_SPLIT) -> list[str]:
    """Lines on archives that are trained on as a whole, for text that is not prepared."""
    options = _options(config)
    files, *_ = _named(
        input_groups.as_list(config.data_path), options, evaluates=config.eval_split is None, rules=rules
    )
    return _on_archives(config, files, None)


def _on_archives(config: InputConfig, files: list[str], undivided: list[str] | None) -> list[str]:
    """Lines on the archives among the files to train on. undivided: the notes on them, if they have been read."""
    if isinstance(config.eval_split, str | list):  # which says all that is held out
        return []
    if undivided is None:
        undivided = archive_names.look(text_cache.find("data_path", files, _options(config)))
    return archive_names.warnings(undivided)


def smallest_vocabulary(config: InputConfig) -> int:
    """Entries of the smallest vocabulary that is learned from text, with the special tokens of its kind."""
    return text_cache.smallest_vocabulary(_options(config))


def check_vocabulary(config: InputConfig, *, n_vocab: int) -> None:
    """UserError if encoder_path names no vocabulary, or one that is too large."""
    if config.encoder_path is not None:
        text_cache.load_vocabulary(remote_data.local_encoder(config.encoder_path, config), n_vocab=n_vocab)


def encoder_path(config: InputConfig, *, n_vocab: int, cache: Path) -> Path:
    """The folder of the vocabulary that belongs to the data: the one named or learned, for chats with their tokens."""
    if config.input == "chat":
        given = remote_data.local_encoder(config.encoder_path, config) if config.encoder_path else None
        return text_cache.chat_vocabulary(given, n_vocab=n_vocab, cache=folder(config, n_vocab=n_vocab, cache=cache))
    if config.encoder_path is not None:
        return Path(remote_data.local_encoder(config.encoder_path, config))
    if config.input == "text":
        return text_cache.learnt_vocabulary(folder(config, n_vocab=n_vocab, cache=cache))
    raise UserError(
        "encoder_path: missing; name the folder of the vocabulary that the shards were made with; characters "
        "(nanoGPT's meta.pkl) have none: to generate, train on their text (see docs/data.md)"
    )


def with_vocabulary(config: InputConfig, vocabulary: Path, *, folder: Path) -> tuple[InputConfig, Path]:
    """The configuration and folder of the text with a run's own vocabulary in the place of the one named or learned."""
    own = tokenizers.load(vocabulary).digest
    other = text_cache.folder_for(folder.parent, folder.name, own)
    if is_text(config) and config.encoder_path is None:
        # `folder` is for the vocabulary learned from this text, which new runs use.
        return config, folder if tokenizers.digest_in(text_cache.learnt_vocabulary(folder)) == own else other
    if is_text(config):
        named = _named_vocabulary(config)
        if config.input == "chat" and named == own:
            return config, folder
        if named != own and (config.input == "chat" or named is not None):
            folder = other  # new runs have the one that is named now
    return config.model_copy(update={"encoder_path": str(vocabulary)}), folder


def is_of_vocabulary(config: InputConfig, own: Path) -> bool:
    """Whether a run with the vocabulary in encoder_path, with the tokens of chats for them, has `own`."""
    named = _named_vocabulary(config)
    return named is not None and named == tokenizers.digest_in(own)


def named_vocabulary(config: InputConfig) -> tokenizers.Tokenizer:
    """The vocabulary in encoder_path, with the tokens of chats for them."""
    given = tokenizers.load(remote_data.local_encoder(str(config.encoder_path), config))
    return chat_template.extended(given) if config.input == "chat" else given


def _named_vocabulary(config: InputConfig) -> str | None:
    """The digest of the vocabulary in encoder_path; None where none can be read."""
    with contextlib.suppress(UserError, OSError):
        return named_vocabulary(config).digest
    return None


def folder(config: InputConfig, *, n_vocab: int, cache: Path) -> Path:
    """Where all that is made of the text is kept."""
    patterns = config.eval_split if input_groups.is_patterns(config.eval_split) else None
    options = _options(config)
    changed, kind = cache_records.changed(options), options.identity()["kind"]
    changed.pop("kind", None)
    more = [*([] if kind == PLAIN else [kind]), *([changed] if changed else [])]
    as_written = text_cache.folder_for(cache, config.data_path, patterns, config.encoder_path, n_vocab, *more)
    if os.path.isdir(as_written):  # of older versions, which told the spellings of a path apart
        return as_written
    paths, encoder = [file_search.real(path) for path in input_groups.as_list(config.data_path)], config.encoder_path
    own = text_cache.folder_for(cache, paths, patterns, encoder and file_search.real(encoder), n_vocab, *more)
    # Next to a run in a read-only place nothing can be prepared, as for an evaluation of a run that was moved there.
    return own if os.path.isdir(own) or _is_writable(cache) else cache_root.root() / own.name


def _is_writable(folder: Path) -> bool:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return os.access(existing, os.W_OK)


def reading(config: InputConfig) -> Reading:
    """How documents are found in files."""
    keys = [config.text_key] if isinstance(config.text_key, str) else config.text_key or ["text"]
    found = Reading(tuple(keys), config.separator, config.documents or "file", config.text_encoding or "utf-8")
    return found._replace(special=tuple(config.special or ()))


def _options(config: InputConfig) -> Options:
    """How the files become documents."""
    kind = f"chat-{config.chat_voice or 'other'}" if config.input == "chat" else config.text_format or PLAIN
    return text_cache.OPTIONS._replace(kind=kind, reading=reading(config), skip_faults=config.on_error == "skip")
