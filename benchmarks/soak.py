"""Long runs: memory, open files, threads and disk over time must stay flat.

    python -m benchmarks.soak                        a training run: 20,000 steps, 100 evaluations, 100 checkpoints
    python -m benchmarks.soak --minutes 30           a server of two models under clients
    python -m benchmarks.soak --figure soak.png      draws the samples

A training run of six hours that saves and evaluates every 3.6 minutes does both 100 times: here 200 short steps are
between them. Slopes are those of a line through the second half of the samples, times its length: how much grew there.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _serve_clients as clients
from benchmarks import _serve_models
from benchmarks._report import finish, processor, say, table

ROOT = Path(__file__).resolve().parent.parent
STEPS, PERIOD = 20_000, 200
SAMPLES = 400
CLIENTS, LETTERS = 8, "AB"
QUANTITIES = {
    "memory_MB": "resident memory in MB",
    "files": "open files",
    "threads": "threads",
    "disk_MB": "MB on disk",
}
KEYS = {
    "model": "GPT2", "n_layer": 1, "n_head": 2, "n_embd": 16, "n_ctx": 16, "n_vocab": 280, "train_batch_size": 4,
    "input": "text", "eval_steps": 2, "train_steps": PERIOD, "save_steps": PERIOD, "log_steps": 10,
    "keep_checkpoints": 3, "scale_by_in": False, "warmup_steps": 10, "lr": 0.001, "max_loss_rise": None,
}  # fmt: skip
Sample = dict[str, float]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N", help="of training (%(default)s)")
    parser.add_argument("--minutes", type=float, metavar="N", help="a server for so long, instead of training")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="a figure of the samples")
    parser.add_argument("--smoke", action="store_true", help="the smallest of everything")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.steps = 3 * PERIOD
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if arguments.minutes:
            samples, work = serve(folder, 60 * arguments.minutes)
        else:
            samples, work = train(folder, arguments.steps)
    rows = [slope(samples, quantity) for quantity in QUANTITIES]
    print(table(rows))
    if arguments.figure:
        draw(samples, arguments.figure, work)
    finish(
        "soak", "MB of memory that grew in the second half", rows[0]["grew"], {}, device=processor(),
        packages=("jax", "orbax-checkpoint", "uvicorn"), details={"work": work, "rows": rows, "samples": len(samples)},
    )  # fmt: skip
    return 0


def train(folder: Path, steps: int) -> tuple[list[Sample], dict[str, Any]]:
    """Samples of a training run, and what it did."""
    (folder / "texts").mkdir()
    generator = random.Random(0)
    for i in range(40):
        words = ["".join(generator.choices("abcdefgh", k=4)) for _ in range(200)]
        (folder / "texts" / f"{i:02}.txt").write_text(" ".join(words) + ".\n")
    paths = {"model_path": str(folder / "run"), "data_path": str(folder / "texts"), "predict_path": str(folder / "out")}
    (folder / "run.json").write_text(json.dumps(KEYS | paths | {"max_steps": steps}))
    command = [sys.executable, str(ROOT / "main.py"), "--model", str(folder / "run.json")]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"JAX_PLATFORMS": "cpu"})
        path = folder / "run" / "metrics.jsonl"
        samples = sampled(process, folder / "run", step=lambda: _last_step(path), steps=steps)
    if process.returncode:
        sys.exit((folder / "log").read_text()[-3000:])
    records = [json.loads(line)["split"] for line in path.read_text().splitlines()]
    return samples, {"steps": steps, "evaluations": records.count("eval"), "checkpoints": steps // PERIOD}


def _last_step(path: Path) -> int:
    """Step of the log's last whole line."""
    if not path.exists():
        return 0
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 2000))
        lines = file.read().split(b"\n")[:-1]
    return int(json.loads(lines[-1])["step"]) if lines and lines[-1].startswith(b"{") else 0


def sampled(process: subprocess.Popen[Any], folder: Path, *, step: Callable[[], int], steps: int) -> list[Sample]:
    """A sample each time that another SAMPLES-th of the steps is done, until the process ends."""
    samples: list[Sample] = []
    reached = 0
    while process.poll() is None:
        time.sleep(0.05)
        if (now := step()) >= reached + max(1, steps // SAMPLES) and (sample := measured(process.pid, folder)):
            reached = now
            samples.append({"at": now} | sample)
    return samples


def measured(pid: int, folder: Path) -> Sample:
    """Memory, open files, threads and disk of a process; {} once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        files = len(os.listdir(f"/proc/{pid}/fd"))
        return {"memory_MB": int(fields["VmRSS"].split()[0]) / 1024, "files": files, "threads": int(fields["Threads"]),
                "disk_MB": sum(sizes) / 1e6}  # fmt: skip
    except (FileNotFoundError, KeyError):  # a checkpoint was rotated out meanwhile, or the process has ended
        return {}


def slope(samples: list[Sample], quantity: str) -> dict[str, Any]:
    """How much a quantity grew in the second half of the samples, by a straight line, and its range there."""
    half = samples[len(samples) // 2 :]
    at, values = (np.array([sample[key] for sample in half]) for key in ("at", quantity))
    grew = float(np.polyfit(at, values, 1)[0] * np.ptp(at)) if len(half) > 1 else 0.0
    return {"quantity": quantity, "first": samples[0][quantity], "half": float(values[0]), "last": float(values[-1]),
            "grew": grew}  # fmt: skip


def serve(folder: Path, seconds: float) -> tuple[list[Sample], dict[str, Any]]:
    """Samples of a server of two models whose clients stay, leave and have models swapped, and what it did."""
    process, address = clients.start(_serve_models.write_server(folder, LETTERS, memory_bytes=None))
    began, tally = time.monotonic(), clients.Tally()

    def now() -> int:
        return int(time.monotonic() - began)

    async def work() -> list[Sample]:
        import httpx

        async with httpx.AsyncClient(base_url=address, timeout=300) as client:
            numbers = iter(lambda: now() >= seconds, True)  # endless until the time is over
            talks = [
                asyncio.create_task(clients.converse(client, seed, numbers, tally, LETTERS)) for seed in range(CLIENTS)
            ]
            swaps = asyncio.create_task(clients.disturb(client, folder, tally, LETTERS))
            samples: list[Sample] = []
            while now() < seconds:
                await asyncio.sleep(seconds / SAMPLES)
                samples.append({"at": now()} | measured(process.pid, folder))
            await asyncio.gather(*talks)
            swaps.cancel()
            await asyncio.gather(swaps, return_exceptions=True)
            return samples

    samples = asyncio.run(work())
    clients.stop(process)
    for fault in tally.faults[:20]:
        say(f"FAULT: {fault}")
    return samples, {"seconds": seconds, "outcomes": dict(tally.outcomes), "faults": len(tally.faults)}


def draw(samples: list[Sample], path: Path, work: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6), sharex=True, layout="constrained")
    for axis, (quantity, label) in zip(axes.flat, QUANTITIES.items(), strict=True):
        axis.plot([sample["at"] for sample in samples], [sample[quantity] for sample in samples], linewidth=1)
        axis.set_ylim(0, 1.1 * max(sample[quantity] for sample in samples))
        axis.locator_params("x", nbins=5)
        axis.set_title(label, fontsize=10)
        axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel("step" if "steps" in work else "seconds")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
