"""From the key `budget` to the settings that reach the lowest loss within it, and the JSON file that keeps them.

Measures the training steps of a few shapes around the best one by `laws`, which narrows down to shapes that were
measured. The file is MODEL_PATH.plan.json; it is read again by the same command.
"""

import lzma
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from estimator import config, json_text, storage
from estimator.data import text_input
from estimator.data.stages import Data
from estimator.errors import UserError
from estimator.parallel import distributed
from estimator.quantities import numbered
from estimator.setup import Planning, Setup
from estimator.system import compile_cache
from estimator.tokenization import tokenizer
from estimator.training import run_dir
from estimator.training.preflight import TooLargeError
from models.gpt2 import flops
from models.gpt2.dial import budget as budgets
from models.gpt2.dial import laws, rate
from models.gpt2.dial.laws import Shape

CHOSEN = ("n_layer", "n_embd", "train_batch_size", "max_steps", "lr")  # the dial is for files that lack one of them
FILLED = (*CHOSEN, "n_ctx", "n_vocab")  # left out or null, the dial chooses them
PLANNED = {*FILLED, "decay_fraction", "neuron_beta2", "eval_batch_size", "log_steps", "iterations"}  # in every plan
MEASURED_SECONDS, MEASURED_SHARE = 45.0, 0.15  # most time to measure, and most of a budget of time
START_SECONDS = 8.0  # of the program's start and of saving the last checkpoint
RESERVE = 0.05  # of a budget of time, for steps that are slower than measured ones
EVALUATIONS, EVALUATED_SHARE = 10, 0.05  # of a run, and the share of training's work that they may take
PYTHON_DOCS_BYTES = 3_000_000  # of text whose size is unknown: python-docs, remote files
TYPICAL_BYTES = 4.0  # of a token, where the vocabulary is unknown
SMALL_TEXT = 2_000_000  # bytes; of 0.6 MB the loss was 20% to 40% above the expected one
COUNTED = 1 << 19  # tokens of the text that are looked at
Parse = Callable[..., Setup]


class Candidate(NamedTuple):
    """A shape with its settings. parameters: weights in matrix products. tokens: trained on. loss: expected, bits per
    byte. seconds: of training."""

    shape: Shape
    keys: dict[str, Any]
    parameters: float
    tokens: float
    loss: float
    seconds: float

    @property
    def title(self) -> str:
        return f"{numbered(self.shape.layers, 'layer')}, {self.shape.width} wide"


def complete(
    values: dict[str, Any], parsed: Parse, *, source: str, planning: Planning, warn: Callable[[str], object]
) -> dict[str, Any]:
    """Returns `values` with the settings that the budget leaves open: those of the stored plan, or else new ones.

    parsed: checks keys, with the names of the files of those that are not in the user's. planning: see
    `setup.Planning`. Raises UserError for wrong budgets and for plans that do not exist and may not be made.
    """
    budget = budgets.parse(values["budget"])
    is_full = all(values.get(key) is not None for key in CHOSEN)
    may_continue = is_full and planning != "replaced"  # as runs that earlier versions have begun
    if values.get("init_from") and not (may_continue and _is_begun(parsed(values).folder)):
        raise UserError(
            "budget: init_from gives the sizes, and fine-tuning needs other settings; leave budget out, and write "
            "max_steps and lr"
        )
    if is_full:
        if not _is_plan(values, source):
            warn(
                f"budget: has no effect, as {', '.join(CHOSEN)} are all given; leave out, or set to null, those that "
                "it is to choose"
            )
        return values
    values = {key: value for key, value in values.items() if value is not None or key not in FILLED}
    path = f"{parsed(_draft(values, laws.LADDER[0])).folder.rstrip('/')}.plan.json"
    if os.path.exists(source) and os.path.exists(path) and os.path.samefile(source, path):
        return values
    if planning != "replaced" and (stored := _stored(values, path, trains=planning != "stored")):
        plan, file = stored
        parsed(plan | values, dict.fromkeys(plan.keys() - values.keys(), file))
        return plan | values
    if planning == "stored":
        raise UserError(f"budget: {path} does not exist yet; train first, with the same file")
    if distributed.expected():
        raise UserError(
            f"budget: the settings are chosen by one process; run this command on one machine until {path} is written, "
            "then start that file on all of them"
        )
    chosen = _Dial(values, parsed, budget).turn()
    if planning != "shown":
        if not storage.is_remote(path):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        storage.write_json_atomic(path, chosen)
        print(f"written to {path}, which the same command reads from now on", flush=True)
    return chosen


