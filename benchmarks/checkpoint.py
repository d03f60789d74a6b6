"""Measures how long a checkpoint blocks training, what the steps behind it lose, and when it is durable on disk.

python -m benchmarks.checkpoint                 124M parameters with Adam's averages, 1.5 GB
python -m benchmarks.checkpoint --folder DIR    on another disk; --model, --saves

"call" is what the training loop waits for in `Checkpoints.save`; "longer" is by how much the save and the step behind
it take longer than a step alone, "lost" the same of the save and all steps until it is written, and "cpu" by how much
more processor time these take. The peer is torch.save of the same numbers to the same disk, which trains on when it has
returned; "durable" has its file synced. "disk" is the same number of bytes written and synced by nobody in particular.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from benchmarks._report import finish, installed, processor, say, table
from benchmarks._sizes import SIZES
from benchmarks._workers import Worker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SIZES, default="124M")
    parser.add_argument("--folder", type=Path, help="where a temporary folder is made (default: the system's)")
    parser.add_argument("--saves", type=int, default=5, metavar="N", help="%(default)s; the first does not count")
    parser.add_argument("--no_peers", action="store_true", help="ours alone")
    parser.add_argument("--smoke", action="store_true", help="the smallest of everything")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.model, arguments.saves = "tiny", 2
    with tempfile.TemporaryDirectory(prefix="checkpoint-", dir=arguments.folder) as folder:
        measure(Path(folder), arguments)


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    size = SIZES[arguments.model]
    rows, n_ctx = size.cpu
    options = {"size": arguments.model, "n_ctx": n_ctx, "batch": rows}
    workers = {"ours": Worker("benchmarks._train_workers", "ours", options)}
    if not arguments.no_peers and installed("torch"):
        workers["pytorch"] = Worker("benchmarks._state_workers", "pytorch", {"size": arguments.model})
    runs: dict[str, list[dict[str, float]]] = defaultdict(list)
    try:
        ours = workers["ours"]
        machine = ours.ask("describe")
        ours.ask("prepare", variant=ours.ask("variants")[0])
        ours.ask("open", folder=str(folder / "ours"))
        if "pytorch" in workers:
            workers["pytorch"].ask("prepare", variant="torch.AdamW fused")
        for number in range(1, arguments.saves + 1):
            runs["ours"].append(ours.ask("save", step=number))
            written_bytes = ours.ask("folder_bytes", folder=str(folder / "ours"))
            if "pytorch" in workers:
                runs["pytorch"].append(workers["pytorch"].ask("save", path=str(folder / "peer.pt")))
            runs["disk"].append({"durable": written(folder / "disk", written_bytes)})
            say(f"save {number}: " + ", ".join(f"{side} {shown(found[-1])}" for side, found in runs.items()))
        peaks = {side: worker.ask("memory") / 1e6 for side, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()
    by_side = {side: middle(found[1:] or found) for side, found in runs.items()}
    say("\n" + table([{"side": side} | row for side, row in by_side.items()]))
    finish(
        "checkpoint",
        f"s that a save keeps the training loop waiting, {arguments.model} with Adam",
        by_side["ours"]["call"],
        {"torch.save": by_side["pytorch"]["call"]} if "pytorch" in by_side else {},
        device=(machine["kind"] if machine["platform"] != "cpu" else processor()) + f", disk of {folder.parent}",
        packages=("jax", "orbax-checkpoint", "torch"),
        details={"seconds": by_side, "peak_MB": peaks, "bytes": written_bytes, "saves": runs},
        less_is_better=True,
    )


def middle(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def shown(run: dict[str, float]) -> str:
    return " ".join(f"{key} {value:.3f} s" for key, value in run.items())


def written(path: Path, size: int) -> float:
    """Seconds of so many bytes to the disk."""
    block = os.urandom(1 << 20)
    start = time.perf_counter()
    with open(path, "wb") as file:
        for _ in range(size // len(block) + 1):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    path.unlink()
    return seconds


if __name__ == "__main__":
    main()
