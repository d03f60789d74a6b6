"""Why the models of ConnorJL/GPT2 fell short of OpenAI's: its settings against ours, one change at a time and together.

python -m benchmarks.recipe                           1,000 steps, three seeds; under an hour on two cores
python -m benchmarks.recipe --steps 200 --minutes 20  smaller; no new seed is begun that would end later
python -m benchmarks.recipe --text FILE --figure recipe.png

All runs have the text, sizes and tokens of configs/shakespeare.json and differ in one thing from our recipe (Muon,
warmup-stable-decay). The changes are ConnorJL's
- initialization: every matrix is also divided by the root of its inputs;
- table dropout: of the embedding table, which is the output matrix too;
- restarting input: documents in file order, from the first one again at each call of train(), here --restarts times in
  a run, with its 117M.json 50 times;
- Adafactor at its rate (1.5B.json), and AdamW at its rate (117M.json);
- decay of biases and gains.
`all` is everything with Adafactor, `all, AdamW` with AdamW. The result is the loss on held-out text after the last
step.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import inputs
import optimizers
from benchmarks._report import finish, installed, processor, say, table
from benchmarks._workers import ROOT
from estimator import config
from estimator import setup as setups
from estimator.data.batches import Batches
from estimator.errors import UserError, run_program
from estimator.estimator import Estimator, EstimatorSpec, Mode
from estimator.parallel import mesh, param_spec
from estimator.tokenization import tokenizer
from estimator.training.prefetch import Prefetcher, StepPlan
from estimator.training.train_step import TrainState
from models import MODELS
from models.gpt2.layers import dropped

FIXTURES = Path(os.environ.get("GPT2_FIXTURES", ROOT.parent / "shared" / "fixtures"))
OURS = {"opt_name": "muon", "lr": 0.006, "schedule": "wsd", "decay_fraction": 0.5, "beta2": 0.99, "weight_decay": 0.1}
THEIRS = {"lr": 0.00025, "schedule": "cosine", "weight_decay": 0.01, "grad_clip": None}
ADAFACTOR = THEIRS | {"opt_name": "adafactor", "beta1": 0.0, "decay_type": "pow", "decay_exponent": 0.8}
ADAMW = THEIRS | {"opt_name": "adam", "beta2": 0.98, "epsilon": 1e-9}
INITIALIZATION, DECAY = {"scale_by_in": True}, {"decay_all": True}
TABLE_DROPOUT = 0.1


class Variant(NamedTuple):
    """A change of our recipe. table_dropout: of the embedding table. restarts: of the input, which is not shuffled."""

    name: str
    keys: dict[str, Any]
    table_dropout: bool = False
    restarts: bool = False


VARIANTS = (
    Variant("ours", {}),
    Variant("initialization", INITIALIZATION),
    Variant("table dropout", {}, table_dropout=True),
    Variant("restarting input", {}, restarts=True),
    Variant("Adafactor", ADAFACTOR),
    Variant("AdamW", ADAMW),
    Variant("decay of all", DECAY),
    Variant("all", INITIALIZATION | ADAFACTOR | DECAY, table_dropout=True, restarts=True),
    Variant("all, AdamW", INITIALIZATION | ADAMW | DECAY, table_dropout=True, restarts=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="the text (default: tinyshakespeare.txt, where it is)")
    parser.add_argument("--steps", type=int, default=1000, help="of each run (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="of each change (%(default)s)")
    parser.add_argument("--minutes", type=float, default=60, help="no seed is begun that would end later (%(default)s)")
    parser.add_argument("--restarts", type=int, default=5, help="of the input in a run (%(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for all runs")
    parser.add_argument("--figure", type=Path, help="draw the losses into this file")
    parser.add_argument("--smoke", action="store_true", help="the smallest of everything")
    arguments = parser.parse_args()
    text = arguments.text or FIXTURES / "tinyshakespeare.txt"
    if not text.is_file():
        if arguments.text:
            raise UserError(f"--text {text}: no such file")
        say(f"recipe: left out, because {text} is not here; name a text with --text")
        return
    if arguments.smoke:
        arguments.steps, arguments.seeds = 4, 1
        arguments.set += ["n_layer=1", "n_embd=16", "n_head=2", "eval_steps=1"]
    with tempfile.TemporaryDirectory(prefix="recipe-") as folder:
        losses = measure(Path(folder), text.read_bytes(), arguments)
    rows = summary(losses)
    say("\n" + table(rows))
    if arguments.figure and installed("matplotlib"):
        draw(losses, arguments.figure)
    mean = {row["change"]: row["loss"] for row in rows}
    finish(
        "recipe",
        "nats per token of held-out text",
        mean.pop("ours"),
        mean,
        device=processor(),
        packages=("jax", "optax"),
        details={"rows": rows, "losses": losses, "steps": arguments.steps, "set": arguments.set, "text": text.name},
        less_is_better=True,
    )


def measure(folder: Path, text: bytes, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Final losses by variant, one a seed; every variant has the same seeds."""
    cut = len(text) * 9 // 10
    (folder / "text").mkdir()
    (folder / "text" / "train.txt").write_bytes(text[:cut])
    (folder / "text" / "valid.txt").write_bytes(text[cut:])
    variants = (VARIANTS[0], VARIANTS[-2]) if arguments.smoke else VARIANTS
    losses: dict[str, list[float]] = {variant.name: [] for variant in variants}
    trainers: dict[str, Trainer] = {}
    start = time.monotonic()
    for seed in range(arguments.seeds):
        if seed and (time.monotonic() - start) * (seed + 1) / seed > 60 * arguments.minutes:
            say(f"{seed} seeds, because another one would end after {arguments.minutes:g} minutes")
            break
        for variant in variants:
            if variant.name not in trainers:
                trainers[variant.name] = Trainer(folder, variant, arguments)
            losses[variant.name].append(trainers[variant.name].final_loss(seed))
            say(f"seed {seed}, {variant.name}: {losses[variant.name][-1]:.4f}")
    return losses


