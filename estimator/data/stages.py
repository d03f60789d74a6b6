"""The four stages between the keys of the JSON file and windows of tokens: resolve, open, split, sample.

`inputs.open_data` runs them. None of them knows which input functions exist.
"""

import functools
import math
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from estimator.corpus.build import text_cache
from estimator.corpus.chat_template import Template
from estimator.data import (
    compatibility,
    input_groups,
    named_in_configs,
    remote_data,
    split_folders,
    splits,
    system_message,
    text_input,
)
from estimator.data.chat_packing import ChatTokens, ChatWindows
from estimator.data.config import InputConfig
from estimator.data.mixture import Mixture, block_counts
from estimator.data.samplers import RandomWindows, SentenceWindows, StitchedWindows
from estimator.data.segment_ids import Segmented, shorter_contexts
from estimator.data.splits import ShardGroup, Split
from estimator.data.system_message import SystemMessage
from estimator.data.token_stream import Dataset, Documents, EvaluationWindows, PackedDataset
from estimator.errors import UserError
from estimator.format_version import NEWEST_SPLIT, SplitRules
from estimator.shards import discovery, token_bins
from estimator.shards.shard import Shard
from estimator.tokenization.sentence_ends import sentence_ends
from estimator.tokenization.tokenizer import Tokenizer

GPT2_END_OF_TEXT = 50256


class Sources(NamedTuple):
    """The files of a configuration.

    config: with local copies of remote files, and with shards where text was named. held_out: files to evaluate on,
    or a fraction of the documents. notes: lines for the console. texts: of which shards in the cache were made.
    """

    config: InputConfig
    groups: list[ShardGroup]
    held_out: list[Path] | float
    notes: list[str]
    texts: splits.TextFiles | None = None

    @property
    def files(self) -> list[Path]:
        """All files, each once."""
        held_out = [] if isinstance(self.held_out, float) else self.held_out
        return list(dict.fromkeys([*(path for group in self.groups for path in group.files), *held_out]))


class OpenShards(NamedTuple):
    """Open shards by file, all made with one vocabulary.

    tokenizer: None if no folder is named; digest: of the vocabulary, None if it is unknown.
    """

    shards: dict[Path, Shard]
    tokenizer: Tokenizer | None
    digest: str | None
    end_of_text: int
    notes: list[str]


def resolve(
    config: InputConfig,
    read_groups: Callable[[InputConfig], list[ShardGroup]],
    *,
    n_vocab: int,
    cache: Path,
    vocabulary: Path | None,
    rules: SplitRules = NEWEST_SPLIT,
) -> Sources:
    """Finds the files, and prepares text in `cache`. read_groups: an entry of `inputs.INPUTS`.

    vocabulary: the run's own; it overrides encoder_path. rules: by which names divide the data.
    Raises UserError if something is missing.
    """
    if config.data_path is None and not config.dataset:
        raise UserError("data_path: missing; name the folder of the shards, or for input text the text files")
    named_in_configs.check(config.data_path)
    text_folder = text_input.folder(config, n_vocab=n_vocab, cache=cache)
    if vocabulary:
        config, text_folder = text_input.with_vocabulary(config, vocabulary, folder=text_folder)
    config = remote_data.with_local_copies(config)
    texts = None
    if text_input.is_text(config):
        config, notes, texts = text_input.prepared(
            config, n_vocab=n_vocab, folder=text_folder, own=vocabulary, rules=rules
        )
    else:
        config, notes = split_folders.divided(config, rules=rules)
    groups = read_groups(config)
    notes += [group.note for group in groups if group.note]
    files = list(dict.fromkeys(path for group in groups for path in group.files))
    held_out = input_groups.held_out(config, files)
    notes += input_groups.shared_files(groups, [] if isinstance(held_out, float) else held_out)
    return Sources(config, groups, held_out, notes, texts)


def open_shards(sources: Sources, *, n_vocab: int, cache: Path) -> OpenShards:
    """Opens all shards. Raises UserError if their vocabularies differ or an id is not below n_vocab."""
    folder = sources.config.encoder_path
    tokenizer = text_cache.load_vocabulary(folder, n_vocab=n_vocab) if folder else None
    described = next((size for path in sources.files if (size := token_bins.vocabulary_size(path))), None)
    end_of_text = compatibility.end_of_text(
        tokenizer, folder, n_vocab=n_vocab, gpt2=GPT2_END_OF_TEXT, described=described
    )
    shards = discovery.open_all(sources.files, ends=compatibility.ends(tokenizer, end_of_text), cache=cache)
    digest = compatibility.common_digest(shards.values(), tokenizer, folder, n_vocab=n_vocab)
    assumed = folder or (f"one of {described} ids, as meta.pkl says" if described else None)
    notes = compatibility.notes(shards.values(), assumed)
    if described == end_of_text and tokenizer is None:
        notes.append(
            "meta.pkl: a vocabulary of characters cannot encode every prompt, so the run can be evaluated but cannot "
            'generate; to generate, train on the text itself: "input": "text", "n_vocab": 257'
        )
    return OpenShards(shards, tokenizer, digest, end_of_text, notes)


def split(sources: Sources, opened: OpenShards) -> Split:
    """Divides the documents into those to train on, by group, and those to evaluate on."""
    groups = [[opened.shards[path] for path in group.files] for group in sources.groups]
    if not isinstance(sources.held_out, float):
        return splits.by_shard(groups, [opened.shards[path] for path in sources.held_out], texts=sources.texts)
    by_tokens, divisible = discovery.is_split_by_tokens(sources.files), sources.config.input != "chat"
    return splits.by_fraction(groups, sources.held_out, by_tokens=by_tokens, divisible=divisible, texts=sources.texts)


