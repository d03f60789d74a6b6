"""Counts what one has to read to follow a training run: the files that a traced tiny run enters, and their lines.

python -m benchmarks.reading             a run of packed shards: 12 steps, evaluation and a checkpoint after 6
python -m benchmarks.reading --verbose   the functions of each file that were entered, too

A file counts with all of its lines when a function of it is entered, on any thread, inside the training loop (the
`with` of `Estimator._train_steps` that starts the input pipeline, compiles the step and repeats it), or when a function
of it is on the call stack from main.py to the loop. No file is excluded; importing a file does not enter it. The table
also lists `setup`: files that are entered only before or after the loop, to check, open and close what the loop uses.
They are totaled in `details.setup_files` and `details.setup_lines`. The share of the largest folder is of all lines of
Python outside tests and benchmarks.
"""

import argparse
import ast
import inspect
import json
import os
import runpy
import sys
import tempfile
import textwrap
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from benchmarks._report import finish, processor, say, table
from estimator.corpus.build import pipeline
from estimator.corpus.build.executors import Executor
from estimator.corpus.build.plan import Corpus, Options
from estimator.estimator import Estimator
from estimator.tokenization.train_bpe import train_byte_bpe

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES, MAX_FILES, MAX_SHARE = 4000, 24, 0.15
SETUP, LOOP = "setup", "loop"
NOT_COUNTED = ("tests", "benchmarks", "findings", "runs", "build")


