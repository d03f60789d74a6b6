"""Loss after nanoGPT's CPU recipe on tinyshakespeare, by `main.py --model configs/shakespeare.json`, and its seconds.

4 layers, 4 heads, 128 wide, context 64, batch 12, 2,000 steps, bytes as tokens, no dropout; the last tenth of the text
is evaluated on. nanoGPT reports 1.88 nats per character for this recipe.

python -m benchmarks.shakespeare --text tinyshakespeare.txt [--set KEY=VALUE ...]
python -m benchmarks.shakespeare --text tinyshakespeare.txt --into runs/shakespeare/text    makes its data, no run
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._report import versions
from estimator.errors import UserError, run_program
from estimator.training import metrics_log

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = Path(os.environ.get("GPT2_FIXTURES", ROOT.parent / "shared" / "fixtures"))
TARGET = 1.88  # nats per character


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="the text, tinyshakespeare.txt")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="passed on to main.py")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="only write the two parts of the text there")
    arguments = parser.parse_args()
    text = arguments.text or FIXTURES / "tinyshakespeare.txt"
    if not text.is_file():
        if arguments.text or arguments.into:
            raise UserError(f"{text}: no such file; give the path of tinyshakespeare.txt")
        print("shakespeare: left out, because tinyshakespeare.txt is not here; name it with --text", file=sys.stderr)
        return
    if arguments.into:
        divide(text.read_bytes(), arguments.into)
        print(f"{arguments.into}: train.txt and valid.txt, the last tenth of {text}")
        return
    with tempfile.TemporaryDirectory(prefix="shakespeare-") as folder:
        result = measure(text.read_bytes(), Path(folder), arguments.set)
    print(json.dumps(result))


def divide(text: bytes, folder: Path) -> None:
    """Writes the text to train on and its last tenth, to evaluate on."""
    folder.mkdir(parents=True, exist_ok=True)
    cut = len(text) * 9 // 10
    (folder / "train.txt").write_bytes(text[:cut])
    (folder / "valid.txt").write_bytes(text[cut:])


def measure(text: bytes, folder: Path, overrides: list[str]) -> dict:
    divide(text, folder / "text")
    places = [f"data_path={folder / 'text'}", f"model_path={folder / 'model'}"]
    command = [sys.executable, "main.py", "--model", "configs/shakespeare.json"]
    for override in places + overrides:
        command += ["--set", override]
    start = time.monotonic()
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        raise UserError("the run failed, see above")
    seconds = time.monotonic() - start
    records = metrics_log.read(folder / "model" / "metrics.jsonl")
    training = [record for record in records if record["split"] == "train"]
    losses = [record["loss"] for record in records if record["split"] == "eval"]
    return {
        "name": "shakespeare",
        "unit": "nats per character",
        "ours": losses[-1],
        "peers": {},
        "ratio": TARGET / losses[-1],
        "device": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": versions("jax", "jaxlib", "optax"),
        "details": {
            "seconds in all": round(seconds, 1),
            "milliseconds a step": round(1e3 * sorted(r["step_seconds"] for r in training)[len(training) // 2], 1),
            "overrides": overrides,
        },
    }


if __name__ == "__main__":
    run_program(main)
