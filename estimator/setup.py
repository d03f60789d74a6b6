"""The sections of a run's JSON file, and the objects that programs build from them.

The models, the optimizers and the input functions are parts that the library does not know: programs hand them in.
"""

import argparse
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

from estimator import config, storage
from estimator.config import Section, did_you_mean
from estimator.data import system_message, text_input
from estimator.data.batches import EvaluationBatches as EvaluationBatches
from estimator.data.config import InputConfig
from estimator.data.stages import Data
from estimator.errors import UserError
from estimator.estimator import Estimator, EstimatorSpec, Mode
from estimator.format_version import NEWEST_SPLIT
from estimator.generation.completion import PredictionConfig
from estimator.parallel import agreement, distributed, hardware
from estimator.storage import cache_root
from estimator.tokenization import tokenizer as tokenizers
from estimator.training import missing_checkpoints, preflight, progress, run_dir, run_vocabulary
from estimator.training.checkpoint_reader import OtherStateError
from estimator.training.data_position import DataSpan
from estimator.training.monitor import Evaluation
from estimator.training.run_checkpoints import CHECKPOINTS
from estimator.training.run_config import RunConfig

PADDED = 128  # to multiples of this and smaller numbers other programs enlarge n_vocab
# What a command does with the key `budget`: reads the settings chosen before, chooses and shows them, chooses them if
# that was not done before and stores them, or chooses and stores them.
Planning = Literal["stored", "shown", "kept", "replaced"]


class Model(Protocol):
    """An entry of `models.MODELS`.

    Config: its section of the JSON file, which has n_ctx and n_vocab. Params(config, optimizer section, total_steps,
    vocabulary, platform): the argument of `model_fn`.
    """

    @property
    def Config(self) -> type[Section]: ...

    @property
    def Params(self) -> Callable[..., Any]: ...

    def model_fn(self, params: Any, mode: Mode, /) -> EstimatorSpec: ...

    def attention_choice(self, config: Any, mode: Mode, /) -> object:
        """A line of the log: which program computes attention on this process's devices, and why."""
        ...

    def initial_vocabulary(self, config: Any, /) -> Path | None:
        """The folder of the vocabulary of the weights that a run begins with; None where none is known."""
        ...

    def warnings(self, config: Any, /) -> list[str]:
        """Settings that are allowed and known to hurt, each with a better value."""
        ...

    def complete(
        self,
        values: dict[str, Any],
        parsed: "Callable[..., Setup]",
        *,
        source: str,
        planning: Planning,
        warn: Callable[[str], object],
    ) -> dict[str, Any]:
        """The keys of a file with those that its key `budget` leaves open.

        parsed: checks keys; with the files of those that are in others, by key.
        """
        ...


class Optimizers(Protocol):
    """The module `optimizers`."""

    @property
    def OptimizerConfig(self) -> type[Section]: ...

    def warnings(self, config: Any, /, *, total_steps: int) -> list[str]: ...


