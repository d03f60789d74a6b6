"""Measures reading, checking and windowing of shards on one core, and the memory that it takes.

python -m benchmarks.inputs              speed, against other readers of TFRecord files where these are installed
python -m benchmarks.inputs --memory     resident memory for two sizes of data, the larger above 2 GB
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._report import versions
from benchmarks._workers import best, peak_resident
from estimator.data.batches import Batches
from estimator.data.config import InputConfig
from estimator.shards.build_index import read_frames
from estimator.shards.shard import decode
from estimator.shards.tfrecord import ShardWriter, index_path, open_shard
from inputs import open_data

N_CTX, N_VOCAB, BATCH = 1024, 50257, 32
TOGETHER = 16  # documents decoded together
SPEED_BYTES = 128 << 20
MEMORY_BYTES = (550 << 20, 2200 << 20)
MEMORY_WINDOWS = 20_000
TARGET_BYTES = 10e9
PACKAGES = ("numpy", "google-crc32c", "grain", "tensorflow")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", action="store_true", help="measure memory instead of speed")
    parser.add_argument("--resident", metavar="FOLDER", help=argparse.SUPPRESS)  # the measured process of --memory
    arguments = parser.parse_args()
    if arguments.resident:
        print(json.dumps(resident(Path(arguments.resident))))
        return
    with tempfile.TemporaryDirectory(prefix="inputs-") as folder:
        result = memory(Path(folder)) if arguments.memory else speed(Path(folder))
    device = f"{platform.processor() or platform.machine()}, one core"
    print(json.dumps(result | {"device": device, "versions": versions(*PACKAGES)}))


def speed(folder: Path) -> dict[str, Any]:
    path = folder / "synthetic_0.tfrecords"
    seconds = write_shard(path, SPEED_BYTES)
    size = path.stat().st_size
    shard = open_shard(path)
    tokens = int(shard.token_counts.sum())
    print(
        f"{size / 1e6:.0f} MB, {len(shard):,} documents, {tokens:,} tokens; written at {size / seconds / 1e6:.0f} MB/s"
    )

    def records() -> None:
        with open(path, "rb") as file:
            for frames in read_frames(file.fileno(), path, size=size):
                for start, stop in zip(frames.starts, frames.stops, strict=True):
                    frames.buffer[start:stop]

    def documents() -> None:
        for first in range(0, len(shard), TOGETHER):
            decode([shard.span(number) for number in range(first, min(first + TOGETHER, len(shard)))])

    def index() -> None:
        index_path(path).unlink()
        open_shard(path)

    rng = np.random.default_rng(0)
    places = [(int(i), int(shard.token_counts[i])) for i in rng.integers(0, len(shard), 20_000)]

    def windows() -> None:
        for document, count in places:
            shard.tokens(document, max(0, count - N_CTX) // 2, N_CTX)

    ours = size / best(records) / 1e6
    details = {
        "decoded_MB_per_s": round(size / best(documents) / 1e6),
        "decoded_tokens_per_s": round(tokens / best(documents)),
        "indexed_MB_per_s": round(size / best(index, times=1) / 1e6),
        "written_MB_per_s": round(size / seconds / 1e6),
        "random_documents_per_s": round(len(places) / best(windows)),
    }
    config = InputConfig(input="packed", data_path=str(folder))
    train = open_data(config, n_ctx=N_CTX, n_vocab=N_VOCAB, cache=folder / "cache").train
    batches = Batches(train, batch_size=BATCH)
    steps = 200
    details["packed_tokens_per_s"] = round(
        steps * BATCH * N_CTX / best(lambda: [batches(step) for step in range(steps)])
    )
    for name, value in details.items():
        print(f"{name:24} {value:,}")
    peers = {name: round(size / best(read) / 1e6) for name, read in readers(path).items()}
    ratio = round(ours / max(peers.values()), 2) if peers else None
    unit = "MB/s of records read and checked"
    return {"name": "inputs", "unit": unit, "ours": round(ours), "peers": peers, "ratio": ratio, "details": details}


def readers(path: Path) -> dict[str, Callable[[], Any]]:
    """Other readers that give the same records, of which grain's checks no checksum."""
    found: dict[str, Callable[[], Any]] = {}
    try:
        import grain

        found["grain"] = lambda: sum(1 for _ in grain.experimental.TFRecordIterDataset(str(path)))
    except ImportError:
        pass
    try:
        import tensorflow as tf

        found["tensorflow"] = lambda: sum(1 for _ in tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
    except ImportError:
        pass
    return found


def write_shard(path: Path, size: int) -> float:
    """Writes documents with the lengths of web pages and the ids of text, about `size` bytes; returns seconds of it."""
    rng = np.random.default_rng(0)
    some = [
        np.exp(rng.uniform(np.log(16), np.log(N_VOCAB - 1), int(length))).astype(np.int32)
        for length in np.clip(rng.lognormal(6.6, 0.9, 2000), 30, 50_000)
    ]
    written = number = 0
    start = time.perf_counter()
    with ShardWriter(path) as writer:
        while written < size:
            ids = some[number % len(some)]
            # No two documents are alike.
            writer.write(b"%07d" % number, np.concatenate([ids, np.array([number % N_VOCAB, number // N_VOCAB])]))
            written += 40 + 2 * len(ids)
            number += 1
    return time.perf_counter() - start


def memory(folder: Path) -> dict[str, Any]:
    measured = {}
    for size in MEMORY_BYTES:
        data = folder / "data"
        data.mkdir(exist_ok=True)
        path = data / "synthetic_0.tfrecords"
        write_shard(path, size)
        for kind in ("with index", "without"):
            if kind == "without":
                index_path(path).unlink()
            command = [sys.executable, "-m", "benchmarks.inputs", "--resident", str(data)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent)
            facts = json.loads(done.stdout)
            print(f"{path.stat().st_size / 1e9:.2f} GB {kind:10} {facts}", flush=True)
            measured[f"{path.stat().st_size / 1e9:.2f} GB {kind}"] = facts
    (small, _, large, _), (first, _, last, _) = list(measured.values()), list(measured)
    sizes = [float(name.split()[0]) * 1e9 for name in (first, last)]
    slope = (large["above_MB"] - small["above_MB"]) / (sizes[1] - sizes[0])
    at_target = large["above_MB"] + slope * (TARGET_BYTES - sizes[1])
    details = measured | {"bytes_per_document_of_growth": round(1e6 * slope * sizes[1] / large["documents"], 1)}
    details["MB_at_10_GB_by_extrapolation"] = round(at_target, 1)
    unit = f"MB of resident memory above the baseline, {sizes[1] / 1e9:.1f} GB of shards"
    return {
        "name": "inputs_memory",
        "unit": unit,
        "ours": large["above_MB"],
        "peers": {},
        "ratio": None,
        "details": details,
    }


def resident(folder: Path) -> dict[str, Any]:
    """Opens the data, reads windows of two epochs, and says by how much the largest resident memory grew."""
    before = peak_resident()
    config = InputConfig(input="packed", data_path=str(folder))
    data = open_data(config, n_ctx=N_CTX, n_vocab=N_VOCAB, cache=folder / "cache")
    opened = peak_resident()
    batches = Batches(data.train, batch_size=BATCH)
    for epoch in range(2):
        first = epoch * data.train.windows_per_epoch // BATCH
        for step in range(first, first + MEMORY_WINDOWS // BATCH):
            batches(step)
    for number in range(0, len(data.evaluation), 50):
        data.evaluation.batch([number])
    documents = len(open_shard(next(folder.glob("*.tfrecords"))))
    above = {"above_MB": peak_resident() - before, "after_opening_MB": opened - before, "baseline_MB": before}
    return {name: round(value / 1e6, 1) for name, value in above.items()} | {"documents": documents}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