class EvaluationSet(Protocol):
    """Windows by number, always the same ones."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> dict[str, np.ndarray]: ...

    def documents(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Number of the document of each target of a window, and that document's length in tokens: [n_ctx]."""
        ...


class Data(NamedTuple):
    """Opened data.

    train: windows by number. evaluation: a fixed set of windows. notes: lines for the console.
    tokenizer: digest of the vocabulary, from its folder or else from the shards; None if neither tells.
    token_bytes: int32 [ids], bytes of text of each id, if the folder of the vocabulary is known.
    encoder: folder of the vocabulary, if it is known.
    content_digest: computes a digest of all documents, which reads the indices of all shards. order_digest: the same of
    training documents, with their proportions. system_message: finds that of most conversations.
    """

    train: Dataset
    evaluation: EvaluationSet
    tokenizer: str | None
    token_bytes: np.ndarray | None
    notes: list[str]
    content_digest: Callable[[], str]
    order_digest: Callable[[], str]
    encoder: str | None = None
    system_message: Callable[[], SystemMessage | None] = lambda: None


def sample(sources: Sources, opened: OpenShards, split: Split, *, n_ctx: int) -> Data:
    """Cuts the documents into windows of n_ctx + 1 tokens."""
    config, tokenizer = sources.config, opened.tokenizer
    train = _training_windows(sources, opened, split, n_ctx=n_ctx)
    return Data(
        train=train,
        evaluation=_evaluation_windows(config, opened, split, n_ctx=n_ctx),
        tokenizer=opened.digest,
        token_bytes=tokenizer.token_bytes() if tokenizer else None,
        encoder=config.encoder_path,
        content_digest=functools.cache(partial(compatibility.content_digest, list(opened.shards.values()))),
        order_digest=functools.cache(partial(_order_digest, sources.groups, split.training)),
        system_message=partial(_system_message, config, opened, split),
        notes=[*split.notes(train.windows_per_pass), *train.notes, *sources.notes, *opened.notes],
    )


def _order_digest(groups: Sequence[ShardGroup], training: Sequence[Documents]) -> str:
    """Differs where windows have another order: by the documents of each group, how they are joined, and its share."""
    shares = block_counts([group.weight for group in groups])
    parts = zip(shares, groups, training, strict=True)
    known = [(share, group.stitch, compatibility.documents_digest(documents)) for share, group, documents in parts]
    return sha256(repr(known).encode()).hexdigest()[:16]


def _training_windows(sources: Sources, opened: OpenShards, split: Split, *, n_ctx: int) -> Dataset:
    config, seed = sources.config, sources.config.data_seed
    datasets = [
        _group_windows(config, group, documents, opened, n_ctx=n_ctx)
        for group, documents in zip(sources.groups, split.training, strict=True)
    ]
    weights = [group.weight for group in sources.groups]
    train = datasets[0] if len(datasets) == 1 else Mixture(datasets, weights, seed=seed)
    contexts = shorter_contexts(n_ctx, config.n_ctx_min)
    if not (contexts or config.separate_documents):
        return train
    separator = opened.end_of_text if config.separate_documents else None
    return Segmented(train, contexts=contexts, end_of_text=separator, seed=seed)


def _evaluation_windows(config: InputConfig, opened: OpenShards, split: Split, *, n_ctx: int) -> EvaluationSet:
    if config.input == "chat" and len(split.evaluation):
        windows = _chat_windows(config, split.evaluation, opened.tokenizer, n_ctx=n_ctx, seed=None)
    else:
        windows = EvaluationWindows(split.evaluation, n_ctx=n_ctx, end_of_text=opened.end_of_text)
    return Segmented(windows, end_of_text=opened.end_of_text) if config.separate_documents else windows


def _group_windows(
    config: InputConfig, group: ShardGroup, documents: Documents, opened: OpenShards, *, n_ctx: int
) -> Dataset:
    if config.input == "chat":
        return _chat_windows(config, documents, opened.tokenizer, n_ctx=n_ctx, seed=config.data_seed)
    common: dict[str, int] = {"n_ctx": n_ctx, "end_of_text": opened.end_of_text, "seed": config.data_seed}
    if group.stitch is not None:
        stitch = group.stitch or math.ceil((n_ctx + 1) * len(documents) / max(1, documents.total_tokens))
        return StitchedWindows(documents, stitch=stitch, **common)
    if config.sampling == "sentences":
        assert opened.tokenizer  # InputConfig requires encoder_path
        return SentenceWindows(documents, ends=sentence_ends(opened.tokenizer), **common)
    return (RandomWindows if config.sampling == "random" else PackedDataset)(documents, **common)


def _chat_windows(
    config: InputConfig, documents: Documents, tokenizer: Tokenizer | None, *, n_ctx: int, seed: int | None
) -> ChatWindows:
    if tokenizer is None:
        raise UserError("encoder_path: missing; name the folder of the vocabulary that the chats were encoded with")
    tokens = _chat_tokens(config, tokenizer)
    return ChatWindows(documents, n_ctx=n_ctx, tokens=tokens, loss=config.chat_loss or "replies", seed=seed)


def _system_message(config: InputConfig, opened: OpenShards, split: Split) -> SystemMessage | None:
    if config.input != "chat" or opened.tokenizer is None:
        return None
    return system_message.of_most(split.training, _chat_tokens(config, opened.tokenizer), opened.tokenizer)


def _chat_tokens(config: InputConfig, tokenizer: Tokenizer) -> ChatTokens:
    template = Template(tokenizer, source=f"encoder_path: {config.encoder_path}")
    return ChatTokens(template.end_of_text, **template.headers, end=template.end)
