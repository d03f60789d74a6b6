"""Measures time to import, to the first training step and to the first token, with cold and warm compilation caches.

python -m benchmarks.startup                   training 6 layers, 384 wide (on a GPU 124M), generating with 124M
python -m benchmarks.startup --model 124M      another model to train; --generate NAME: to generate with

Ours are the real programs, from the start of the process: main.py until the step's metrics are written, and
main.py --predict_text with one new token until it ends. The peer is a torch.compile'd training step (imports,
compilation, step), and transformers generating one token. "again" is a second process with the caches of the first.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import _sizes
from benchmarks._report import finish, installed, processor, say, table
from benchmarks._sizes import SIZES
from benchmarks._workers import ROOT, Worker, WorkerError, as_a_user_starts_it
from estimator.tokenization.train_bpe import train_byte_bpe

FIRST_TOKEN = """
import sys, torch
from transformers import GPT2LMHeadModel
model = GPT2LMHeadModel.from_pretrained(sys.argv[1]).eval()
model.to("cuda" if torch.cuda.is_available() else "cpu")
prompt = torch.tensor([[72, 101, 108, 108, 111]], device=model.device)
with torch.inference_mode():
    print(model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=1, pad_token_id=0)[0, -1])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, help="to train: small; on a GPU 124M")
    parser.add_argument("--generate", choices=SIZES, default="124M", help="to generate with (%(default)s)")
    parser.add_argument("--no_peers", action="store_true", help="ours alone")
    parser.add_argument("--smoke", action="store_true", help="the smallest model, one first step")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.model = arguments.generate = "tiny"
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        measure(Path(folder), arguments)


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    worker = Worker("benchmarks._decode_workers", "ours", decode_options(folder, arguments.generate))
    try:
        machine = worker.ask("describe")
        if not arguments.smoke:
            worker.ask("write")
    finally:
        worker.close()
    gpu = machine["platform"] != "cpu"
    name = arguments.model or ("124M" if gpu else "small")
    train_byte_bpe([], n_vocab=257, out=folder / "encoder")
    write_text(folder / "text")
    rows: list[dict[str, Any]] = []

    def add(side: str, what: str, taken: Taken) -> None:
        rows.append({"what": what, "side": side, **taken._asdict()})
        say(f"{side}, {what}: {taken.seconds:.2f} s, {taken.peak_MB:,.0f} MB")

    times = ("", " again")
    if arguments.smoke:
        times = (" again",)
    else:
        add("ours", "import", run([sys.executable, "-c", "import estimator, models, inputs"]))
    for time_of in times:
        add("ours", f"first step{time_of}", first_step(folder, name, number=len(rows), gpu=gpu))
    for time_of in () if arguments.smoke else times:
        add("ours", f"first token{time_of}", first_token(folder, arguments.generate))
    if not arguments.no_peers and installed("torch"):
        add("pytorch", "import", run([sys.executable, "-c", "import torch"], ours=False))
        for time_of in times:
            try:
                add("pytorch", f"first step{time_of}", peer_first_step(folder, name, gpu=gpu, eager=arguments.smoke))
            except WorkerError as error:
                say(str(error))
        if not arguments.smoke and installed("transformers"):
            command = [sys.executable, "-c", FIRST_TOKEN, str(folder / "hf")]
            for time_of in times:
                add("transformers", f"first token{time_of}", run(command, ours=False))
    say("\n" + table(rows))
    peer = "eager" if arguments.smoke else "torch.compile"
    report(rows, machine, {"model": name, "generate": arguments.generate, "peer_of_training": peer})


def report(rows: list[dict[str, Any]], machine: dict[str, Any], details: dict[str, Any]) -> None:
    again = {row["side"]: row["seconds"] for row in rows if row["what"] == "first step again"}
    finish(
        "startup",
        f"s from the start of the process to the end of the first step, compiled before, {details['model']}",
        again.pop("ours"),
        again,
        device=machine["kind"] if machine["platform"] != "cpu" else processor(),
        packages=("jax", "jaxlib", "torch", "transformers"),
        details=details
        | {key: {f"{row['side']}, {row['what']}": row[key] for row in rows} for key in ("seconds", "peak_MB")},
        less_is_better=True,
    )