class Trainer:
    """A variant's compiled training step, for runs that differ in the seed of the weights and of the data's order."""

    def __init__(self, folder: Path, variant: Variant, arguments: argparse.Namespace):
        steps = arguments.steps
        values = config.read(ROOT / "configs" / "shakespeare.json") | OURS
        values |= {"precision": "auto", "max_steps": steps, "train_steps": steps, "warmup_steps": max(1, steps // 20)}
        values |= {"data_path": str(folder / "text"), "model_path": str(folder / "run")}
        file = folder / "keys.json"
        file.write_text(json.dumps(values))
        file.write_text(json.dumps(config.read(file, arguments.set) | variant.keys))
        parts = {"models": MODELS, "optimizers": optimizers, "open_data": inputs.open_data}
        self.setup = setups.read(str(file), [], **parts)
        self.data = self.setup.open_data()
        self.text = folder / "text" / "train.txt"
        self.variant, self.steps, self.period = variant, steps, max(1, steps // arguments.restarts)
        params = self.setup.model.Params(
            self.setup.model_config, self.setup.optimizer, steps, self.setup.vocabulary, None
        )
        self.estimator = Estimator(self.model_fn, params, self.setup.run)
        evaluation = self.setup.evaluation(self.data, self.estimator)
        assert evaluation
        self.evaluation = evaluation
        self.spec = self.estimator.spec("train")
        plan = self.estimator.plan(total_steps=steps, first_step=0)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, plan.state)
        self.begin = jax.jit(self.initial, out_shardings=shardings)
        self.program, dims = self.estimator.program(plan.spec, plan.accumulation, plan.state)
        self.feeding: dict[str, Any] = {
            "sharding": mesh.split_dim(self.estimator.mesh, dims), "accumulation": plan.accumulation
        }  # fmt: skip

    def model_fn(self, params: Any, mode: Mode) -> EstimatorSpec:
        spec = self.setup.model.model_fn(params, mode)
        return spec._replace(loss=with_table_dropout(spec.loss)) if self.variant.table_dropout else spec

    def initial(self, key: jax.Array) -> TrainState:
        assert self.spec.optimizer
        values = param_spec.initialize(self.spec.parameters, key)
        return TrainState(jnp.int32(0), values, self.spec.optimizer.transform.init(values))

    def final_loss(self, seed: int) -> float:
        """Trains with this seed; the loss of the whole held-out text afterwards, in nats per token."""
        state = self.begin(jax.random.key(seed))
        calls = StepPlan(0, self.steps, max_steps_per_call=1, stops=())
        with closing(Prefetcher(self.batches(seed), calls, max_steps_per_call=1, **self.feeding)) as groups:
            for group in groups:
                state, metrics = self.program(state, group.batches, group.count)
                jax.block_until_ready(metrics)
        metrics = self.evaluation(state.params)
        assert metrics
        return metrics["loss"]

    def batches(self, seed: int) -> Callable[[int], dict[str, np.ndarray]]:
        """step -> batch: shuffled by the seed, or in the order of the text, restarting."""
        rows, n_ctx = self.setup.run.train_batch_size, self.setup.model_config.n_ctx
        if self.variant.restarts:
            return restarting(ordered_tokens(self.text, self.data.encoder), rows=rows, n_ctx=n_ctx, period=self.period)
        data = replace(self.setup, data=self.setup.data.model_copy(update={"data_seed": seed})).open_data()
        return Batches(data.train, batch_size=rows)


def with_table_dropout(loss: Callable[..., Any]) -> Callable[..., Any]:
    """ConnorJL's and GPT-1's embedding dropout: on the tables, once a step, so that the tied output matrix is dropped
    too."""

    def dropping(params: Any, batch: Any, key: jax.Array | None) -> Any:
        if key is None:
            return loss(params, batch, None)
        tokens_key, positions_key, key = jax.random.split(key, 3)
        tables = {
            "wte": dropped(params["wte"], TABLE_DROPOUT, tokens_key),
            "wpe": dropped(params["wpe"], TABLE_DROPOUT, positions_key),
        }
        return loss(params | tables, batch, key)

    return dropping


def ordered_tokens(text: Path, encoder: str | None) -> np.ndarray:
    """int32 [tokens] of the training text in its order."""
    assert encoder
    return tokenizer.load(encoder).encode_batch([text.read_text(encoding="utf-8", errors="replace")])[0]


def restarting(ids: np.ndarray, *, rows: int, n_ctx: int, period: int) -> Callable[[int], dict[str, np.ndarray]]:
    """Batches of consecutive windows that begin with the first one again every `period` steps."""
    windows = (len(ids) - 1) // n_ctx

    def batches(step: int) -> dict[str, np.ndarray]:
        first = step % period * rows
        starts = [(first + row) % windows * n_ctx for row in range(rows)]
        return {"tokens": np.stack([ids[start : start + n_ctx + 1] for start in starts])}

    return batches


def summary(losses: dict[str, list[float]]) -> list[dict[str, Any]]:
    """A row for each variant: mean loss, standard deviation over seeds, and the difference from ours."""
    ours = statistics.mean(losses["ours"])
    return [
        {
            "change": name,
            "loss": statistics.mean(values),
            "deviation": statistics.stdev(values) if len(values) > 1 else None,
            "worse by": statistics.mean(values) - ours,
        }
        for name, values in losses.items()
    ]


def draw(losses: dict[str, list[float]], path: Path) -> None:
    """The losses of each variant's seeds as points, the best variant on top, with the mean of ours as a line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = sorted(losses, key=lambda name: statistics.mean(losses[name]), reverse=True)
    ours = statistics.mean(losses["ours"])
    figure, axis = plt.subplots(figsize=(7.5, 0.4 * len(names) + 1.2), layout="constrained")
    axis.axvline(ours, color="#009e73", linewidth=1, zorder=0)
    for line, name in enumerate(names):
        mean = statistics.mean(losses[name])
        color = "#009e73" if name == "ours" else "#d55e00" if name.startswith("all") else "#0072b2"
        axis.plot([ours, mean], [line, line], color=color, linewidth=2)
        axis.plot(losses[name], [line] * len(losses[name]), "o", color=color, markersize=6, alpha=0.7)
        label = f"{mean:.3f}" if name == "ours" else f"{mean:.3f} ({mean - ours:+.3f})"
        axis.annotate(label, (max(*losses[name], ours), line), xytext=(9, 0), textcoords="offset points", va="center")
    axis.set_yticks(range(len(names)), [name if name == "ours" else f"ConnorJL's {name}" for name in names])
    axis.set_xlabel("loss on held-out text, nats per token (a point for each seed)")
    least, most = (extreme(value for values in losses.values() for value in values) for extreme in (min, max))
    axis.set_xlim(least - 0.06 * (most - least), most + 0.3 * (most - least))
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    run_program(main)
