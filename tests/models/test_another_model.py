"""A complete model other than GPT-2, trained by main.py: an example of adding an entry to `models.MODELS`.

This module is that entry. It predicts each token from the previous one alone, with one hidden layer. Its first half
would be `models/bigram.py` in the repository, and `models.MODELS` would list it: {"GPT2": gpt2, "Bigram": bigram}.
"""

import json
import sys
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import Field

import main
import optimizers
from estimator.config import Section
from estimator.errors import UserError
from estimator.estimator import EstimatorSpec, Mode
from estimator.parallel.param_spec import ParamSpec, count, map_specs
from estimator.tokenization.train_bpe import train_byte_bpe
from models import MODELS
from optimizers import OptimizerConfig


class Config(Section):
    """Model: its section of the JSON file. main.py itself reads n_ctx and n_vocab."""

    model: Literal["Bigram"] = Field("Bigram", description="which entry of `models.MODELS`")
    n_ctx: int = Field(1024, gt=0, description="tokens of a sequence")
    n_vocab: int = Field(50257, gt=0, description="number of token ids")
    n_embd: int = Field(gt=0, description="width of the embedding")
    n_inner: int = Field(gt=0, description="width of the hidden layer")


class Params(NamedTuple):
    """The arguments of main.py for `model_fn`: a section each, the last step, and values that only some models need."""

    model: Config
    optimizer: OptimizerConfig
    total_steps: int
    vocabulary: Callable[[], Any] | None = None
    platform: str | None = None


def parameters(config: Config) -> dict[str, Any]:
    """Declares each parameter; initial values, counts, decay, checkpoints, and sharding follow from the declaration."""
    embed, inner = ("embed", config.n_embd), ("mlp", config.n_inner)

    def matrix(rows: tuple[str, int], columns: tuple[str, int]) -> ParamSpec:
        return ParamSpec(shape=(rows[1], columns[1]), axes=(rows[0], columns[0]), std=0.1, decay=True, rows=1)

    return {
        "wte": matrix(("vocab", config.n_vocab), embed),
        "c_fc": matrix(embed, inner),
        "b": ParamSpec(shape=(config.n_inner,), axes=("mlp",)),
        "c_proj": matrix(inner, ("output", config.n_vocab)),  # a mesh splits only one dimension, which is "mlp"
    }


def loss(params: dict[str, jax.Array], batch: dict[str, jax.Array], key: Any) -> tuple[jax.Array, jax.Array]:
    """Returns (sum of negative log-likelihoods in nats, sum of weights); see `models.gpt2.model.loss` for the batch."""
    hidden_BTF = jax.nn.gelu(params["wte"][batch["tokens"][:, :-1]] @ params["c_fc"] + params["b"])
    scores_BTV = jax.nn.log_softmax(hidden_BTF @ params["c_proj"])
    nll_BT = -jnp.take_along_axis(scores_BTV, batch["tokens"][:, 1:, None], axis=-1)[..., 0]
    weights_BT = batch.get("weights", jnp.ones_like(nll_BT))
    return (nll_BT * weights_BT).sum(), weights_BT.sum()


def model_fn(params: Params, mode: Mode) -> EstimatorSpec:
    config, specs = params.model, parameters(params.model)
    train = mode == "train"
    return EstimatorSpec(
        parameters=specs,
        loss=loss,
        optimizer=optimizers.make(params.optimizer, specs, total_steps=params.total_steps) if train else None,
        tokens_per_example=config.n_ctx,
        flops_per_token=6 * config.n_inner * (config.n_embd + config.n_vocab),
        activation_bytes=4 * config.n_ctx * (config.n_embd + 2 * config.n_inner + 2 * config.n_vocab),
    )


def attention_choice(config: Config, mode: Mode) -> str:
    """Returns a log message that names the implementation in use."""
    return "attention: none"


def initial_vocabulary(config: Config) -> None:
    """Returns no vocabulary, as runs begin with random weights."""


def warnings(config: Config) -> list[str]:
    return ["n_inner is below n_embd, which loses what the embedding says"] if config.n_inner < config.n_embd else []


def complete(values: dict[str, Any], parsed: Any, **_: Any) -> dict[str, Any]:
    """Refuses the key `budget`: nothing is known of which sizes are good."""
    raise UserError("budget: this model chooses no sizes; leave budget out")


SIZES = {"n_ctx": 16, "n_vocab": 257, "n_embd": 16, "n_inner": 32}


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """Returns --model and a configuration of the new model, with a text where each letter determines the next one."""
    monkeypatch.setitem(MODELS, "Bigram", sys.modules[__name__])
    (tmp_path / "texts").mkdir()
    for number in range(8):
        (tmp_path / "texts" / f"{number}.txt").write_text("abcdefghij"[number:] + "abcdefghij" * 60)
    values = {"model": "Bigram", "model_path": str(tmp_path / "run"), "input": "text", "opt_name": "adam", "lr": 0.02}
    values |= {"data_path": str(tmp_path / "texts"), "warmup_steps": 5, "mesh": {"data": -1}}
    values |= {"train_batch_size": 8, "max_steps": 60, "train_steps": 30, "log_steps": 10, "eval_steps": 2}
    (tmp_path / "x.json").write_text(json.dumps(values | SIZES))
    return ["main.py", "--model", str(tmp_path / "x.json")]


def call(monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", arguments)
    return main.main()


def test_main_trains_evaluates_continues_and_plans_it(arguments, tmp_path, monkeypatch, capsys):
    assert call(monkeypatch, [*arguments, "--set", "max_steps=30"]) == 0
    assert call(monkeypatch, arguments) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["split"] == "eval"]
    assert len(losses) == 2
    assert losses[1] < losses[0] < np.log(SIZES["n_vocab"])
    assert losses[1] < 1.0  # the model has learned which letter follows which
    call(monkeypatch, [*arguments, "--evaluate"])
    assert f"step 60: loss {losses[1]:.4f}" in capsys.readouterr().out
    call(monkeypatch, [*arguments, "--dry_run", "--set", "n_inner=8"])
    out = capsys.readouterr().out
    assert "attention: none\nwarning: n_inner is below n_embd" in out


def test_what_it_does_not_do_is_told(arguments, tmp_path, monkeypatch):
    train_byte_bpe(["abcdefghij"], n_vocab=257, out=tmp_path / "encoder")
    vocabulary = ["--set", f"encoder_path={tmp_path / 'encoder'}", "--set", "max_steps=5"]
    assert call(monkeypatch, [*arguments, *vocabulary]) == 0
    with pytest.raises(UserError, match="this model does not predict: its model_fn gives no predictor"):
        call(monkeypatch, [*arguments, *vocabulary, "--predict_text", "a"])
    with pytest.raises(UserError, match="budget: this model chooses no sizes"):
        call(monkeypatch, [*arguments, *vocabulary, "--set", "budget=2h"])


def test_its_parameters_are_what_it_declares():
    specs = parameters(Config(**SIZES))
    assert count(specs) == 257 * 16 + 16 * 32 + 32 + 32 * 257
    zeros = map_specs(lambda spec: jnp.zeros(spec.shape), specs)
    total, weight = loss(zeros, {"tokens": jnp.zeros((2, 17), jnp.int32)}, None)
    assert float(total / weight) == pytest.approx(np.log(257), rel=1e-6)
