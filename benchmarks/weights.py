"""Measures peak memory of importing and exporting weights, and checks a round trip.

python -m benchmarks.weights                             peaks for random weights of GPT-2's 355M; --size: another
python -m benchmarks.weights --round_trip TEXT ENCODER   124M saved by transformers, fine-tuned, exported, loaded there

A peak is the largest resident memory of a process of its own, Python and JAX included; files that it maps count too.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._report import finish, processor
from benchmarks._sizes import SIZES
from benchmarks._workers import ROOT
from estimator.config import parse_sections
from estimator.estimator import Estimator
from estimator.interop import safetensors_io
from estimator.parallel.param_spec import named
from estimator.training import metrics_log
from estimator.training.checkpoints import Checkpoints
from estimator.training.run_config import RunConfig
from models import gpt2 as model
from models.gpt2 import model as gpt2
from models.gpt2.convert import hf, name_maps
from optimizers import OptimizerConfig

STEPS, TOKENS = 20, 128  # of the round trip
CLOSE = 1e-4  # largest difference of logits
PACKAGES = ("jax", "numpy", "torch", "transformers")
# A process of its own around the measured one, whose largest memory begins with that of the process it is forked from.
AROUND = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code != 0)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, help="of the model: 355M, of the round trip 124M")
    parser.add_argument("--round_trip", nargs=2, type=Path, metavar=("TEXT", "ENCODER"), help="a text, a vocabulary")
    parser.add_argument("--restore", metavar="X.json", help=argparse.SUPPRESS)  # the measured process of an import
    parser.add_argument("--save", metavar="X.json", help=argparse.SUPPRESS)  # saves imported weights
    arguments = parser.parse_args()
    if arguments.restore:
        parameters_of(json.loads(Path(arguments.restore).read_text()))
        return
    if arguments.save:
        save(json.loads(Path(arguments.save).read_text()))
        return
    with tempfile.TemporaryDirectory(prefix="weights-") as folder:
        if arguments.round_trip:
            text, encoder = (path.resolve() for path in arguments.round_trip)
            round_trip(Path(folder), arguments.size or "124M", text=text, encoder=encoder)
        else:
            memory(Path(folder), arguments.size or "355M")


def keys_of(size: str, folder: Path, **changes: Any) -> dict[str, Any]:
    layers, width, heads = SIZES[size][:3]
    values = {"n_layer": layers, "n_embd": width, "n_head": heads, "n_vocab": 50257, "init_from": str(folder / "there")}
    return values | {"model_path": str(folder / "run"), "train_batch_size": 1, "max_steps": STEPS} | changes


def memory(folder: Path, size: str) -> None:
    """Peaks of an import, of an import with export, and of an export of a checkpoint, in files of the weights."""
    large, small = written(folder / size, size), written(folder / "small", "tiny")
    exports = ["export_model.py", "--to", "hf", "--no_tokenizer", "--model"]
    peaks: dict[str, float] = {}
    for name, program in (
        ("import", ["-m", "benchmarks.weights", "--restore"]),
        ("export", exports),
        ("save", ["-m", "benchmarks.weights", "--save"]),
        ("checkpoint_export", exports),
    ):
        for at, kind in ((folder / "small", f"{name}_baseline"), (folder / size, name)):
            seconds, peaks[kind] = peak_bytes([sys.executable, *program, str(at / "x.json")])
            print(f"{at.name} {name}: {peaks[kind] / 1e6:,.0f} MB in {seconds:.1f} s", flush=True)
    details: dict[str, float] = {
        f"{name}_MB": round(value / 1e6) for name, value in peaks.items() if not name.startswith("save")
    }
    details |= {"file_MB": round(large / 1e6), "small_file_MB": round(small / 1e6)}
    details |= {f"{name}_files": peaks[name] / large for name in ("import", "checkpoint_export")}
    unit = f"peak resident memory of an export over the {large / 1e9:.2f} GB file of {size}"
    finish("weights", unit, peaks["export"] / large, {}, device=processor(), packages=PACKAGES, details=details)


def save(values: dict[str, Any]) -> None:
    """A checkpoint, of the run, of what it begins with."""
    with contextlib.closing(Checkpoints(Path(values["model_path"]) / "checkpoints", writer=True)) as checkpoints:
        params = parameters_of(values)[1]
        checkpoints.save(1, {"step": jnp.int32(1), "params": params, "optimizer": {"count": jnp.int32(1)}})


def written(folder: Path, size: str) -> int:
    """Writes a Hugging Face folder of random weights, tensor by tensor, and a JSON file; returns the file's size."""
    values = keys_of(size, folder)
    there = folder / "there"
    there.mkdir(parents=True)
    config = model.Config(**{key: values[key] for key in model.Config.model_fields if key in values})
    shapes = {}
    layout = hf.layout()
    for name, spec in named(gpt2.parameters(config)):
        for entry in name_maps.entries(layout, name, spec):
            shapes[entry] = name_maps.stored_shape(layout, spec)
    draw = np.random.default_rng(0)
    file = there / "model.safetensors"
    safetensors_io.write(
        file, shapes, lambda name: draw.standard_normal(shapes[name], np.float32), dtype="F32", metadata={}
    )
    (there / "config.json").write_text(json.dumps(hf.config(config, end_of_text=None, dtype="float32")))
    (folder / "x.json").write_text(json.dumps(values))
    return file.stat().st_size


