"""How a new run begins when it does not begin with random weights: key `init_from`.

The source's weights are read and placed tensor by tensor, so that no more than one is in memory twice, and for an old
TensorFlow run the optimizer's averages and the step too. Differences are printed.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field

from estimator.config import Section, UserPaths
from estimator.errors import UserError
from estimator.parallel.param_spec import ParamSpec, initialize, named, path_name
from estimator.quantities import numbered
from estimator.tokenization import tokenizer as tokenizers
from estimator.tokenization import vocab_files
from estimator.tokenization.tokenizer import Tokenizer
from models.gpt2 import lora, model
from models.gpt2.convert import name_maps, readers, tf_opt_state
from models.gpt2.convert.readers import CheckpointReader

Note = Callable[[str], None]
ROWS = ("wte", "wpe", "lm_head")  # parameters that may have other numbers of rows at the source


class InitFromConfig(Section):
    """Start."""

    init_from: Annotated[str | None, UserPaths] = Field(
        None,
        description="initial weights of a new run: a downloaded model's name, or a run, a Hugging Face folder, a"
        " TensorFlow checkpoint, a PyTorch or hdf5 file; see docs/weights.md",
    )
    init_state: Literal["auto", "weights", "all"] = Field(
        "auto",
        description="part of init_from to load: weights, or all, including optimizer state and step, so that an old"
        " TensorFlow run continues; auto: all if it has the state of this optimizer",
    )


class Initializer(NamedTuple):
    """(shapes and places of the parameters, random key) -> the first state of a run.

    total_steps: where training ends; None where nothing is trained.
    """

    config: Any
    optimizer: str
    total_steps: int | None
    vocabulary: Callable[[], Path] | None

    def __call__(self, values: Any, key: jax.Array, *, note: Note) -> tuple[int, Any, Callable[[Any], Any]]:
        """Step, parameters, and a function that puts the source's averages into a new optimizer state."""
        config, specs = self.config, model.parameters(self.config)
        source = self._opened(note)
        continues = self.total_steps is not None and self._continues(source, note)
        if continues:
            self._refuse_other_rows(source)
        surplus = name_maps.check(source.shapes, specs, source.layout, source=source.name, resizable=ROWS)
        self._tell_left_out(source, [*source.left_out, *surplus], note)
        at = f", step {source.step:,}" if source.step is not None else ""
        if not continues:
            note(f"starting from the weights of {source.name}{at}")
        rows = self._rows(source, note)
        if self.total_steps is not None:
            self._warn_of_frozen(rows, note)
        declared = dict(named(specs))

        def fill(name: str, leaf: Any, drawn: ParamSpec) -> jax.Array:
            if name not in declared:  # an adapter, which begins as it always does
                return jax.device_put(_drawn(name, drawn, key), leaf.sharding)
            spec = declared[name]
            if spec.stack_dims and spec.rows:
                return _stacked(name_maps.layers(source.arrays, name, spec, source.layout), leaf)
            value = name_maps.read(source.arrays, name, spec, source.layout)
            if name in ROWS:
                value = _taken(value, rows[name], name, spec, key)
            return jax.block_until_ready(jax.device_put(name_maps.padded(value, spec), leaf.sharding))

        leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(values)}
        drawn = dict(named(lora.parameters(config)))
        # The tables come first: they are read whole, when nothing else is in memory yet.
        filled = {name: fill(name, leaves[name], drawn[name]) for name in sorted(leaves, key=lambda n: n not in ROWS)}
        values = jax.tree_util.tree_map_with_path(lambda path, _: filled[path_name(path)], values)
        if not continues:
            return 0, values, lambda state: state
        assert source.step is not None
        note(f"continuing {source.name}{at}: weights and the averages of {self.optimizer}")
        return (
            source.step,
            values,
            partial(tf_opt_state.read, source.arrays, specs, step=source.step, source=source.name),
        )

    def names(self) -> set[str]:
        """The parameters of the model; adapters begin as they always do."""
        return {name for name, _ in named(model.parameters(self.config))}

    def check(self) -> list[str]:
        """Raises UserError if the weights cannot be read or do not fit the model; reads no array. Returns warnings."""
        source = self._opened(lambda _: None)
        name_maps.check(source.shapes, model.parameters(self.config), source.layout, source=source.name, resizable=ROWS)
        return [] if _tokenizer(source.vocabulary) else [_by_id(source)]

    def _opened(self, note: Note) -> CheckpointReader:
        source = self._with_head(readers.open_source(self.config.init_from), note)
        self._refuse_other_sizes(source)
        return source

    def _continues(self, source: CheckpointReader, note: Note) -> bool:
        """Whether the optimizer's averages and the step are taken over too."""
        wanted, there = self.config.init_state, source.optimizer
        possible = source.step is not None and there == self.optimizer
        if wanted == "all" and not possible:
            lacks = f"has the averages of {there}" if there else "has no averages of an optimizer that can be read"
            advice = "; to continue a run of ours, set model_path to its folder" if not there else ""
            raise UserError(f"init_state: {source.name} {lacks}, and opt_name is {self.optimizer}{advice}")
        if wanted == "weights" or not possible:
            if there and there != self.optimizer:
                note(f"its averages of {there} are left out, opt_name is {self.optimizer}")
            return False
        assert source.step is not None
        assert self.total_steps is not None
        if source.step >= self.total_steps:
            raise UserError(
                f"{source.name} stopped at step {source.step:,} and this run ends at {self.total_steps:,}; write a "
                "larger max_steps (max_tokens, max_epochs) to continue it, or init_state weights to begin at step 0 "
                "with its weights"
            )
        return True

    def _with_head(self, source: CheckpointReader, note: Note) -> CheckpointReader:
        """A source without an output matrix of its own gives its embedding as one: the same function."""
        if source.untied and not self.config.untied_head:
            raise UserError(f"untied_head: {source.name} has an output matrix of its own; write true")
        name = source.layout.name
        if not self.config.untied_head or name("lm_head", None) in source.shapes:
            return source
        note("untied_head: the output matrix begins as a copy of the embedding")
        shared = source.layout._replace(name=lambda path, layer: name("wte" if path == "lm_head" else path, layer))
        return source._replace(layout=shared)

    def _refuse_other_sizes(self, source: CheckpointReader) -> None:
        """The most likely mistakes in one line each, before every entry is compared."""
        config, layout, shapes = self.config, source.layout, source.shapes
        width = shapes.get(layout.name("wte", None), (None,))[-1]
        hidden = shapes.get(layout.name("ln_f/g", None), (None,))[-1]
        inner = shapes.get(layout.name("h/mlp/c_fc/b", 0), (None,))[-1]
        layers = sum(layout.name("h/ln_1/g", layer) in shapes for layer in range(len(shapes)))
        there = {"n_embd": (config.n_embd, width), "n_layer": (config.n_layer, layers or None)}
        there |= {"n_hidden": (config.width, hidden), "n_inner": (config.inner, inner)}
        for key, (ours, theirs) in there.items():
            if theirs is not None and ours != theirs:
                raise UserError(f"{key}: {ours} here, {theirs} in {source.name}; write {theirs}")
        for key, theirs in source.settings.items():
            ours = config.heads if key == "n_head" else getattr(config, key)
            if isinstance(theirs, tuple):
                if ours not in theirs or key not in config.model_fields_set:
                    choices = " or ".join(map(json.dumps, theirs))
                    raise UserError(
                        f"{key}: {source.name} does not say which it computed; write {choices} (gelu is exact, as in "
                        "nanoGPT since 2023; gelu_new is GPT-2's approximation)"
                    )
            elif ours != theirs:
                raise UserError(f"{key}: {ours} here, {theirs} in {source.name}; write {json.dumps(theirs)}")

    def _tell_left_out(self, source: CheckpointReader, names: list[str], note: Note) -> None:
        """Lists entries of the file that the model lacks, and settings that the file does not confirm."""
        if names:
            more = f" and {len(names) - name_maps.LISTED} more" if len(names) > name_maps.LISTED else ""
            note(f"left out of {source.name}, no part of GPT-2: {', '.join(names[: name_maps.LISTED])}{more}")
        if "n_head" not in source.settings:
            note(f"n_head: nothing in {source.name} says it; {self.config.heads} is what the settings here have")

    def _refuse_other_rows(self, source: CheckpointReader) -> None:
        for name, here, key in (("wte", self.config.n_vocab, "n_vocab"), ("wpe", self.config.n_ctx, "n_ctx")):
            there = source.shapes[source.layout.name(name, None)][0]
            if there != here:
                raise UserError(
                    f"{key}: {here} here, {there} in {source.name}, whose optimizer's averages are for that; write "
                    f"{there}, or init_state weights"
                )

    def _rows(self, source: CheckpointReader, note: Note) -> dict[str, np.ndarray]:
        """For each row of ours the row of the source that it takes, -1 for a new one."""
        there = {name: source.shapes[source.layout.name(name, None)][0] for name in ("wte", "wpe")}
        rows = {"wpe": _same(self.config.n_ctx, there["wpe"]), "wte": _same(self.config.n_vocab, there["wte"])}
        if there["wpe"] != self.config.n_ctx:
            done = "the first are taken" if there["wpe"] > self.config.n_ctx else "the others are new"
            note(f"n_ctx: {there['wpe']:,} positions there, {self.config.n_ctx:,} here; {done}")
        ours, theirs = self._tokenizer(), _tokenizer(source.vocabulary)
        if ours and theirs and ours.digest != theirs.digest:
            known = {token: row for row, token in enumerate(_tokens(theirs, there["wte"])) if token}
            tokens = _tokens(ours, self.config.n_vocab)
            found = [known.get(token, -1) if token else -1 for token in tokens]
            rows["wte"] = np.asarray(found + [-1] * (self.config.n_vocab - len(found)))
            note(
                f"another vocabulary: {np.sum(rows['wte'] >= 0):,} of {self.config.n_vocab:,} tokens are in it and "
                "take its embeddings, the others are new"
            )
        elif there["wte"] != self.config.n_vocab:
            done = "the first are taken" if there["wte"] > self.config.n_vocab else "the others are new"
            note(f"n_vocab: {there['wte']:,} ids there, {self.config.n_vocab:,} here, matched by id; {done}")
        if theirs is None:
            note(f"warning: {_by_id(source)}")
        return rows | {"lm_head": rows["wte"]}

    def _warn_of_frozen(self, rows: Mapping[str, np.ndarray], note: Note) -> None:
        """Warns of new rows of the embeddings that are not trained, and so stay random."""
        config = self.config
        frozen = lora.frozen(lora.parameters(config), config)
        key = "lora_rank" if config.lora_rank else "train_only" if config.train_only else "lr_scale"
        ours = self._tokenizer()
        tokens = rows["wte"][: ours.n_vocab if ours else None]
        tables = [name for name in ("wte", "lm_head") if name in frozen]
        for names, what, new, fix in (
            (tables, "token", tokens, ""),
            (sorted(frozen & {"wpe"}), "position", rows["wpe"], "set a smaller n_ctx, or "),
        ):
            if names and (count := int(np.sum(new < 0))):
                listed = " and ".join(names)
                note(
                    f"warning: the embeddings of {numbered(count, f'new {what}')} stay random, as {key} does not train "
                    f"{listed}; {fix}train {listed} too (without {key})"
                )

    def _tokenizer(self) -> Tokenizer | None:
        try:
            return tokenizers.load(self.vocabulary()) if self.vocabulary else None
        except UserError:
            return None  # shards may be trained on without naming a vocabulary


