"""Exports a trained model for other software, on a CPU, from a checkpoint of any number of devices.

    python3 export_model.py --model X.json --to hf                 for transformers, vLLM: a folder
    python3 export_model.py --model X.json --to gguf --dtype q8_0  for llama.cpp, Ollama: a file

Without a checkpoint, the weights that `init_from` names are exported.
"""

import argparse
import functools
import operator
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

import inputs
import optimizers
from estimator import Estimator
from models import MODELS
from models.gpt2 import gguf, gpt2, hf, tuning
from runtime import config, local_copies, params, run_folder, storage
from runtime.errors import UserError, run_program
from runtime.run_config import RunConfig
from text import tokenizers
from text.predictions import PredictionConfig

LARGE = 50e6  # bytes of a parameter that is not read of a checkpoint before it is needed
DTYPES = {"hf": ("f32", "f16", "bf16"), "gguf": ("f32", "f16", "bf16", "q8_0")}


def main() -> None:
    arguments = parse_arguments()
    allowed = DTYPES[arguments.to]
    if arguments.dtype not in allowed:
        raise UserError(f"--dtype {arguments.dtype}: --to {arguments.to} has {', '.join(allowed)}")
    jax.config.update("jax_platforms", "cpu")  # before anything looks for devices

    values = config.read(arguments.model, arguments.set)
    model = MODELS.get(values.get("model", "GPT2"), MODELS["GPT2"])
    sections = [model.Config, optimizers.OptimizerConfig, inputs.InputConfig, RunConfig, PredictionConfig]
    sizes, optimizer, data, run, _ = config.divide(values, sections, source=arguments.model)
    if sizes.projected:
        raise UserError("n_hidden: neither Hugging Face's GPT-2 nor GGUF's has projections around its blocks")
    remote = storage.is_remote(run.model_path)
    if storage.is_remote(arguments.out or run.model_path):
        raise UserError("--out: name a folder of this machine; an export is not written to a bucket")
    folder = Path(run.model_path)
    cache = local_copies.root() if remote else folder.parent / "cache"
    vocabulary = partial(inputs.encoder_path, data, n_vocab=sizes.n_vocab, cache=cache)

    encoder = None if arguments.no_tokenizer else vocabulary()
    if encoder:
        run_folder.check_vocabulary(run.model_path, tokenizers.load(encoder).digest)
    run = run.model_copy(update={"mesh": None})
    wanted = model.Params(sizes, optimizer, 1, vocabulary)
    estimator = Estimator(model.model_fn, wanted, run, devices=jax.devices()[:1])
    step, parameter = parameters(estimator, sizes, step=arguments.step)
    out = Path(arguments.out or f"{folder}-{arguments.to}")
    total = params.count(gpt2.parameters(sizes))
    with tqdm(unit="B", unit_scale=True, desc="writing", disable=not sys.stderr.isatty()) as bar:
        written = write(out, parameter, sizes, encoder=encoder, arguments=arguments, name=folder.name, bar=bar)
    print(f"step {step}, {total:,} parameters, as {arguments.dtype}: {written}")


def parameters(estimator: Estimator, sizes: Any, *, step: int | None) -> tuple[int, Callable[[str], Any]]:
    """The step, and a function that gives a parameter by its name, its adapter added; the large are read when asked."""
    large = {name for name, spec in params.named(gpt2.parameters(sizes)) if 4 * spec.count > LARGE}
    if estimator.latest_step() is None:  # then all of it was made of what init_from names
        large = set()
    rest = {name for name, _ in params.named(tuning.parameters(sizes))} - large
    step, held = estimator.restore(step=step, only=rest)

    def parameter(name: str) -> jax.Array:
        adapter = tuning.adapter_of(name) if sizes.lora_rank else None
        values = estimator.restore(step=step, only={name})[1] if name in large else held
        value = functools.reduce(operator.getitem, name.split("/"), values)
        if adapter is None:
            return value
        return jax.jit(partial(tuning.with_adapter, config=sizes))(value, held[tuning.LORA][adapter])

    return step, parameter


def write(
    out: Path,
    parameter: Callable[[str], Any],
    sizes: Any,
    *,
    encoder: Path | None,
    arguments: argparse.Namespace,
    name: str,
    bar: tqdm,
) -> Path:
    """Writes the folder or the file; returns what to give to other software."""
    if arguments.to == "hf":
        hf.write(out, parameter, sizes, encoder=encoder, dtype=arguments.dtype, progress=bar.update)
        return out
    if encoder is None:
        raise UserError("--no_tokenizer: a GGUF file holds its vocabulary; leave it out")
    file = out if out.suffix == ".gguf" else out / f"{name}-{arguments.dtype}.gguf"
    file.parent.mkdir(parents=True, exist_ok=True)
    gguf.write(file, parameter, sizes, encoder=encoder, dtype=arguments.dtype, name=name, progress=bar.update)
    return file


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="X.json", help="the JSON file of the run")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the file")
    parser.add_argument("--to", required=True, choices=DTYPES, help="a Hugging Face folder, or a GGUF file")
    parser.add_argument("--out", metavar="DIR", help="where to (default: beside the run, RUN-hf or RUN-gguf)")
    parser.add_argument("--step", type=int, metavar="N", help="the checkpoint of this step (default: the newest)")
    parser.add_argument("--dtype", default="f32", help="type of the matrices: f32 (default), f16, bf16; gguf: q8_0 too")
    parser.add_argument("--no_tokenizer", action="store_true", help="hf: the weights alone, without a vocabulary")
    return parser.parse_args()


if __name__ == "__main__":
    run_program(main)
