"""Measures text to shards on all cores against a plain loop around tiktoken that writes the same shards.

python -m benchmarks.encode                        JSON lines of web-like lengths, a vocabulary trained here
python -m benchmarks.encode --encoder encoder      with a vocabulary of your own, for example GPT-2's
python -m benchmarks.encode --megabytes 1000       more text; the loop gets a part of it; speeds are compared

Both in turns; figures are medians of the rounds, and the ratio is the median of their ratios.
"""

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._report import versions
from estimator.corpus import python_docs
from estimator.shards.tfrecord import ShardWriter, open_shard
from estimator.tokenization import tokenizer
from estimator.tokenization.train_bpe import train_byte_bpe

MEGABYTES = 200
ROUNDS = 3
PEER_MEGABYTES = 30
N_VOCAB = 32768
SHARD_TOKENS = 100_000_000
# GPT-2's own pattern, by which text is cut into words.
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
PACKAGES = ("numpy", "gigatoken", "tokenizers", "orjson", "datatrove", "tiktoken")
PROGRAM = Path(__file__).resolve().parent.parent / "datasets" / "encode.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=MEGABYTES, help="of text (%(default)s)")
    parser.add_argument("--encoder", metavar="DIR", help="folder of the vocabulary; by default one is trained")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help="of ours and the loop (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (%(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="encode-") as folder:
        result = measure(Path(folder), arguments)
    device = f"{os.cpu_count()} cores, {platform.machine()}"
    print(json.dumps(result | {"device": device, "versions": versions(*PACKAGES)}))


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    paragraphs = [part for _, text in python_docs.documents() for part in text.split("\n\n") if part.strip()]
    encoder = arguments.encoder or str(folder / "encoder")
    if not arguments.encoder:
        train_byte_bpe(paragraphs, n_vocab=N_VOCAB, out=folder / "encoder")
    write_lines(folder / "text.jsonl", paragraphs, megabytes=arguments.megabytes)
    part = write_lines(folder / "part.jsonl", paragraphs, megabytes=min(PEER_MEGABYTES, arguments.megabytes))
    options = ["--encoder", encoder, "--shard_tokens", str(SHARD_TOKENS), "--workers", str(arguments.workers)]
    rounds: list[dict[str, float]] = []
    for _ in range(arguments.rounds):
        shutil.rmtree(folder / "ours", ignore_errors=True)
        before = processor_seconds()
        seconds, memory = run([str(folder / "text.jsonl"), "--out", str(folder / "ours"), *options])
        used = processor_seconds() - before
        facts = json.loads((folder / "ours" / "text.json").read_bytes())
        # Processor seconds are what a busy machine changes least.
        once = {"seconds": seconds, "MB_per_s": facts["bytes"] / seconds / 1e6, "memory": memory}
        once |= {"processor_seconds_per_GB": 1e9 * used / facts["bytes"]}
        before = processor_seconds()
        if loop := tiktoken_loop(folder, encoder):
            once |= {"loop_MB_per_s": part / loop / 1e6, "ratio": facts["bytes"] / seconds / (part / loop)}
            once |= {"loop_processor_seconds_per_GB": 1e9 * (processor_seconds() - before) / part}
        rounds.append(once)
        print(", ".join(f"{name} {value:,.4g}" for name, value in once.items()), file=sys.stderr)
    middle = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    details = {
        "megabytes": round(facts["bytes"] / 1e6),
        "documents": facts["documents"],
        "tokens": facts["tokens"],
        "seconds": round(middle["seconds"], 2),
        "workers": arguments.workers,
        "processor_seconds_per_GB": round(middle["processor_seconds_per_GB"], 1),
        "of_the_tiktoken_loop": round(middle["loop_processor_seconds_per_GB"], 1) if "ratio" in middle else None,
        "peak_MB_of_all_processes": round(max(each["memory"] for each in rounds) / 1e6),
        "vocabulary": tokenizer.load(encoder).n_vocab,
        "ratios": [round(each["ratio"], 2) for each in rounds if "ratio" in each],
    }
    peers = {"tiktoken loop": round(middle["loop_MB_per_s"], 1)} if "ratio" in middle else {}
    ratio = round(middle["ratio"], 2) if peers else None
    result = {"name": "encode", "unit": "MB/s of text to shards", "ours": round(middle["MB_per_s"], 1), "peers": peers}
    return result | {"ratio": ratio, "details": details}


def write_lines(path: Path, paragraphs: list[str], *, megabytes: int) -> int:
    """Documents with the lengths of web pages, no two alike, of real paragraphs; returns the bytes of their text."""
    generator = random.Random(0)
    sizes = [len(paragraph) for paragraph in paragraphs]
    written = number = 0
    with open(path, "w", encoding="utf-8") as file:
        while written < 1e6 * megabytes:
            wanted = min(50_000, max(200, generator.lognormvariate(7.8, 0.9)))
            chosen = []
            while wanted > 0:
                chosen.append(int(generator.random() * len(paragraphs)))
                wanted -= sizes[chosen[-1]] + 2
            text = "\n\n".join([f"{number}", *(paragraphs[i] for i in chosen)])
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            written += len(text.encode())
            number += 1
    return written


def run(arguments: list[str]) -> tuple[float, int]:
    """Seconds of encode.py from its start to its end, and the most memory that all its processes had together."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, str(PROGRAM), *arguments], stdout=subprocess.DEVNULL)
    peak = [0]
    watcher = threading.Thread(target=watch, args=(process, peak))
    watcher.start()
    code = process.wait()
    seconds = time.perf_counter() - start
    watcher.join()
    if code:
        sys.exit(f"encode.py ended with code {code}")
    return seconds, peak[0]


def processor_seconds() -> float:
    """Of this process and of those that it has started and that have ended."""
    times = os.times()
    return sum(times[:4])


def watch(process: subprocess.Popen, peak: list[int]) -> None:
    """Adds up, again and again, the memory of a process and its descendants; what they share counts once (PSS)."""
    while process.poll() is None:
        parents = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
        family, size = {process.pid}, 0
        while len(family) > size:
            size = len(family)
            family |= {pid for pid, parent in parents.items() if parent in family}
        peak[0] = max(peak[0], sum(map(resident, family)))
        time.sleep(0.1)


def resident(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def tiktoken_loop(folder: Path, encoder: str) -> float | None:
    """Seconds of what one would write oneself; None where tiktoken is missing or has other ids for this vocabulary."""
    try:
        import tiktoken
    except ImportError:
        print("tiktoken is not installed: no comparison", file=sys.stderr)
        return None
    ours = tokenizer.load(encoder)
    special = set(ours.special_tokens.values())
    ranks = {ours.decode_bytes([i]): i for i in range(ours.n_vocab) if i not in special}
    theirs = tiktoken.Encoding("vocabulary", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    start = time.perf_counter()
    with open(folder / "part.jsonl", encoding="utf-8") as file, ShardWriter(folder / "part_0.tfrecords") as writer:
        for number, line in enumerate(file):
            writer.write(b"text-%d" % number, np.array(theirs.encode_ordinary(json.loads(line)["text"]), np.int32))
    seconds = time.perf_counter() - start
    text = json.loads((folder / "part.jsonl").read_text(encoding="utf-8").partition("\n")[0])["text"]
    if ours.encode(text) != open_shard(folder / "part_0.tfrecords").tokens(0).tolist():
        print("tiktoken gives other ids for this vocabulary: no comparison", file=sys.stderr)
        return None
    return seconds


if __name__ == "__main__":
    main()