class Trace:
    """Records which functions of this repository are entered, and whether the training loop runs at that time."""

    def __init__(self) -> None:
        self.entered: dict[str, dict[Path, set[str]]] = {SETUP: defaultdict(set), LOOP: defaultdict(set)}
        self._train, self._loop = _training_loop()
        self._frame: FrameType | None = None
        self._files: dict[str, Path | None] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Records the calls of this thread and of all threads that it starts."""
        threading.setprofile(self._on_event)
        sys.setprofile(self._on_event)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)  # type: ignore[arg-type]

    def _on_event(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_flags & inspect.CO_NEWLOCALS:  # else the body of a module or a class
            return
        if code is self._train:
            self._frame = frame
        path = self._files.get(code.co_filename, ...)
        if path is ...:
            path = self._files[code.co_filename] = _ours(code.co_filename)
        if path is not None:
            is_in_loop = self._frame is not None and self._frame.f_lineno in self._loop
            phase = self.entered[LOOP if is_in_loop else SETUP]
            if is_in_loop and path not in phase:
                self._add_callers(frame)
            phase[path].add(code.co_qualname)

    def _add_callers(self, frame: FrameType) -> None:
        caller = frame.f_back
        while caller is not None:
            path = _ours(caller.f_code.co_filename)
            if path is not None and caller.f_code.co_flags & inspect.CO_NEWLOCALS:
                self.entered[LOOP][path].add(caller.f_code.co_qualname)
            caller = caller.f_back


def _training_loop() -> tuple[CodeType, range]:
    """The code of `Estimator._train_steps` and the lines of the `with` around its loop."""
    lines, first = inspect.getsourcelines(Estimator._train_steps)
    blocks = [node for node in ast.walk(ast.parse(textwrap.dedent("".join(lines)))) if isinstance(node, ast.With)]
    loops = [block for block in blocks if any(isinstance(node, ast.While) for node in ast.walk(block))]
    assert len(loops) == 1, "training has one loop, in one block"
    return Estimator._train_steps.__code__, range(first + loops[0].lineno - 1, first + (loops[0].end_lineno or 0))


def _ours(filename: str) -> Path | None:
    """The path below the repository, or None for files of others."""
    path = Path(filename)
    if not path.is_relative_to(ROOT) or path.suffix != ".py" or not path.is_file():
        return None
    path = path.relative_to(ROOT)
    return None if path.parts[0].startswith(".") or path.parts[0] in NOT_COUNTED else path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verbose", action="store_true", help="print the functions that were entered")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="reading-") as folder:
        trace = trace_run(Path(folder))
    report(trace, verbose=arguments.verbose)


def trace_run(folder: Path) -> Trace:
    """Trains a tiny GPT-2 on packed shards by main.py, in this process."""
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    texts = [" ".join(words[(i * j) % 10] for j in range(60)) for i in range(200)]
    (folder / "texts.jsonl").write_text(
        "".join(json.dumps({"text": f"{i} {text}"}) + "\n" for i, text in enumerate(texts))
    )
    train_byte_bpe(texts, n_vocab=257, out=folder / "encoder")
    corpus = Corpus("text", (str(folder / "texts.jsonl"),))
    shards, executor = folder / "shards", Executor(workers=1)
    pipeline.encode([corpus], Options(), encoder=str(folder / "encoder"), out=shards, executor=executor, quiet=True)
    values = {
        "input": "packed", "data_path": str(shards), "encoder_path": str(folder / "encoder"),
        "model_path": str(folder / "run"), "n_vocab": 257, "n_ctx": 16, "n_embd": 16, "n_head": 2, "n_layer": 1,
        "train_batch_size": 8, "max_steps": 12, "train_steps": 6, "save_steps": 6, "eval_steps": 1, "log_steps": 1,
        "warmup_steps": 2,
    }  # fmt: skip
    (folder / "tiny.json").write_text(json.dumps(values))
    main_of_run = runpy.run_path(str(ROOT / "main.py"))["main"]
    trace = Trace()
    with _arguments("main.py", "--model", str(folder / "tiny.json")), trace.recording():
        code = main_of_run()
    assert not code, f"the traced run ended with code {code}"
    return trace


@contextmanager
def _arguments(*arguments: str) -> Iterator[None]:
    """The command line of a program, and its console out of the way."""
    before, output = sys.argv, sys.stdout
    sys.argv = list(arguments)
    with open(os.devnull, "w", encoding="utf-8") as nothing:
        sys.stdout = nothing
        try:
            yield
        finally:
            sys.argv, sys.stdout = before, output


def report(trace: Trace, *, verbose: bool = False) -> dict[str, Any]:
    """Prints the tables, then the line of JSON."""
    loop = trace.entered[LOOP]
    rows = [
        {"file": str(path), "lines": _lines(path), "entered": LOOP if path in loop else SETUP}
        for path in sorted({*loop, *trace.entered[SETUP]}, key=lambda path: (path not in loop, path))
    ]
    say(table(rows))
    if verbose:
        for phase, files in trace.entered.items():
            say("\n".join(f"{phase} {path}: {', '.join(sorted(names))}" for path, names in sorted(files.items())))
    shares = folder_shares()
    largest = max(shares, key=lambda name: shares[name])
    return finish(
        "reading",
        "lines in the files that a tiny run enters from main.py to the compiled step and inside its loop",
        sum(map(_lines, loop)),
        {},
        device=processor(),
        packages=("jax",),
        less_is_better=True,
        details={
            "files": len(loop),
            "setup_files": len(rows) - len(loop),
            "setup_lines": sum(row["lines"] for row in rows if row["entered"] == SETUP),
            "largest_folder": largest,
            "largest_folder_share": shares[largest],
            "lines_of_code": sum(_lines(path) for path in sources()),
            "goals": {"lines": MAX_LINES, "files": MAX_FILES, "largest_folder_share": MAX_SHARE},
        },
    )


def sources() -> list[Path]:
    """Every Python file of the repository outside tests, benchmarks and findings."""
    paths = (path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
    return sorted(path for path in paths if path.parts[0] not in NOT_COUNTED and not path.parts[0].startswith("."))


def folder_shares() -> dict[str, float]:
    """The share of each folder's own files, without its sub-folders, in all lines."""
    lines: dict[str, int] = defaultdict(int)
    for path in sources():
        lines[str(path.parent)] += _lines(path)
    return {folder: count / sum(lines.values()) for folder, count in lines.items()}


def _lines(path: Path) -> int:
    return len((ROOT / path).read_text(encoding="utf-8").splitlines())


if __name__ == "__main__":
    main()