def peak_bytes(program: list[str]) -> tuple[float, int]:
    """Seconds and largest resident memory of a program."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", AROUND, *program], cwd=ROOT, stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(f"{' '.join(program)} failed")
    return time.perf_counter() - start, int(done.stdout)


def parameters_of(values: dict[str, Any]) -> tuple[Any, Any]:
    """The model's keys, and the newest parameters of its run, or those that it begins with."""
    sections = [model.Config, OptimizerConfig, RunConfig]
    known = {key for section in sections for key in section.model_fields}
    ours = {key: value for key, value in values.items() if key in known}
    config, optimizer, run = parse_sections(ours, sections, source="the benchmark")
    estimator = Estimator(model.model_fn, model.Params(config, optimizer, 1), run, devices=jax.devices()[:1])
    return config, jax.block_until_ready(estimator.restore()[1])


def round_trip(folder: Path, size: str, *, text: Path, encoder: Path) -> None:
    """transformers' random model through download's folder, some steps, an export, and transformers again."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    values = keys_of(size, folder)
    torch.manual_seed(0)
    shape = {key: values[key] for key in ("n_layer", "n_embd", "n_head")}
    GPT2LMHeadModel(GPT2Config(vocab_size=50257, **shape)).save_pretrained(folder / "there")
    print(f"transformers wrote {size}", flush=True)
    values |= {"n_ctx": TOKENS, "input": "text", "data_path": str(text), "encoder_path": str(encoder)}
    values |= {"embed_dropout": 0.0, "attn_dropout": 0.0, "res_dropout": 0.0, "scale_by_in": False, "lr": 1e-4}
    values |= {"train_steps": STEPS, "eval_steps": 4, "log_steps": 1, "warmup_steps": 2}
    (folder / "x.json").write_text(json.dumps(values))
    start = time.perf_counter()
    for program in (["main.py"], ["export_model.py", "--to", "hf", "--out", str(folder / "back")]):
        command = [sys.executable, program[0], "--model", str(folder / "x.json"), *program[1:]]
        subprocess.run(command, cwd=ROOT, check=True)
    seconds = time.perf_counter() - start
    records = metrics_log.read(folder / "run" / "metrics.jsonl")
    losses = [record["loss"] for record in records if record["split"] == "train"]
    config, params = parameters_of(values)
    tokens = np.random.default_rng(0).integers(0, 50257, (2, TOKENS)).astype(np.int32)
    hidden, _ = gpt2.forward(gpt2.cast(params, config), jnp.asarray(tokens), config=config)
    ours = np.asarray(gpt2.logits(params, hidden, config=config))[..., :50257]
    loaded = GPT2LMHeadModel.from_pretrained(folder / "back").eval()
    with torch.no_grad():
        theirs = loaded(torch.from_numpy(tokens).long()).logits.numpy()
    difference = float(np.abs(ours - theirs).max())
    details = {"first_loss": losses[0], "last_loss": losses[-1], "steps": STEPS, "seconds": round(seconds)}
    details |= {"logits_std": float(theirs.std()), "equal": difference <= CLOSE}
    unit = f"largest difference of logits, transformers and ours, {size} fine-tuned and exported"
    finish("weights_round_trip", unit, difference, {}, device=processor(), packages=PACKAGES, details=details)


if __name__ == "__main__":
    main()