@dataclass(frozen=True)
class Setup:
    """A checked JSON file: its sections, and the parts of the repository that it selects.

    open_input: `inputs.open_data`. noted: warnings of reading the file.
    """

    model: Model
    optimizers: Optimizers
    open_input: Callable[..., Data]
    model_config: Any
    optimizer: Any
    data: InputConfig
    run: RunConfig
    prediction: PredictionConfig
    noted: tuple[str, ...] = ()

    @property
    def sections(self) -> list[Section]:
        """The sections of the file."""
        return [self.model_config, self.optimizer, self.data, self.run, self.prediction]

    def values(self, *, defaults: bool = True) -> dict[str, Any]:
        """All keys with the values in force. defaults: also those that are at their default."""
        return config.resolved(self.sections, defaults=defaults)

    @property
    def folder(self) -> str:
        """The run's folder or bucket path."""
        return self.run.model_path

    @property
    def predict_path(self) -> str | None:
        """The file that samples are appended to, or None."""
        path = self.prediction.predict_path
        return storage.join(self.folder, run_dir.PREDICTIONS) if path == "auto" else path

    @property
    def cache(self) -> Path:
        """The folder of prepared text: next to a local run, in the user's cache for a run in a bucket."""
        return cache_root.root() if storage.is_remote(self.folder) else Path(self.folder).parent / "cache"

    def own_vocabulary(self) -> Path | None:
        """The vocabulary that the run was trained with, if it has begun; it overrides encoder_path and the cache."""
        return run_vocabulary.find(self.folder, cache=self.cache)

    @property
    def names_new_vocabulary(self) -> bool:
        """Whether encoder_path is another path than at the run's last start, wherever the run was moved since."""
        before = run_dir.config_before(self.folder)
        located = run_dir.where_it_is(before, storage.join(self.folder, run_dir.CONFIG))
        known = [values.get("encoder_path") for values in (before, located)]
        return self.data.encoder_path is not None and self.data.encoder_path not in known

    def other_vocabulary(self) -> str:
        """A line where encoder_path names another vocabulary than the one that the run has begun with, or ""."""
        own, named = self.own_vocabulary(), self.data.encoder_path
        if own is None or named is None or text_input.is_of_vocabulary(self.data, own):
            return ""
        if not (self.names_new_vocabulary or storage.exists(named)):
            return ""  # of a run that was moved without it
        return f"encoder_path: {named} is not the vocabulary that the run has begun with, {own}"

    def note_own_vocabulary(self, note: Callable[[str], object]) -> None:
        """Notes that the run's vocabulary is in use where encoder_path names another one."""
        if (line := self.other_vocabulary()) and distributed.is_first():
            note(f"{line}, which is used")

    def note_other_function(self, note: Callable[[str], object]) -> None:
        """Warns of keys with which the model computes another function of the run's weights than in training."""
        if not distributed.is_first():
            return
        function = self.model_config.function
        for line in run_dir.changed_keys(function(run_dir.config_before(self.folder)), function(self.values())):
            note(f"warning: {line}, so the model is not the one that was trained")

    def note_system_message(self, note: Callable[[str], object]) -> None:
        """Notes that chat_system is not set, where most conversations of the training begin with the same one."""
        if self.data.input != "chat" or self.prediction.chat_system is not None:
            return
        if text := run_dir.system_message(self.folder):
            note(system_message.reminder(text))

    def newest_step(self) -> int:
        """The run's newest saved step, 0 if there is none. A collective."""
        # Opening checkpoints with Orbax is a collective: all processes look, or none.
        is_begun = agreement.from_first(lambda: storage.is_folder(storage.join(self.folder, CHECKPOINTS)))
        return (self.estimator().latest_step() or 0) if is_begun else 0

    def takes_other_vocabulary(self, step: int) -> bool:
        """Whether a run without a step begins with another vocabulary. step: the newest saved one.

        Raises UserError where its weights are of its own one already.
        """
        if not self.names_new_vocabulary or not (line := self.other_vocabulary()):
            return False
        if step:
            raise UserError(
                f"{line}; leave encoder_path out, as the run has its own copy, or choose another model_path to train "
                "with the other vocabulary"
            )
        missing_checkpoints.require_none(self.folder, storage.join(self.folder, CHECKPOINTS))
        return True

    def data_with_vocabulary(self, own: Path | None) -> tuple[InputConfig, list[str]]:
        """The data, with the vocabulary of init_from for text where encoder_path names none; lines on it.

        own: the run's vocabulary, if it has begun.
        """
        if self.data.encoder_path is not None or not text_input.is_text(self.data):
            return self.data, []
        with contextlib.suppress(UserError):  # weights that cannot be read end the run elsewhere
            if found := self.model.initial_vocabulary(self.model_config):
                size, n_vocab = tokenizers.load(found).n_vocab, self.model_config.n_vocab
                if size > n_vocab:
                    note = f"init_from: its vocabulary, {found}, has {size:,} entries, and n_vocab is {n_vocab:,}"
                    return self.data, [f"{note}; one is learned from the text, unless n_vocab is {size} or more"]
                data = self.data.model_copy(update={"encoder_path": str(found)})
                if own is None:
                    return data, [f"encoder_path: not set, so the text has the vocabulary of init_from, {found}"]
                return (data if text_input.is_of_vocabulary(data, own) else self.data), []
        return self.data, []

    def vocabulary(self, *, clean: bool = False) -> Path:
        """The folder of the vocabulary in force; UserError if no key names one, or the run's own is damaged.

        clean: ignore the vocabulary of the run in the folder.
        """
        if own := None if clean else self.own_vocabulary():
            return own
        data, _ = self.data_with_vocabulary(None)
        found = text_input.encoder_path(data, n_vocab=self.model_config.n_vocab, cache=self.cache)
        copy, record = (storage.join(self.folder, name) for name in (run_dir.VOCABULARY_COPY, run_dir.VOCABULARY))
        if not found.exists() and (storage.exists(copy) or storage.exists(record)):
            raise UserError(
                f"{copy}, the vocabulary that the run was trained with, or its digest in {record} is missing or "
                "damaged; restore them from a copy, or set encoder_path to that vocabulary"
            )
        return found

    def open_data(self, *, clean: bool = False, cache: Path | None = None) -> Data:
        """The training and evaluation data. clean: ignore the vocabulary of the run in the folder."""
        own = None if clean else self.own_vocabulary()
        config, notes = self.data_with_vocabulary(own)
        data = self.open_input(
            config,
            n_ctx=self.model_config.n_ctx,
            n_vocab=self.model_config.n_vocab,
            cache=cache or self.cache,
            vocabulary=own,
            rules=NEWEST_SPLIT if clean else run_dir.split_rules(self.folder),
        )
        if own is None:  # the table of a run that has begun keeps its size
            notes += self._unused_rows(data)
        return data._replace(notes=[*notes, *data.notes])

    def _unused_rows(self, data: Data) -> list[str]:
        """A warning where the table of the model has rows that no text uses, other than padding."""
        n_vocab, size = self.model_config.n_vocab, 0 if data.token_bytes is None else len(data.token_bytes)
        if not size or n_vocab <= -(-size // PADDED) * PADDED:
            return []
        unused = f"{n_vocab - size:,} of {n_vocab:,} rows of the table are never used"
        return [f"warning: n_vocab: {unused}, as the vocabulary has {size:,} entries; set n_vocab to {size}"]

    def estimator(
        self, *, total_steps: int = 1, platform: str | None = None, clean: bool = False, **options: Any
    ) -> Estimator:
        """options: `devices` and `console` of the Estimator. platform: of devices that this machine does not have.

        clean: ignore the vocabulary of the run in the folder.
        """
        vocabulary = partial(self.vocabulary, clean=clean)
        params = self.model.Params(self.model_config, self.optimizer, total_steps, vocabulary, platform)
        return Estimator(self.model.model_fn, params, self.run, **options)

    def total_steps(self, data: Data | None, span: DataSpan | None) -> int:
        """Steps until the run ends. span: the last one of `spans`."""
        epoch = data.train.windows_per_pass if data else None
        return self.run.total_steps(tokens_per_example=self.model_config.n_ctx, examples_per_epoch=epoch, span=span)

    def spans(self, data: Data, step: int) -> list[DataSpan]:
        """The spans trained on before `step`, then the one that the run continues with."""
        return progress.resume(
            self.folder,
            step,
            batch_size=self.run.train_batch_size,
            tokens_per_window=self.model_config.n_ctx,
            data=self.order(data),
            old=run_dir.config_before(self.folder),
        )

    def order(self, data: Data) -> dict[str, Any]:
        """What determines the order of the training windows, as `progress` records it."""
        return {
            "windows_per_epoch": data.train.windows_per_epoch,
            "data_seed": self.data.data_seed,
            "content": data.content_digest(),
            "order": data.order_digest(),
            "input": self.data.input,
            "sampling": self.data.sampling,
        }

    def evaluation(self, data: Data, estimator: Estimator) -> Evaluation | None:
        """Parameters -> loss, perplexity and bits per byte over fixed windows; None if there is nothing to evaluate."""
        host, hosts = estimator.process_slice
        windows = self.evaluation_batches(data, host_index=host, host_count=hosts)
        return estimator.evaluate(windows.batches, describe=windows.describe) if windows else None

    def evaluation_batches(self, data: Data, *, host_index: int = 0, host_count: int = 1) -> EvaluationBatches | None:
        """The batches that the run is evaluated on, or None."""
        if self.run.eval_steps == 0 or not len(data.evaluation):
            return None
        size = self.run.eval_batch_size or self.run.train_batch_size
        steps = self.run.eval_steps
        return EvaluationBatches(data, batch_size=size, steps=steps, host_index=host_index, host_count=host_count)

    @property
    def attention(self) -> str:
        """A line of the log: the attention program of training."""
        return str(self.model.attention_choice(self.model_config, "train"))

    def warnings(self, total_steps: int) -> list[str]:
        """Settings that are allowed and known to hurt, each with a better value."""
        path, data = self.predict_path, self.data.data_path
        folder = preflight.inside(path, [data] if isinstance(data, str) else data or [])
        unused = hardware.unused_accelerator()
        return [
            *self.noted,
            *([unused] if unused else []),
            *self.model.warnings(self.model_config),
            *self.optimizers.warnings(self.optimizer, total_steps=total_steps),
            *([f"predict_path: {path} is in {folder}, which is trained on; write samples elsewhere"] if folder else []),
        ]

    def explained(self, error: OtherStateError) -> UserError:
        """The error with the keys that have changed since the checkpoint was written, if any, instead of its arrays."""
        error = OtherStateError(error.what, error.arrays, begins=error.begins or self._fits_init_from())
        values = config.resolved([self.model_config, self.optimizer])
        changes = run_dir.changed_keys(run_dir.config_before(self.folder), values)
        return (
            UserError("\n  ".join([f"{error.advice}; keys that changed since, not all of them a cause:", *changes]))
            if changes
            else error
        )

    def _fits_init_from(self) -> bool:
        """Whether a new run with these keys can begin with the weights of this one; reads no array."""
        begun = self.model_config.model_copy(update={"init_from": self.folder, "init_state": "weights"})
        try:
            replace(self, model_config=begun).estimator().check_initial()
        except (UserError, OSError):
            return False
        return True


def planning(arguments: argparse.Namespace, *, trains: bool) -> Planning:
    """What main.py's command line does with the key `budget`. trains: on this machine, or checks that it could."""
    if not trains:
        return "stored"
    if arguments.lr_range_test is not None or arguments.dry_run or arguments.check or arguments.show_batch:
        return "shown"
    return "replaced" if arguments.clean else "shown" if arguments.rehearse else "kept"


def read(
    path: str,
    overrides: list[str],
    *,
    models: Mapping[str, Model],
    optimizers: Optimizers,
    open_data: Callable[..., Data],
    flags: Mapping[str, Any] | None = None,
    planning: Planning = "stored",
) -> Setup:
    """Reads and checks a JSON file; raises one UserError that lists every problem.

    overrides: KEY=VALUE texts. flags: keys set by other command-line flags, which override both.
    models, optimizers, open_data: `models.MODELS`, the module `optimizers`, `inputs.open_data`. planning: for the key
    `budget`.
    """
    path = config.file_of(path)
    values = config.read(path, overrides, run_dir.where_it_is) | dict(flags or {})
    typed = {key: f"--set {key}" for key in (text.partition("=")[0].strip() for text in overrides)}
    typed |= {key: f"--{key}" for key in flags or {}}
    name = values.get("model", "GPT2")
    if name not in models:
        near = did_you_mean(str(name), models)
        where = typed.get("model", f"{path}: model")
        raise UserError(f"{where}: no model {name!r}{near}; available: {', '.join(models)}")
    model = models[name]
    sections = [model.Config, optimizers.OptimizerConfig, InputConfig, RunConfig, PredictionConfig]

    def parsed(values: dict[str, Any], files: Mapping[str, str] = MappingProxyType({})) -> Setup:
        found = config.parse_sections(values, sections, source=path, typed=typed, files=files)
        return Setup(model, optimizers, open_data, *found)

    noted: list[str] = []
    if values.get("budget") is not None:
        values = model.complete(values, parsed, source=path, planning=planning, warn=noted.append)
    return replace(parsed(values), noted=tuple(noted))
