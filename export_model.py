"""Exports a trained model for other software, on a CPU, from a checkpoint written by any number of devices.

    python3 export_model.py --model X.json --to hf                 for transformers, vLLM: a folder
    python3 export_model.py --model X.json --to gguf --dtype q8_0  for llama.cpp, Ollama: a file

Without a checkpoint, the weights that `init_from` names are exported.
"""

if __name__ == "__main__":  # before the imports that take time
    from estimator import interrupts

    interrupts.exit_quietly()

import argparse
import functools
import operator
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

import inputs
import optimizers
from estimator import setup as setups
from estimator import storage
from estimator.arguments import Parser
from estimator.errors import UserError, run_program
from estimator.estimator import Estimator
from estimator.generation.completion import PredictionConfig
from estimator.parallel import param_spec
from estimator.storage import locks, user_paths
from estimator.tokenization import tokenizer
from estimator.training import run_dir
from models import MODELS
from models.gpt2 import lora
from models.gpt2 import model as gpt2
from models.gpt2.convert import gguf, hf

LARGE = 50e6  # bytes; larger parameters are read from the checkpoint one by one, when they are written
DTYPES = {"hf": ("f32", "f16", "bf16"), "gguf": ("f32", "f16", "bf16", "q8_0")}


def main() -> None:
    arguments = parse_arguments()
    allowed = DTYPES[arguments.to]
    if arguments.dtype not in allowed:
        raise UserError(f"--dtype {arguments.dtype}: --to {arguments.to} has {', '.join(allowed)}")
    jax.config.update("jax_platforms", "cpu")  # before anything looks for devices

    setup = setups.read(
        arguments.model, arguments.set, models=MODELS, optimizers=optimizers, open_data=inputs.open_data
    )
    setup = replace(setup, run=setup.run.model_copy(update={"mesh": None}))
    sizes = setup.model_config
    if sizes.projected:
        raise UserError("n_hidden: neither Hugging Face's GPT-2 nor GGUF has projections around the blocks")
    if storage.is_remote(arguments.out or setup.folder):
        raise UserError("--out: name a local folder; exports are not written to a bucket")
    estimator = setup.estimator(devices=jax.devices()[:1])
    estimator.require_checkpoint()
    setup.note_own_vocabulary(partial(print, file=sys.stderr))
    setup.note_other_function(partial(print, file=sys.stderr))
    encoder = None if arguments.no_tokenizer else setup.vocabulary()
    if encoder:
        run_dir.check_vocabulary(setup.folder, tokenizer.load(encoder).digest)
    step, parameter = parameters(estimator, sizes, step=arguments.step)
    out = Path(arguments.out or f"{_from_here(setup.folder)}-{arguments.to}")
    if arguments.to == "hf":
        hf.refuse_other_contents(out)  # before the weights are read
    total = param_spec.count(gpt2.parameters(sizes))
    with tqdm(unit="B", unit_scale=True, desc="writing", disable=not sys.stderr.isatty()) as bar:
        written = write(
            out,
            parameter,
            sizes,
            encoder=encoder,
            arguments=arguments,
            name=Path(setup.folder).name,
            sampling=sampling(setup.prediction),
            bar=bar,
        )
    if arguments.to == "gguf" and (context := gguf.context_length(sizes.n_ctx)) != sizes.n_ctx:
        print(
            f"llama.cpp needs a context that is a multiple of {gguf.CONTEXT_MULTIPLE}: the file has {context} "
            f"positions, and the model knows {sizes.n_ctx} of them; keep texts within those"
        )
    weights = "init_from" if estimator.loaded_step() is None else f"step {step}"
    print(f"{weights}, {total:,} parameters, as {arguments.dtype}: {written}")


def _from_here(folder: str) -> Path:
    """The relative path of a folder below the current one: `--model` with a run's folder gives the full path."""
    path = Path(folder)
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def parameters(estimator: Estimator, sizes: Any, *, step: int | None) -> tuple[int, Callable[[str], Any]]:
    """The step, and a function: name -> parameter, with its LoRA adapter merged. Large ones are read on demand."""
    large = {name for name, spec in param_spec.named(gpt2.parameters(sizes)) if 4 * spec.count > LARGE}
    if estimator.loaded_step() is None:  # the weights are those that init_from names
        large = set()
    rest = {name for name, _ in param_spec.named(lora.parameters(sizes))} - large
    step, held = estimator.restore(step=step, only=rest)

    def parameter(name: str) -> jax.Array:
        adapter = lora.adapter_of(name) if sizes.lora_rank else None
        values = estimator.restore(step=step, only={name})[1] if name in large else held
        value = functools.reduce(operator.getitem, name.split("/"), values)
        if adapter is None:
            return value
        return jax.jit(partial(lora.with_adapter, config=sizes))(value, held[lora.LORA][adapter])

    return step, parameter


def write(
    out: Path,
    parameter: Callable[[str], Any],
    sizes: Any,
    *,
    encoder: Path | None,
    arguments: argparse.Namespace,
    name: str,
    sampling: dict[str, Any],
    bar: tqdm,
) -> Path:
    """Writes the folder or the file; returns the path to load in other software."""
    writing: Callable[..., None] = partial(hf.write, encoder=encoder, sampling=sampling)
    if arguments.to == "gguf":
        if encoder is None:
            raise UserError("--no_tokenizer: a GGUF file includes its vocabulary; remove the flag")
        out = out if out.suffix == ".gguf" else out / f"{name}-{arguments.dtype}.gguf"
        writing = partial(gguf.write, encoder=encoder, name=name)
    out.parent.mkdir(parents=True, exist_ok=True)
    busy = f"another process exports to {out}; wait for it"
    with locks.exclusive(out.with_name(f".{out.name}.lock"), busy, remove=True):
        writing(out, parameter, sizes, dtype=arguments.dtype, progress=bar.update)
    return out


def sampling(prediction: PredictionConfig) -> dict[str, Any]:
    """The entries of generation_config.json that make transformers sample with the settings of the JSON file.

    It has no other penalties.
    """
    if prediction.temperature == 0:
        return {"do_sample": False, "repetition_penalty": prediction.repetition_penalty}
    keys = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    return {"do_sample": True, **{key: getattr(prediction, key) for key in keys}}


def parse_arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("--model", type=str, required=True, metavar="X.json", help="the JSON file of the run")
    parser.add_argument(
        "--set", type=str, action="append", default=[], metavar="KEY=VALUE", help="override a key of the file"
    )
    parser.add_argument("--to", required=True, choices=DTYPES, help="a Hugging Face folder, or a GGUF file")
    parser.add_argument(
        "--out",
        type=user_paths.argument,
        metavar="DIR",
        help="output folder (default: RUN-hf or RUN-gguf, next to the run)",
    )
    parser.add_argument("--step", type=int, metavar="N", help="the checkpoint of this step (default: the newest)")
    parser.add_argument("--dtype", default="f32", help="type of the matrices: f32 (default), f16, bf16; gguf: q8_0 too")
    parser.add_argument("--no_tokenizer", action="store_true", help="hf: the weights alone, without a vocabulary")
    return parser.parse_args()


if __name__ == "__main__":
    run_program(main)