def _is_begun(folder: str) -> bool:
    return storage.is_file(storage.join(folder, run_dir.CONFIG))


def _is_plan(values: dict[str, Any], source: str) -> bool:
    """Whether a file holds what a budget has led to, and that budget: a plan, or the keys of a run with one."""
    return values.keys() >= PLANNED and config.read(source).get("budget") == values["budget"]


def _stored(values: dict[str, Any], path: str, *, trains: bool) -> tuple[dict[str, Any], str] | None:
    """The plan in force, and its file: that of a run that has begun, or one that fits these keys; None without one.

    Raises UserError if a run that is to be trained has begun with another budget.
    """
    folder = path.removesuffix(".plan.json")
    is_begun = _is_begun(folder)
    plan, file = run_dir.config_before(folder) if is_begun else {}, storage.join(folder, run_dir.CONFIG)
    if not plan and storage.is_file(path):
        file = path
        try:
            plan = json_text.loads(storage.read_bytes(path))
        except ValueError:
            raise UserError(f"{path} is not valid JSON; --clean makes a new one") from None
    if trains and is_begun and plan.get("budget") != values["budget"]:
        raise UserError(
            f"budget: {folder} was begun with {plan.get('budget') or 'none'}, and its schedule ends with it; write "
            "that again, set another model_path, or start over with --clean"
        )
    is_same = isinstance(plan, dict) and all(plan.get(key) == value for key, value in values.items())
    return (plan, file) if plan and (is_begun or is_same) else None


def _draft(values: dict[str, Any], shape: Shape, **keys: Any) -> dict[str, Any]:
    """All keys for a shape; those of the file come first."""
    defaults = {
        "n_layer": shape.layers, "n_embd": shape.width, "n_head": None if shape.width % 64 else shape.width // 64,
        "scale_by_in": False, "precision": "auto", "attn_dropout": 0.0, "embed_dropout": 0.0, "res_dropout": 0.0,
        "opt_name": "muon", "schedule": "wsd", "decay_fraction": 0.7, "train_batch_size": 8, "max_steps": 1000,
    }  # fmt: skip
    return defaults | keys | values


