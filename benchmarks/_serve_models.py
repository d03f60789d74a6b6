"""Tiny models that each answer with one letter, whatever they are asked: who has answered can be told."""

import glob
import json
import shutil
import time
from pathlib import Path

import numpy as np

from estimator.parallel import param_spec
from estimator.tokenization.tokenizer import byte_level_tokenizer
from models.gpt2 import model as gpt2
from models.gpt2.convert import hf
from models.gpt2.model import GPT2Config

TOKENIZER = byte_level_tokenizer()
SIZES = {"n_vocab": TOKENIZER.n_vocab, "n_ctx": 128, "n_embd": 32, "n_head": 2, "n_layer": 1}


def write_weights(folder: Path, letter: str) -> None:
    """The final norm gives the same vector at every position, which only the letter's embedding has.

    `folder` becomes a link to the weights, so that a load at any moment finds the earlier ones or these.
    """
    config = GPT2Config(**SIZES)
    params = param_spec.map_specs(lambda spec: np.zeros(spec.shape, np.float32), gpt2.parameters(config))
    (token,) = TOKENIZER.encode(letter)
    params["wte"][token] = 1.0
    params["ln_f"]["b"][:] = 1.0
    link, written = folder.with_name(f"{folder.name}.link"), folder.with_name(f"{folder.name}.{time.monotonic_ns()}")
    hf.write(written, params, config, encoder=folder.parent / "encoder", dtype="f32")
    before = folder.resolve()
    link.symlink_to(written)
    link.replace(folder)
    for older in folder.parent.glob(f"{glob.escape(folder.name)}.[0-9]*"):
        if older not in (before, written):  # which a load may still read
            shutil.rmtree(older)


def write_server(folder: Path, letters: str, *, memory_bytes: int | None) -> Path:
    """A server's JSON file with a model for each letter."""
    TOKENIZER.save(folder / "encoder")
    models = []
    for letter in letters:
        write_weights(folder / letter, letter)
        values = {**SIZES, "model_path": str(folder / f"run-{letter}"), "init_from": str(folder / letter),
                  "encoder_path": str(folder / "encoder"), "train_batch_size": 1, "max_steps": 1}  # fmt: skip
        (folder / f"{letter}.json").write_text(json.dumps(values))
        models.append({"key": letter, "config": str(folder / f"{letter}.json")})
    values = {"models": models, "port": 0, "slots": 8, "drain": 20, "memory_bytes": memory_bytes}
    (folder / "server.json").write_text(json.dumps(values))
    return folder / "server.json"
