"""Mutated files for every reader of outside bytes: a user error or the same content, in bounded time and memory.

    python -m benchmarks.fuzz                        65,000 inputs over all readers, on all cores
    python -m benchmarks.fuzz --inputs 500 --seed 7
    python -m benchmarks.fuzz --only tokenizer.json,npz

An input changes the valid file, or an earlier input that reached new lines of our code. Inputs follow from the seed,
the reader and their number; `--keep FOLDER` stores the first input of each kind of fault. Each is read in a worker
process with limits of time and memory, which is started again when it dies. A row a reader: coverage (lines reached of
the functions of ours that were entered), rejected (a UserError), equal (the same content), changed (other content of a
format without checksums), and the faults: crash (any other exception, or the process died), hang, memory, wrong (other
content although the format carries checksums).
"""

import argparse
import concurrent.futures
import json
import os
import random
import re
import resource
import select
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks._fuzz_coverage import ReachedLines
from benchmarks._report import finish, processor, say, table
from benchmarks._workers import cores
from estimator.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
INPUTS = 65_000
SECONDS, MEMORY = 20, 2 << 30  # of one input; the memory in bytes above what the worker has when it begins
MOST_KEPT, MOST_BYTES = 400, 1 << 16  # inputs that later ones begin with, and bytes of one
FAULTS = ("crash", "hang", "memory", "wrong")
OUTCOMES = ("rejected", "equal", "changed", *FAULTS)
JSON_VALUES = (
    "null", "[]", "{}", '""', "-1", "0", "1e999", "true", "9" * 30, "9" * 5000, "[" * 3000, '"\\ud800"', "0.5",
)  # fmt: skip
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)


class NotTried(Exception):
    """A reader whose valid file cannot be made or read here, such as for lack of a package."""


def mutated(data: bytes, draw: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """One to four changes of bytes, numbers, spans or, where there is text, of JSON's values.

    others: inputs that reached new lines; half of the changes begin with one of them, some with parts of two.
    """
    if others and draw.random() < 0.5:
        data = draw.choice(others)
        if draw.random() < 0.2:
            data = _cut(data, draw) + draw.choice(others)[draw.randrange(len(data) + 1) :]
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        data = draw.choice(CHANGES)(data, draw)
    return data


def _flip(data: bytes, draw: random.Random) -> bytes:
    if not data:
        return b"\0"
    place = draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]


def _number(data: bytes, draw: random.Random) -> bytes:
    size = draw.choice((1, 2, 4, 8))
    place = draw.randrange(len(data) + 1)
    value = (draw.choice(NUMBERS) & (1 << 8 * size) - 1).to_bytes(size, draw.choice(("little", "big")))
    return data[:place] + value + data[place + size :]


def _cut(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def _remove(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data) + 1)
    return data[:start] + data[start + draw.randrange(64) :]


def _repeat(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data) + 1)
    stop = start + draw.randrange(64)
    return data[:stop] + data[start:stop] * draw.choice((1, 1, 9, 1000)) + data[stop:]


def _insert(data: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(data) + 1)
    return data[:place] + draw.randbytes(draw.randrange(1, 16)) + data[place:]


def _json_value(data: bytes, draw: random.Random) -> bytes:
    """Another value in place of a string, number, or innermost list or object of JSON."""
    values = list(re.finditer(rb'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|\[[^\[\]]*\]|\{[^{}]*\}', data))
    if not values:
        return _flip(data, draw)
    match = draw.choice(values)
    return data[: match.start()] + draw.choice(JSON_VALUES).encode() + data[match.end() :]


CHANGES = (_flip, _flip, _number, _number, _cut, _remove, _repeat, _insert, _json_value, _json_value)


def work(name: str, corpus: Path, seed: int, start: int, stop: int) -> None:
    """Reads the inputs of these numbers, one line of JSON for each before and after it.

    corpus: folder of the inputs so far that reached new lines.
    """
    from benchmarks._fuzz_readers import READERS

    reader, lines = READERS[name], ReachedLines()
    with tempfile.TemporaryDirectory() as folder:
        path = reader.make(Path(folder))
        valid, truth = path.read_bytes(), reader.read(path)
        kept = [file.read_bytes() for file in sorted(corpus.iterdir())]
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (limit := pages * resource.getpagesize() + MEMORY, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for data in (valid, *kept):
            path.write_bytes(data)
            with lines.traced():
                _outcome(reader, path, truth)
        for number in range(start, stop):
            data = mutated(valid, random.Random(f"{seed}/{name}/{number}"), kept)
            path.write_bytes(data)
            print(json.dumps({"at": number}), flush=True)
            before = lines.reached
            with lines.traced():
                answer = _outcome(reader, path, truth)
            is_new = lines.reached > before and len(kept) < MOST_KEPT and len(data) < MOST_BYTES
            if answer["outcome"] not in FAULTS and is_new:
                kept.append(data)
                (corpus / f"{number:09}").write_bytes(data)
            print(json.dumps(answer | {"lines": [lines.reached, lines.total]}), flush=True)


def _outcome(reader: Any, path: Path, truth: str) -> dict[str, Any]:
    try:
        content = reader.read(path)
    except UserError:
        return {"outcome": "rejected"}
    except MemoryError:
        return {"outcome": "memory"}
    except BaseException as error:  # any other exception is a fault of the reader
        last = traceback.extract_tb(error.__traceback__)[-1]
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(str(ROOT))]
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        return {"outcome": "crash", "why": f"{type(error).__name__} at {place} ({Path(last.filename).name})"}
    return {"outcome": "equal" if content == truth else "wrong" if reader.is_checked else "changed"}


