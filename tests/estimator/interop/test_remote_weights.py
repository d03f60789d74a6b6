"""Remote weights: a run can start from weights in a bucket, and a remote run can be exported to a local directory."""

import contextlib
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import GOLDEN, one_device

import export_model
import optimizers
from estimator import storage
from estimator.config import parse_sections
from estimator.errors import UserError
from estimator.estimator import Estimator
from estimator.interop.safetensors_io import SafeTensors
from estimator.parallel.param_spec import initialize
from estimator.training.checkpoints import Checkpoints
from estimator.training.run_config import RunConfig
from models import gpt2 as model
from models.gpt2 import model as gpt2
from models.gpt2.convert import hf, name_maps

SIZES = {"n_ctx": 32, "n_vocab": 512, "n_embd": 32, "n_head": 2, "n_layer": 1, "train_batch_size": 2, "max_steps": 2}


@pytest.fixture(autouse=True)
def cache(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("GPT2_CACHE", str(tmp_path / "cache"))


def estimator(folder, **changes):
    values = SIZES | {"model_path": str(folder)} | changes
    config, optimizer, run = parse_sections(
        values, [model.Config, optimizers.OptimizerConfig, RunConfig], source="test"
    )
    return Estimator(model.model_fn, model.Params(config, optimizer, 2), run, devices=one_device())


def upload(folder, there):
    for path in folder.iterdir():
        storage.upload(path, f"{there}/{path.name}")


def test_weights_of_others_are_copied_from_a_bucket(bucket, tmp_path):
    keys = json.loads((GOLDEN / "adamw_warmup_cosine.json").read_text())
    keys = {key: keys[key] for key in ("n_ctx", "n_vocab", "n_embd", "n_head", "n_layer")}
    for path in GOLDEN.glob("adamw_warmup_cosine.ckpt.*"):
        storage.upload(path, f"gs://bucket/old/model.ckpt-12.{path.name.rpartition('ckpt.')[2]}")
    storage.write_bytes_atomic("gs://bucket/old/model.ckpt-99.data-00000-of-00001", b"of another step")
    first = estimator(tmp_path / "a", **keys, init_from=str(GOLDEN / "adamw_warmup_cosine.ckpt")).restore()[1]
    config = model.Config(**keys)
    hf.write(tmp_path / "hf", first, config, encoder=None, dtype="f32")
    upload(tmp_path / "hf", "gs://bucket/hf")
    for where in ("old/model.ckpt-12", "old/model.ckpt-12.index", "hf", "hf/model.safetensors"):
        found = estimator(tmp_path / "b", **keys, init_from=f"gs://bucket/{where}").restore()[1]
        jax.tree.map(np.testing.assert_array_equal, found, first)
        if where == "old/model.ckpt-12":  # another checkpoint with the same prefix is not copied
            assert not list((tmp_path / "cache").rglob("model.ckpt-99*"))
    with pytest.raises(UserError, match="nothing exists there; check the spelling"):
        estimator(tmp_path / "b", **keys, init_from="gs://bucket/hff").restore()


def test_a_run_in_a_bucket_is_exported_and_begun_from(bucket, tmp_path, monkeypatch):
    specs = gpt2.parameters(model.Config(**{key: value for key, value in SIZES.items() if key.startswith("n_")}))
    trained = initialize(specs, jax.random.key(5))
    with contextlib.closing(Checkpoints("gs://bucket/runs/a/checkpoints", writer=True)) as checkpoints:
        checkpoints.save(2, {"step": jnp.int32(2), "params": trained, "optimizer": {"count": jnp.int32(2)}})
    values = SIZES | {"model_path": "gs://bucket/runs/a"}
    storage.write_bytes_atomic("gs://bucket/runs/a/config.json", json.dumps(values).encode())
    begun = estimator(tmp_path / "b", init_from="gs://bucket/runs/a").restore()[1]
    jax.tree.map(np.testing.assert_array_equal, begun, trained)

    (tmp_path / "x.json").write_text(json.dumps(values))
    arguments = ["export_model.py", "--model", str(tmp_path / "x.json"), "--to", "hf", "--no_tokenizer"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(UserError, match="--out: name a local folder"):
        export_model.main()
    monkeypatch.setattr(sys, "argv", [*arguments, "--out", str(tmp_path / "hf")])
    export_model.main()
    stored = SafeTensors([tmp_path / "hf" / "model.safetensors"])
    expected = name_maps.to_arrays(trained, specs, hf.layout())
    assert set(stored) == set(expected)
    for name in stored:
        np.testing.assert_array_equal(stored[name], expected[name])
