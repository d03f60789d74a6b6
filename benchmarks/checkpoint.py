"""How long a checkpoint keeps training waiting, and after how many seconds it is whole on disk.

python -m benchmarks.checkpoint                 124M parameters with Adam's averages, 1.5 GB
python -m benchmarks.checkpoint --folder DIR    on another disk; --model, --saves

"call" is what the training loop waits for in `Checkpoints.save`; "lost" is that and what the updates behind it are late
by while the files are written. The peer is torch.save of the same numbers to the same disk, which trains on when it has
returned; "durable" has its file synced. "disk" is the same number of bytes written and synced by nobody in particular.
"""

import argparse
import os
import statistics
import tempfile
import time
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
    options = {"size": arguments.model}
    workers = {"ours": Worker("benchmarks._state_workers", "ours", options)}
    if not arguments.no_peers and installed("torch"):
        workers["pytorch"] = Worker("benchmarks._state_workers", "pytorch", options)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in workers} | {"disk": []}
    try:
        ours = workers["ours"]
        machine = ours.ask("describe")
        ours.ask("prepare", variant="adam")
        ours.ask("open", folder=str(folder / "ours"))
        if "pytorch" in workers:
            workers["pytorch"].ask("prepare", variant="torch.AdamW fused")
        update = ours.ask("updates", count=3)
        size = 0
        for number in range(1, arguments.saves + 1):
            update = min(update, ours.ask("updates", count=2))
            runs["ours"].append(ours.ask("save", step=number, seconds_of_update=update))
            size = size or ours.ask("folder_bytes", folder=str(folder / "ours"))
            if "pytorch" in workers:
                runs["pytorch"].append(workers["pytorch"].ask("save", path=str(folder / "peer.pt")))
            runs["disk"].append({"durable": written(folder / "disk", size)})
            say(f"save {number}: " + ", ".join(f"{side} {shown(found[-1])}" for side, found in runs.items() if found))
    finally:
        for worker in workers.values():
            worker.close()
    by_side = {side: middle(found[1:] or found) for side, found in runs.items() if found}
    say("\n" + table([{"side": side} | row for side, row in by_side.items()]))
    finish(
        "checkpoint",
        f"s that a save keeps the training loop waiting, {arguments.model} with Adam",
        by_side["ours"]["call"],
        {"torch.save": by_side["pytorch"]["call"]} if "pytorch" in by_side else {},
        device=(machine["kind"] if machine["platform"] != "cpu" else processor()) + f", disk of {folder.parent}",
        packages=("jax", "orbax-checkpoint", "torch"),
        details={"seconds": by_side, "bytes": size, "update_s": update, "saves": runs},
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