def decode_options(folder: Path, name: str) -> dict[str, Any]:
    return {"folder": str(folder), "size": name, "n_ctx": 128, "prompt": 8, "length": 1, "gguf": []}


def write_text(folder: Path) -> None:
    """Some text to train on; what it says does not matter."""
    folder.mkdir()
    draw = random.Random(0)
    words = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs", "liquor", "jugs"]
    for i in range(40):
        (folder / f"{i:02}.txt").write_text(" ".join(draw.choices(words, k=2000)))


class Taken(NamedTuple):
    """Seconds of a program, and the largest resident memory of its process."""

    seconds: float
    peak_MB: float


def run(command: list[str], *, ours: bool = True, variables: dict[str, str] | None = None) -> Taken:
    """Runs a program from its start to its end, from the files' root, started as a user does."""
    environment = dict(os.environ)
    if ours:
        command, environment = as_a_user_starts_it(command, environment)
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        environment |= variables or {}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            sys.exit(f"{' '.join(command[:4])} ended with {process.returncode}:\n{errors.read()[-2000:]}")
    return Taken(seconds, usage.ru_maxrss * 1024 / 1e6)


def isolated(folder: Path) -> dict[str, str]:
    """Variables that put every cache into the folder."""
    return {"GPT2_CACHE": str(folder / "caches"), "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}


def first_step(folder: Path, name: str, *, number: int, gpu: bool) -> Taken:
    """Until the metrics of the first step of a new run are in its folder; the memory of the whole run."""
    size = SIZES[name]
    batch, n_ctx = size.gpu if gpu else size.cpu
    run_folder = folder / f"run{number}"
    keys = _sizes.values(size, n_ctx=n_ctx, batch=batch, folder=str(run_folder))
    keys |= {"input": "text", "data_path": str(folder / "text"), "encoder_path": str(folder / "encoder")}
    keys |= {"max_steps": 1, "log_steps": 1, "train_steps": 1, "eval_steps": 1}
    path = folder / f"run{number}.json"
    path.write_text(json.dumps(keys))
    start = time.time()
    whole = run([sys.executable, "main.py", "--model", str(path)], variables=isolated(folder))
    lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    return whole._replace(seconds=next(line["time"] for line in lines if line["split"] == "train") - start)


def first_token(folder: Path, name: str) -> Taken:
    """main.py --predict_text with one new token, weights and all."""
    keys = _sizes.values(SIZES[name], n_ctx=128, batch=1, folder=str(folder / "none"), init_from=str(folder / "hf"))
    keys |= {"encoder_path": str(folder / "encoder"), "predict_path": str(folder / "samples.txt")}
    path = folder / "generate.json"
    path.write_text(json.dumps(keys))
    command = [sys.executable, "main.py", "--model", str(path), "--predict_text", "Hello", "--length", "1"]
    return run(command, variables=isolated(folder))


def peer_first_step(folder: Path, name: str, *, gpu: bool, eager: bool) -> Taken:
    batch, n_ctx = SIZES[name].gpu if gpu else SIZES[name].cpu
    start = time.perf_counter()
    options = {"size": name, "n_ctx": n_ctx, "batch": batch}
    worker = Worker("benchmarks._train_workers", "pytorch", options, environment=isolated(folder))
    try:
        worker.ask("describe")
        before = time.perf_counter() - start
        variant = "eager bf16" if eager else "compile bf16"
        seconds = before + worker.ask("prepare", variant=variant + (" flash" if gpu else ""))["seconds"]
        return Taken(seconds, worker.ask("memory") / 1e6)
    finally:
        worker.close()


if __name__ == "__main__":
    main()