class _Dial:
    """One turn of the dial."""

    def __init__(self, values: dict[str, Any], parsed: Parse, budget: budgets.Budget):
        compile_cache.use()
        self.start = time.monotonic() - START_SECONDS
        self.values, self.parsed, self.budget = values, parsed, budget
        given = (values.get("n_layer"), values.get("n_embd"))
        self.ladder = sorted({Shape(given[0] or s.layers, given[1] or s.width) for s in laws.LADDER})
        self.rates: dict[Shape, rate.Rate] = {}
        is_cpu = jax.default_backend() == "cpu"
        self.speed = 2e10 if is_cpu else 1e13  # FLOP/s, until it is measured
        self.least = 1024 if is_cpu else 16384  # tokens of a step; fewer are not faster

    def turn(self) -> dict[str, Any]:
        """Measures, chooses and prints; returns all keys of the run."""
        n_ctx = self.values.get("n_ctx") or laws.context(self._flops(1024))
        first = self._first(n_ctx)
        self.fixed: dict[str, Any] = {"n_ctx": n_ctx, "n_vocab": self._vocabulary(first)}
        setup = self.parsed(_draft(self.values, first, **self.fixed))
        self.data = setup.open_data(clean=True)
        if "n_vocab" not in self.values and self.data.token_bytes is not None:
            self.fixed["n_vocab"] = len(self.data.token_bytes)  # a small text has fewer entries to learn
        self.text = _text(self.data, n_ctx)
        self._measure(first)
        best = self._search() if self.budget.kind == "seconds" else self._by_law()
        print(self._report(best), flush=True)
        return _draft(self.values, best.shape, **best.keys)

    def _flops(self, n_ctx: int) -> float:
        """FLOPs of the budget, before anything is measured."""
        if self.budget.kind == "tokens":
            return self.budget.amount * laws.work(laws.for_tokens(self.budget.amount, n_ctx), n_ctx)
        return self.budget.amount * (self.speed if self.budget.kind == "seconds" else 1)

    def _first(self, n_ctx: int) -> Shape:
        """The shape on the ladder to begin with."""
        guess = laws.optimal(self._flops(n_ctx), n_ctx)
        return min(self.ladder, key=lambda shape: abs(math.log(shape.matrices / guess.matrices)))

    def _vocabulary(self, shape: Shape) -> int:
        """n_vocab: of the file, of its vocabulary, or of the one to learn from the text."""
        if "n_vocab" in self.values:
            return self.values["n_vocab"]
        setup = self.parsed(_draft(self.values, shape, n_vocab=laws.VOCABULARIES[0]))
        if not text_input.is_text(setup.data):
            return tokenizer.load(setup.vocabulary()).n_vocab
        if setup.data.encoder_path is not None:
            return text_input.named_vocabulary(setup.data).n_vocab
        n_bytes = text_input.look(setup.data)[0]
        least = text_input.smallest_vocabulary(setup.data)
        return max(laws.vocabulary(shape, n_bytes or PYTHON_DOCS_BYTES), least)

    def _search(self) -> Candidate:
        """Measures the best shape by the rates so far, until it and its neighbors are measured or time is over."""
        limit = min(MEASURED_SECONDS, MEASURED_SHARE * self.budget.amount)
        end = time.monotonic() + limit
        while time.monotonic() < end:
            candidates = [self._candidate(shape) for shape in self.ladder]
            losses = [candidate.loss for candidate in candidates]
            best = losses.index(min(losses))
            near = [i for i in (best, best - 1, best + 1) if 0 <= i < len(losses) and losses[i] < 1.02 * losses[best]]
            unmeasured = [candidates[i].shape for i in near if not self._is_measured(candidates[i])]
            if not unmeasured:
                break
            self._measure(unmeasured[0])
        return min((self._candidate(shape) for shape in self.rates), key=lambda candidate: candidate.loss)

    def _is_measured(self, candidate: Candidate) -> bool:
        """Whether its steps were timed, in batches no smaller than those that it now has: larger ones are faster."""
        rate_of = self.rates.get(candidate.shape)
        return rate_of is not None and rate_of.tokens >= candidate.keys["train_batch_size"] * candidate.keys["n_ctx"]

    def _by_law(self) -> Candidate:
        """For a budget of tokens or FLOPs: no time decides, so the rate is measured only to predict it."""
        candidates = [self._candidate(shape) for shape in self.ladder]
        if self.budget.kind == "tokens":  # a larger model is never worse here
            guess = laws.for_tokens(self.budget.amount, self.fixed["n_ctx"])
            best = min(candidates, key=lambda each: abs(math.log(each.shape.matrices / guess.matrices)))
        else:
            best = min(candidates, key=lambda candidate: candidate.loss)
        if best.loss == math.inf:
            raise UserError(
                f"budget: {self.budget} is less than a training step; write at least {best.tokens:,.0f} tokens"
            )
        if best.shape not in self.rates:
            self._measure(best.shape)
        return self._candidate(best.shape)

    def _measure(self, shape: Shape) -> None:
        candidate = self._candidate(shape)
        setup = self.parsed(_draft(self.values, shape, **candidate.keys))
        sequences = numbered(setup.run.train_batch_size, "sequence")
        try:
            self.rates[shape] = measured = rate.measure(setup, self.data, most=MEASURED_SECONDS / 10)
        except TooLargeError as error:
            raise UserError(
                f"budget: {self.budget} calls for {candidate.title}, and {sequences} a step, but {error.need}; "
                "write a smaller budget, or n_layer, n_embd and train_batch_size that fit"
            ) from None
        rates = measured.tokens / measured.step
        print(f"measured: {candidate.title}, {sequences} a step: {rates:,.0f} tokens/s", flush=True)

    def _seconds_per_token(self, shape: Shape, per_token: float) -> float:
        """Measured, or with the FLOP/s of the measured shape of the nearest size."""
        if not self.rates:
            return per_token / self.speed
        near = min(self.rates, key=lambda other: abs(math.log(other.matrices / shape.matrices)))
        known = self.rates[near]
        return known.step / known.tokens * laws.work(shape, self.fixed["n_ctx"]) / laws.work(near, self.fixed["n_ctx"])

    def _candidate(self, shape: Shape) -> Candidate:
        """The shape with its settings, by the rates so far."""
        model = self.parsed(_draft(self.values, shape, **self.fixed)).model_config
        per_token, parameters = flops.flops_per_token(model), flops.matmul_parameters(model)
        seconds = self._seconds_per_token(shape, per_token)
        tokens = self._tokens(shape, seconds, per_token)
        sequences = self.values.get("train_batch_size") or laws.batch(tokens, n_ctx=model.n_ctx, least=self.least)
        batch = sequences * model.n_ctx
        steps = self.values.get("max_steps") or int(tokens // batch)
        if steps > config.MAX_INTEGER:
            raise UserError(f"budget: {self.budget} is more than {config.MAX_INTEGER:,} steps; write a smaller one")
        is_enough, steps = steps > 0, max(1, steps)
        tokens = steps * batch
        keys = self.fixed | {"train_batch_size": sequences, "max_steps": steps}
        keys |= laws.settings(shape, steps, batch_tokens=batch, parameters=parameters, unique=self.text.tokens)
        keys |= self._periods(steps, tokens, model.n_ctx, sequences)
        loss = (
            self.text.scale * laws.LOSS(parameters, laws.effective(tokens, self.text.tokens)) if is_enough else math.inf
        )
        return Candidate(shape, keys, parameters, tokens, loss, seconds * tokens)

    def _tokens(self, shape: Shape, seconds: float, per_token: float) -> float:
        """Tokens that the budget trains on."""
        if self.budget.kind != "seconds":
            return self.budget.amount / (per_token if self.budget.kind == "flops" else 1)
        compiling = self.rates[shape].compilation if shape in self.rates else 0.0
        left = self.budget.amount * (1 - RESERVE) - (time.monotonic() - self.start) - compiling
        if left < self.budget.amount / 4:
            spent = self.budget.amount - left
            raise UserError(
                f"budget: the start, measuring and compiling take an estimated {spent:.0f} s of {self.budget}, as busy "
                f"as this machine is now; write at least {budgets.duration(4 * spent)}, or give tokens or FLOPs"
            )
        return left / seconds / (1 + EVALUATED_SHARE)

    def _periods(self, steps: int, tokens: float, n_ctx: int, sequences: int) -> dict[str, Any]:
        """The keys of evaluations, in EVALUATED_SHARE of the time if a token takes a third of a trained one."""
        windows = max(32, 3 * EVALUATED_SHARE * tokens / EVALUATIONS / n_ctx)
        eval_batch = max(sequences, min(32, 16384 // n_ctx))
        is_all = windows >= len(self.data.evaluation)
        return {
            "train_steps": max(1, math.ceil(steps / EVALUATIONS)),
            "eval_batch_size": eval_batch,
            "eval_steps": None if is_all else max(1, round(windows / eval_batch)),
            "log_steps": max(1, min(50, steps // 100)),
            "iterations": 1 if jax.default_backend() == "cpu" else 10,
        }

    def _report(self, best: Candidate) -> str:
        """Why these settings, and the loss to expect."""
        unique, keys = self.text.tokens, best.keys
        epochs, per_token = best.tokens / unique, self.text.bytes_per_token
        others = (f"{each.shape.width} wide {each.loss:.3f}" for each in map(self._candidate, sorted(self.rates)))
        lines = [
            f"budget: {self.budget}; text: {unique:,} tokens, {per_token:.2f} bytes each",
            f"size: {best.title}, {best.parameters:,} weights in products; expected losses: {', '.join(others)}",
            f"training: {numbered(keys['max_steps'], 'step')} of {best.tokens / keys['max_steps']:,.0f} tokens",
            f"in all {best.tokens:,.0f} tokens, {epochs:.1f} passes over the text, in {budgets.duration(best.seconds)}",
            f"learning rate {keys['lr']:g} (Muon), falling over the last {keys['decay_fraction']:.0%} of the run",
            f"weight decay {keys['weight_decay']:g}, dropout {keys['res_dropout']:g}",
            f"expected: {best.loss:.2f} bits per byte, {best.loss * per_token * math.log(2):.2f} nats per token",
        ]
        if unique * per_token < SMALL_TEXT:
            lines.append("held-out documents of a text as small as this often differ from the rest: add up to 40%")
        if epochs > 4:
            more = self.text.scale * laws.LOSS(best.parameters, laws.effective(best.tokens, 2 * unique))
            lines.append(f"limited by the text: with twice as much text, {more:.2f} bits per byte are expected")
        return "\n".join(lines)


def _text(data: Data, n_ctx: int) -> laws.Text:
    """Counts the training text, and compresses its first windows."""
    windows = data.train.windows_per_pass
    ids = np.concatenate([data.train.batch([i])["tokens"][0] for i in range(min(windows, COUNTED // n_ctx))])
    text = tokenizer.load(data.encoder).decode_bytes(ids) if data.encoder else b""
    compressed = 8 * len(lzma.compress(text, preset=1)) / len(text) if text else None
    return laws.Text(windows * n_ctx, len(text) / len(ids) if text else TYPICAL_BYTES, compressed)