def make(params: Any, mode: str) -> Initializer | None:
    """How the run of the model's `Params` begins; None where it is with random weights."""
    if params.model.init_from is None:
        return None
    steps = params.total_steps if mode == "train" else None
    return Initializer(params.model, params.optimizer.opt_name, steps, params.vocabulary)


def _by_id(source: CheckpointReader) -> str:
    """That embeddings are matched by id, why the vocabulary of the weights is not known, and what to set."""
    return f"embeddings are matched by id, as {_why_unknown(source)}"


def _why_unknown(source: CheckpointReader) -> str:
    if source.vocabulary and vocab_files.files(source.vocabulary):
        try:
            tokenizers.load(source.vocabulary)
        except UserError as error:
            made_from = "the vocabulary that it was made from (for an export of a run, RUN/vocabulary)"
            return f"the vocabulary of {source.name} is not read: {error}; set encoder_path to {made_from}"
    return f"nothing says which vocabulary {source.name} was trained with; encoder_path should name that one"


def _tokenizer(folder: Path | None) -> Tokenizer | None:
    try:
        return tokenizers.load(folder) if folder else None
    except UserError:
        return None


def _tokens(tokenizer: Tokenizer, count: int) -> list[bytes]:
    """The bytes of each id below `count`; special tokens by their names."""
    return [tokenizer.decode_bytes([token]) for token in range(min(count, tokenizer.n_vocab))]