class Result(NamedTuple):
    """Of a reader. outcomes: how many of each. faults: of each kind the first input. lines: reached, of how many."""

    outcomes: Counter[str]
    faults: dict[str, str]
    lines: list[int]

    def row(self, name: str) -> dict[str, Any]:
        share = f"{self.lines[0] / max(1, self.lines[1]):.0%} of {self.lines[1]}"
        counts = {outcome: self.outcomes[outcome] for outcome in OUTCOMES}
        return {"reader": name, "inputs": self.outcomes.total(), "coverage": share} | counts


def run(name: str, seed: int, inputs: int, keep: Path | None = None) -> Result:
    """Tries the inputs of a reader. keep: folder for the first input of each kind of fault."""
    result, number = Result(Counter(), {}, [0, 0]), 0
    with tempfile.TemporaryDirectory() as corpus:
        while number < inputs:
            for at, answer in _answers(name, Path(corpus), seed, number, inputs):
                result.outcomes[answer["outcome"]] += 1
                result.lines[:] = max(result.lines, answer.get("lines", [0, 0]))
                number = at + 1
                fault = f"{answer['outcome']}: {answer.get('why', '')}"
                if answer["outcome"] not in FAULTS or fault in result.faults:
                    continue
                result.faults[fault] = f"input {at}"
                if keep:
                    (keep / f"{name.replace(' ', '-')}.{at}").write_bytes(_input(name, Path(corpus), seed, at))
    return result


def _input(name: str, corpus: Path, seed: int, number: int) -> bytes:
    """An input again, given those before it that reached new lines."""
    from benchmarks._fuzz_readers import READERS

    with tempfile.TemporaryDirectory() as folder:
        valid = READERS[name].make(Path(folder)).read_bytes()
    earlier = [file.read_bytes() for file in sorted(corpus.iterdir()) if int(file.name) < number]
    return mutated(valid, random.Random(f"{seed}/{name}/{number}"), earlier)


def _answers(name: str, corpus: Path, seed: int, start: int, stop: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The outcomes from one worker, until it is done or dies of an input."""
    command = [sys.executable, "-m", "benchmarks.fuzz", "--worker", name, str(corpus), *map(str, (seed, start, stop))]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as errors:
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment, cwd=ROOT)
        assert worker.stdout
        at, waiting = start, b""
        try:
            while at < stop:
                if not _is_ready(worker, SECONDS if waiting == b"at" else 10 * SECONDS):
                    yield at, {"outcome": "hang"}
                    return
                line = worker.stdout.readline()
                answer = json.loads(line) if line.endswith(b"\n") else {}
                if "at" in answer:
                    at, waiting = answer["at"], b"at"
                elif answer:
                    yield at, answer
                    at, waiting = at + 1, b""
                elif waiting:
                    yield at, {"outcome": "crash", "why": f"the process ended with code {worker.wait()}"}
                    return
                else:
                    errors.seek(0)
                    raise NotTried(f"{name}: not tried\n{errors.read()[-2000:]}")
        finally:
            worker.kill()
            worker.communicate()


def _is_ready(worker: subprocess.Popen[bytes], seconds: float) -> bool:
    """Waits for output until the worker has used this much of a processor, or slept ten times as long."""
    assert worker.stdout
    until = _processor_seconds(worker.pid) + seconds
    for _ in range(10):
        if select.select([worker.stdout], [], [], seconds)[0]:
            return True
        if _processor_seconds(worker.pid) > until:
            break
    return False


def _processor_seconds(pid: int) -> float:
    times = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11:13]
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    from benchmarks._fuzz_readers import READERS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=INPUTS, help="over all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for the first input of each kind of fault")
    parser.add_argument("--only", help="names of readers, with commas between them")
    arguments = parser.parse_args()
    names = arguments.only.split(",") if arguments.only else list(READERS)
    share = -(-arguments.inputs // len(names))
    if arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
    rows, faults = [], {}
    with concurrent.futures.ThreadPoolExecutor(cores()) as pool:
        futures = {name: pool.submit(run, name, arguments.seed, share, arguments.keep) for name in names}
        for name, future in futures.items():
            try:
                result = future.result()
            except NotTried as error:
                say(str(error))
                continue
            rows.append(result.row(name))
            faults |= {f"{name}, {fault}": first for fault, first in result.faults.items()}
            say(table([rows[-1]]).splitlines()[1])
    print(table(rows))
    sums = {outcome: sum(row[outcome] for row in rows) for outcome in OUTCOMES}
    bad = sum(sums[fault] for fault in FAULTS)
    details = {"inputs": share * len(rows), "seed": arguments.seed, **sums, "faults": faults, "readers": rows}
    packages = ("tokenizers", "pyarrow", "numpy")
    finish("fuzz", "inputs with a fault", bad, {}, device=processor(), packages=packages, details=details)
    return 1 if bad else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], Path(sys.argv[3]), *map(int, sys.argv[4:7]))
    else:
        sys.exit(main())
