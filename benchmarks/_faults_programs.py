"""Programs that write files under faults: encode, extract, download, download_model, export.

A trial begins a program, disturbs it up to three times, and lets it finish. Its files must have the bytes of one that
nobody disturbed.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any

from benchmarks import _faults_trial as trials
from benchmarks._faults_kinds import COMMON, Disturbance, Kind, drawn
from benchmarks._faults_train import ENVIRONMENT, KEYS, write_inputs
from benchmarks._faults_trial import LOST, OPS, SECONDS, WRONG, Damage, Fault, Report, rule
from benchmarks._faults_zygote import ROOT, Child, Ended, Zygote
from estimator.tokenization import tokenizer as tokenizers

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))
# Their contents may differ: of the state of a download, of the run of an export, of locks, of what counts seconds.
VOLATILE = ("state/", "run/", ".lock", "report.json")


class Workshop:
    """Inputs, warm processes and the files of undisturbed programs, for the trials of one program."""

    name = ""
    zygote_kind = "data"
    move: Callable[[str], None] | None = staticmethod(
        shutil.rmtree
    )  # takes a damaged folder away, as a refusal advises
    keeps_processes = False  # for the next command

    def __init__(self, folder: Path, library: str):
        self.folder = folder
        self.inputs = folder / "inputs"
        self.inputs.mkdir()
        self._stack = contextlib.ExitStack()
        self.environment = {"GPT2_CACHE": str(folder / "user-cache"), "HOME": str(folder), "CXX": ""}
        self.prepare()
        self.zygote = Zygote(self.zygote_kind, preload=library, environment=self.environment)
        self._idle: list[Child] = []
        with ProgramTrial(self, Report(0), "undisturbed") as whole:
            ended = whole.run(tuple(rule(op, whole.prefix, at=1, action="none") for op in OPS))
            trials.check(ended, codes=[0])
            self.counts = dict(zip(OPS, ended.counts, strict=False))
            self.expected = whole.contents()

    def prepare(self) -> None:
        """Writes the inputs, and starts servers."""

    def arguments(self, out: Path, draw: random.Random) -> list[str]:
        """A command line whose files do not depend on `draw`."""
        raise NotImplementedError

    def begin(self, out: Path, draw: random.Random) -> None:
        """Writes what the first command of a trial finds."""

    def notices(self, path: Path, out: Path) -> bool:
        """Whether the next command has to notice that this file of an unfinished one is damaged."""
        return True

    def check(self, found: dict[str, str]) -> None:
        """Raises Fault where a command that was disturbed may not leave files of these digests."""

    def child(self) -> Child:
        while self._idle:
            if (child := self._idle.pop()).is_alive:
                return child
        self._starts = getattr(self, "_starts", 0) + 1
        return self.zygote.start(self.folder / f"process-{self._starts}-{os.urandom(3).hex()}")

    def give_back(self, child: Child) -> None:
        self._idle.append(child)

    def close(self) -> None:
        for child in self._idle:
            child.kill()
        self.zygote.close()
        self._stack.close()


class ProgramTrial:
    """A program that is disturbed, with a folder of its own for its results."""

    def __init__(self, workshop: Workshop, report: Report, name: str):
        self.workshop, self.report = workshop, report
        self.folder = workshop.folder / name
        self.prefix = self.folder / "out"
        self.folder.mkdir()
        self.damages: list[Damage] = []
        self._child: Child | None = None
        self._draw = random.Random(name)
        self._more: list[str] = []
        workshop.begin(self.prefix, self._draw)

    def __enter__(self) -> "ProgramTrial":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._child:
            self.workshop.give_back(self._child) if exception[0] is None else self._child.kill()
        if exception[0] is None:
            shutil.rmtree(self.folder)

    def run(
        self, rules: tuple[str, ...] = (), *, victim: int = 0, memory: int | None = None, more: Sequence[str] = ()
    ) -> Ended:
        if self._child is None or not self._child.is_alive:
            self._child = self.workshop.child()
        arguments = [*self.workshop.arguments(self.prefix, self._draw), *self._more, *more]
        ended = self._child.run(self.workshop.name, arguments, rules=rules, memory=memory, seconds=SECONDS)
        if memory is not None or ended.is_dead or not self.workshop.keeps_processes:
            self._child.kill()
            self._child = None
        self.workshop.check(self.contents())
        return ended

    def end(self) -> None:
        child, self._child = self._child, None
        if child and child.close() is None:
            raise Fault(LOST, "the process did not exit after its last command")

    def contents(self) -> dict[str, str]:
        """Digests of the files that it wrote."""
        names = [path.relative_to(self.prefix).as_posix() for path in self.prefix.rglob("*") if path.is_file()]
        kept = [name for name in names if not name.startswith(VOLATILE) and not name.endswith(VOLATILE)]
        return {name: sha256((self.prefix / name).read_bytes()).hexdigest() for name in sorted(kept)}

    def finish(self, draw: random.Random, *, refusals: int = 4) -> None:
        """Runs to the end without faults, follows refusals, and compares."""
        while trials.check(ended := self.run(), codes=[0]):
            if not self.damages or not refusals:
                raise Fault(LOST, f"a command without faults is refused:\n{ended.output[-1500:]}")
            refusals -= 1
            self.report.refusals += 1
            if "--overwrite" in ended.output:
                self._more = ["--overwrite"]
            else:
                trials.follow(ended, self.damages, draw, move=self.workshop.move)
        found, expected = self.contents(), self.workshop.expected
        differing = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        if differing:
            kinds = ["missing" if n not in found else "left over" if n not in expected else "other" for n in differing]
            raise Fault(WRONG, f"files differ: {list(zip(differing, kinds, strict=True))}\n{ended.output[-1500:]}")


def damaged(self: Disturbance[ProgramTrial]) -> None:
    """A file of an unfinished command: of its finished parts or of its state."""
    if self.start(self.rule("change", "signal", signal.SIGKILL), dies_of=(signal.SIGKILL,)).code == 0:
        return
    out = self.run.prefix
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    paths = [path for path in files if self.run.workshop.notices(path, out)]
    if paths:
        self.damage(str(self.draw.choice(paths)), root=str(out))


KINDS: dict[str, Kind] = COMMON | {"damaged part": Kind(damaged)}


def trial(workshop: Workshop, report: Report, draw: random.Random) -> None:
    """One trial: up to three faults, and the end of the program."""
    with ProgramTrial(workshop, report, report.name) as run:
        for _ in range(draw.choice((1, 1, 2, 3))):
            report.kinds.append(name := drawn(KINDS, draw))
            KINDS[name].disturb(Disturbance(run, draw, workshop.counts))
            if draw.random() < 0.3:
                run.end()
        run.finish(draw)


class Encode(Workshop):
    name = "encode"

    def prepare(self) -> None:
        draw = random.Random(1)
        words = [
            "the",
            "quick",
            "brown",
            "fox",
            "jumps",
            "over",
            "the",
            "lazy",
            "dog",
            "and",
            "runs",
            "away",
            "from",
            "it",
        ]
        lines = [{"text": f"{i} " + " ".join(draw.choices(words, k=draw.randint(1, 60)))} for i in range(300)]
        for number in range(3):
            part = [*lines[number::3], *lines[:5]]
            (self.inputs / f"{number}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in part))
        tokenizers.byte_level_tokenizer().save(self.folder / "encoder")

    def arguments(self, out: Path, draw: random.Random) -> list[str]:
        return [str(self.inputs), "--out", str(out), "--encoder", str(self.folder / "encoder"), "--task_bytes", "8000",
                "--shard_tokens", "15000", "--split", "valid=0.1,test=0.1", "--near_duplicates", "drop",
                "--workers", draw.choice("12")]  # fmt: skip

    def notices(self, path: Path, out: Path) -> bool:
        """Training refuses finished shards by their checksums."""
        return ".tfrecords" not in path.name or ".partial/" in str(path)


class Extract(Workshop):
    name = "extract"

    def prepare(self) -> None:
        from helpers.web_archives import html, write_warc  # type: ignore[import-not-found]

        for archive in range(4):
            pages = [html(2 * archive), html(2 * archive + 1), html(archive)]
            write_warc(self.inputs / f"{archive}.warc.gz", pages)

    def arguments(self, out: Path, draw: random.Random) -> list[str]:
        return [str(self.inputs), "--out", str(out), "--language", "en", "--near_duplicates", "--workers",
                draw.choice("12")]  # fmt: skip


class Download(Workshop):
    name = "download"

    def prepare(self) -> None:
        from helpers.downloading import FAST, write_urls  # type: ignore[import-not-found]
        from helpers.website import Site  # type: ignore[import-not-found]

        site = self._stack.enter_context(Site(hosts=3, pages_per_host=5))
        slow = ["--total_timeout", "60", "--read_timeout", "60", "--connect_timeout", "60", "--delay", "0"]
        self._options = [str(write_urls(self.inputs, site.urls)), *FAST, *slow, *site.resolve, "--file_size", "0.01"]

    def arguments(self, out: Path, draw: random.Random) -> list[str]:
        return [*self._options, "--out", str(out)]

    def notices(self, path: Path, out: Path) -> bool:
        """Without pages in the spool the archives are finished, and may be moved elsewhere."""
        return path.parent != out or any((out / "state" / "spool").glob("*"))


class DownloadModel(Workshop):
    name = "download_model"

    def prepare(self) -> None:
        from helpers.http_server import serve  # type: ignore[import-not-found]

        header = b'{"wte.weight":{"dtype":"F32","shape":[1000,20],"data_offsets":[0,80000]}}'
        weights = len(header).to_bytes(8, "little") + header + random.Random(0).randbytes(80000)
        config = json.dumps({"model_type": "gpt2", "n_layer": 1, "n_embd": 20, "n_head": 2, "vocab_size": 1000})
        files = {"config.json": config.encode(), "model.safetensors": weights, "merges.txt": b"#version: 0.2\na b\n",
                 "vocab.json": b'{"a": 0, "b": 1, "ab": 2}'}  # fmt: skip
        entries: list[dict[str, Any]] = [{"type": "file", "path": name, "size": len(files[name])} for name in files]
        for entry in entries:
            data = files[entry["path"]]
            entry["oid"] = sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        entries[1]["lfs"] = {"oid": sha256(weights).hexdigest(), "size": len(weights)}
        answers = {f"/org/model/resolve/main/{name}": data for name, data in files.items()}
        answers["/api/models/org/model/tree/main"] = json.dumps(entries).encode()
        server = serve(lambda request: _answer(request, answers))
        self._stack.callback(server.server_close)
        self._stack.callback(server.shutdown)
        self.environment["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"

    def arguments(self, out: Path, draw: random.Random) -> list[str]:
        return ["org/model", "--out", str(out)]


def _answer(request: Any, answers: Mapping[str, bytes]) -> None:
    data = answers.get(request.path)
    if data is None:
        request.send_error(404)
        return
    start = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
    request.send_response(206 if start else 200)
    request.send_header("Content-Length", str(len(data) - start))
    if start:
        request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    request.send_header("ETag", f'"{sha256(data).hexdigest()[:8]}"')
    request.end_headers()
    request.wfile.write(data[start:])


class Export(Workshop):
    """Exports of a small run, into an empty folder or over the export of an earlier step."""

    name = "export"
    zygote_kind = "main"
    keeps_processes = True
    move = None  # without its newest checkpoint, another one is exported
    options: tuple[str, ...] = ("--to", "hf")
    weights = "export"  # what --out names
    old: dict[str, str] | None = None

    def __init__(self, folder: Path, library: str):
        super().__init__(folder, library)
        with ProgramTrial(self, Report(0), "earlier") as older:
            if trials.check(ended := older.run(more=["--step", "6"]), codes=[0]):
                raise Fault(WRONG, ended.output)
            self.old = older.contents()
            shutil.copytree(older.prefix / "export", folder / "old")

    def prepare(self) -> None:
        write_inputs(self.folder)
        self.environment |= ENVIRONMENT | {"JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled")}
        values = KEYS | {"model_path": str(self.inputs / "run"), "data_path": str(self.folder / "texts"),
                         "input": "text", "n_vocab": 280, "report": False}  # fmt: skip
        (self.folder / "run.json").write_text(json.dumps(values))
        command = [sys.executable, "main.py", "--model", str(self.folder / "run.json")]
        environment = os.environ | self.environment | {"JAX_PLATFORMS": "cpu"}
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)

    def begin(self, out: Path, draw: random.Random) -> None:
        shutil.copytree(self.inputs / "run", out / "run")
        if self.old and draw.random() < 0.5:
            shutil.copytree(self.folder / "old", out / "export")

    def arguments(self, out: Path, draw: random.Random) -> list[str]:
        return ["--model", str(out / "run"), "--out", str(out / self.weights), *self.options]

    def notices(self, path: Path, out: Path) -> bool:
        """Files of the run that are read and have checksums."""
        name = path.relative_to(out / "run").as_posix() if path.is_relative_to(out / "run") else ""
        return name.startswith((f"checkpoints/{KEYS['max_steps']}/", "vocabulary"))

    def check(self, found: dict[str, str]) -> None:
        """What looks whole is one of the two exports."""
        export = {name: digest for name, digest in found.items() if name.startswith("export/") and ".tmp" not in name}
        has_weights = any(name.endswith((".safetensors", ".gguf")) for name in export)
        if self.old and has_weights and export not in (self.old, self.expected):
            raise Fault(WRONG, f"an export that looks whole and is not: {sorted(export)}")


class ExportGGUF(Export):
    options = ("--to", "gguf")
    weights = "export/model.gguf"