def _drawn(name: str, spec: ParamSpec, key: jax.Array) -> jax.Array:
    """The random values that the parameter of this name has in a run that begins with them."""
    tree: Any = spec
    for part in reversed(name.split("/")):
        tree = {part: tree}
    return jax.tree.leaves(initialize(tree, key))[0]


def _stacked(layers: Iterable[np.ndarray], leaf: Any) -> jax.Array:
    """The layers as one array, each written to its position."""
    compiled = partial(jax.jit, out_shardings=leaf.sharding)

    @partial(compiled, donate_argnums=0)
    def put(whole: jax.Array, layer: jax.Array, index: int) -> jax.Array:
        return whole.at[index].set(layer)

    whole = compiled(lambda: jnp.zeros(leaf.shape, leaf.dtype))()
    for index, layer in enumerate(layers):
        whole = jax.block_until_ready(put(whole, layer, index))
    return whole


def _same(here: int, there: int) -> np.ndarray:
    rows = np.arange(here)
    return np.where(rows < there, rows, -1)


def _taken(value: np.ndarray, rows: np.ndarray, name: str, spec: ParamSpec, key: jax.Array) -> np.ndarray:
    """Rows of the source in our order; new ones are drawn as for a run that begins with random weights."""
    if np.array_equal(rows, np.arange(len(value))):
        return value
    if (rows >= 0).all():
        return value[rows]
    drawn = np.asarray(_drawn(name, spec, key))[: len(rows)]
    return np.where((rows >= 0)[:, None], value[rows], drawn)
