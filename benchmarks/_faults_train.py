"""Training runs of main.py under faults: one process, two, or one whose folder is in a bucket.

A trial begins a run, disturbs it up to three times, and lets it finish. Its last checkpoint must have the bits, and its
log the values, of a run that nobody disturbed; a refusal is followed, and must lead there too.
"""

import contextlib
import functools
import itertools
import json
import random
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import _faults_trial as trials
from benchmarks._faults_trial import LOST, OPS, SECONDS, WRONG, Damage, Fault, Report, rule
from benchmarks._faults_zygote import Child, Ended, Zygote
from estimator import storage
from estimator.errors import UserError
from estimator.json_text import sealed
from estimator.launch.local_hosts import free_port
from estimator.parallel import distributed
from estimator.shards.tfrecord import ShardWriter
from estimator.tokenization import tokenizer as tokenizers
from estimator.training import metrics_log
from estimator.training.remote_checkpoints import steps_in

STEPS = 7
KEYS = {
    "model": "GPT2", "n_layer": 1, "n_head": 2, "n_embd": 16, "n_ctx": 16, "train_batch_size": 4, "max_steps": STEPS,
    "train_steps": 4, "eval_steps": 2, "log_steps": 1, "save_steps": 3, "keep_checkpoints": 2, "warmup_steps": 2,
    "embed_dropout": 0.1, "scale_by_in": False, "max_skipped_steps": 3,
}  # fmt: skip
# Values of a line of the log that a disturbed run must have, too.
LOGGED = ("split", "step", "tokens", "loss", "lr", "grad_norm")
ENVIRONMENT = {
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "GPT2_STORAGE_SECONDS": "20", "CXX": "",
}  # fmt: skip
HEARTBEAT_SECONDS = 5  # of a trial with two processes


class Setting(NamedTuple):
    """A run. mode: one, two (processes) or bucket. nan: first and last step that is not finite."""

    mode: str = "one"
    input: str = "packed"
    nan: tuple[int, int] | None = None


class Reference(NamedTuple):
    """An undisturbed run. counts: calls of each kind below its folder, of one process."""

    digest: dict[str, Any]
    records: list[tuple[Any, ...]]
    progress: Any
    counts: dict[str, int]


class Laboratory:
    """Inputs, the zygote, the bucket, and undisturbed runs, for all trials."""

    def __init__(self, folder: Path, library: str):
        self.folder = folder
        write_inputs(folder)
        environment = ENVIRONMENT | {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"), "HOME": str(folder),
                                     "GPT2_CACHE": str(folder / "user-cache")}  # fmt: skip
        self.zygote = Zygote("main", preload=library, environment=environment)
        self._stack = contextlib.ExitStack()
        self._references: dict[Setting, Reference] = {}
        self._lock = threading.RLock()
        self._idle: dict[str, list[Child]] = {}
        self._starts = itertools.count()

    @functools.cached_property
    def bucket(self) -> Any:
        """The service of gs://bucket on this machine; ImportError without its packages."""
        from benchmarks._faults_bucket import serve

        return self._stack.enter_context(serve())

    def start(self, environment: Mapping[str, str], hooks: Mapping[str, Any]) -> Child:
        """A process that no trial uses, or a new one."""
        key = json.dumps([environment, hooks], sort_keys=True)
        while self._idle.get(key):
            child = self._idle[key].pop()
            if child.is_alive:
                return child
        folder = self.folder / f"process-{next(self._starts)}"
        child = self.zygote.start(folder, environment=environment, hooks=hooks)
        child.key = key
        return child

    def give_back(self, child: Child) -> None:
        self._idle.setdefault(child.key, []).append(child)

    def close(self) -> None:
        for child in itertools.chain(*self._idle.values()):
            child.kill()
        self.zygote.close()
        self._stack.close()

    def reference(self, setting: Setting) -> Reference:
        with self._lock:
            if setting not in self._references:
                self._references[setting] = self._undisturbed(setting)
            return self._references[setting]

    def _undisturbed(self, setting: Setting) -> Reference:
        name = "-".join(["reference", setting.mode, setting.input, *map(str, setting.nan or ())])
        with TrainTrial(self, Report(0), setting, name) as trial:
            ended = trial.run([rule(op, trial.prefix, at=1, action="none") for op in OPS])
            trials.check(ended, codes=[0])
            return trial.result()._replace(counts=dict(zip(OPS, ended.counts, strict=False)))


def write_inputs(folder: Path) -> None:
    tokenizer = tokenizers.byte_level_tokenizer()
    tokenizer.save(folder / "encoder")
    draw = np.random.default_rng(0)
    (folder / "shards").mkdir()
    for i in range(3):
        with ShardWriter(folder / "shards" / f"a_{i}.tfrecords", tokenizer=tokenizer.digest) as shard:
            for document in range(12):
                shard.write(str(document).encode(), draw.integers(97, 123, draw.integers(30, 90)))
    sizes = {path.name: path.stat().st_size for path in sorted((folder / "shards").glob("*.tfrecords"))}
    (folder / "shards" / "a.json").write_text(json.dumps(sealed({"shards": sizes})))  # as encode.py does
    (folder / "texts").mkdir()
    for i in range(12):
        words = ["".join(map(chr, draw.integers(97, 107, 4))) for _ in range(60)]
        (folder / "texts" / f"{i:02}.txt").write_text(" ".join(words) + ".\n")


class TrainTrial:
    """A run that is disturbed, in a folder of its own."""

    def __init__(self, laboratory: Laboratory, report: Report, setting: Setting, name: str):
        self.laboratory, self.report, self.setting = laboratory, report, setting
        self.folder = laboratory.folder / name
        self.folder.mkdir()
        self.shards = self.folder / "shards"
        shutil.copytree(laboratory.folder / "shards", self.shards)
        (self.folder / "here").mkdir()
        self.prefix = self.folder / "here"  # below it, the shim's rules hold
        if setting.mode == "bucket":
            self.run_folder = f"gs://{laboratory.bucket.name}/{name}/run"
        else:
            self.run_folder = str(self.prefix / "run")
        self.children: list[Child] = []
        self.damages: list[Damage] = []
        self.is_log_damaged = self.is_progress_lost = False
        self.is_compared = True
        self.expected: Setting | None = None
        self._hooks: Mapping[str, Any] = {}

    def __enter__(self) -> "TrainTrial":
        return self

    def __exit__(self, *exception: object) -> None:
        for child in self.children:
            if exception[0] is None and self.setting.mode != "two":
                self.laboratory.give_back(child)
            else:
                child.kill()
        if exception[0] is None:
            shutil.rmtree(self.folder)

    # Starting.

    def run(
        self,
        rules: Sequence[str] = (),
        *,
        overrides: Mapping[str, Any] | None = None,
        hooks: Mapping[str, Any] | None = None,
        memory: int | None = None,
        program: Sequence[str] = (),
        victim: int = 0,
        stopped: Callable[[Child], None] | None = None,
    ) -> Ended:
        """main.py with the keys of the run. The rules and the limit hold for one process. stopped: called
        while it is stopped by a signal. Returns how the process `victim` ended."""
        processes = 2 if self.setting.mode == "two" else 1
        hooks = {**({"nan_steps": self.setting.nan} if self.setting.nan else {}), **(hooks or {})}
        if processes == 2 or not self.children or hooks != self._hooks or not self.children[0].is_alive:
            self.end()
            self._hooks = hooks
            self.children = [self.start_process(number, processes, hooks) for number in range(processes)]
        arguments = ["--model", str(self._write_config(overrides or {})), *program]
        for number, child in enumerate(self.children):
            ours = number == victim
            child.begin("main", arguments, rules=rules if ours else (), memory=memory if ours else None)
        others = [child for number, child in enumerate(self.children) if number != victim]
        ended = self.children[victim].result(seconds=SECONDS, stopped=stopped, peers=others)
        if ended.code is None:
            outputs = "".join(f"\nthe other process:\n{child.output()[-6000:]}" for child in others)
            raise Fault(LOST, f"it did not end in time; its output, with its stacks:\n{ended.output[-6000:]}{outputs}")
        peers = [child.result(seconds=SECONDS) for child in others]
        for peer in peers:
            self._check_peer(peer, ended)
        # Then the steps so far are described by config.json alone, as it says.
        self.is_progress_lost |= "progress.json is missing; the " in ended.output
        if memory is not None or any(result.is_dead for result in (ended, *peers)):
            self.end()  # also since a library whose threads could not be started does not try again in this process
        return ended

    def start_process(self, number: int, processes: int, hooks: Mapping[str, Any]) -> Child:
        environment = self.laboratory.bucket.environment if self.setting.mode == "bucket" else {}
        if processes > 1:
            if not number:
                self._port = free_port()
            environment = {**environment, distributed.ADDRESS: f"127.0.0.1:{self._port}",
                           distributed.COUNT: str(processes), distributed.INDEX: str(number)}  # fmt: skip
            hooks = {**hooks, "heartbeat": HEARTBEAT_SECONDS}
        else:
            hooks = {**hooks, "keeps_programs": True}
        return self.laboratory.start(environment, hooks)

    def _check_peer(self, peer: Ended, victim: Ended) -> None:
        """The other process of two ends with the first, however JAX ends it."""
        if peer.code is None:
            raise Fault(LOST, f"the other process did not end with this one:\n{peer.output[-1500:]}")
        if victim.code == 0 and peer.code != 0:
            raise Fault(WRONG, f"the other process ended with code {peer.code}:\n{peer.output[-1500:]}")

    def _write_config(self, overrides: Mapping[str, Any]) -> Path:
        common = self.laboratory.folder
        values = KEYS | {"model_path": self.run_folder, "input": self.setting.input,
                         "predict_path": str(self.folder / "samples.txt")}  # fmt: skip
        if self.setting.input == "text":
            values |= {"data_path": str(common / "texts"), "n_vocab": 280}
        else:
            values |= {"data_path": str(self.shards), "encoder_path": str(common / "encoder"), "n_vocab": 257,
                       "eval_split": [1]}  # fmt: skip
        path = self.folder / "run.json"
        path.write_text(json.dumps({**values, **overrides}))
        return path

    def end(self) -> None:
        """Lets the processes end; they must have an exit code of their own in time."""
        children, self.children = self.children, []
        for child in children:
            child.finish()
        for child in children:
            if child.close() is None:
                raise Fault(LOST, "the process did not exit after its last command")

    # Results.

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints."""
        return steps_of(self.run_folder)

    def result(self) -> Reference:
        out = self.folder / "digest"
        out.unlink(missing_ok=True)
        if self.setting.mode == "two":
            self.end()
            self.children = [self.start_process(0, 1, {})]
        trials.check(self.children[0].run("digest", [self.run_folder, str(out)]), codes=[0])
        progress = json.loads(storage.read_bytes(f"{self.run_folder}/progress.json"))
        return Reference(json.loads(out.read_text()), [] if self.is_log_damaged else self._records(), progress, {})

    def _records(self) -> list[tuple[Any, ...]]:
        """Of the log as its readers see it, without a last line that a kill left incomplete."""
        try:
            records = metrics_log.read(f"{self.run_folder}/metrics.jsonl")
        except UserError as error:
            raise Fault(WRONG, f"the log: {error}") from None
        return [tuple(record.get(key) for key in LOGGED) for record in records if record["split"] in ("train", "eval")]

    def compare(self, expected: Reference) -> None:
        """Raises Fault where the finished run differs from an undisturbed one."""
        found = self.result()
        if found.digest != expected.digest:
            raise Fault(WRONG, f"the last state differs: {found.digest}, undisturbed {expected.digest}")
        if not self.is_log_damaged and found.records != expected.records:
            raise Fault(WRONG, f"the log differs: {found.records}, undisturbed {expected.records}")
        if not self.is_progress_lost and found.progress != expected.progress:
            raise Fault(WRONG, f"progress.json differs: {found.progress}, undisturbed {expected.progress}")

    # Following refusals.

    def finish(self, draw: random.Random, *, refusals: int = 4) -> Ended:
        """Runs to the end without faults, and follows the refusals that damage leads to."""
        while True:
            newest = max(self.steps(), default=None)
            damaged = bool(self.damages)
            ended = self.run()
            if not trials.check(ended, codes=[0]):
                break
            if not self.steps() and "has no checkpoint to continue from" in ended.output:
                # All checkpoints were moved out of the run, as advised; what else it has must not be lost unasked.
                self.report.refusals += 1
                ended = self.run(program=["--clean"])
                if not trials.check(ended, codes=[0]):
                    break
            if not self.damages or not refusals:
                raise Fault(LOST if not damaged else WRONG, f"a run without faults is refused:\n{ended.output[-1500:]}")
            refusals -= 1
            self.report.refusals += 1
            trials.follow(ended, self.damages, draw, move=self.move_out)
        if newest is not None and not damaged and not self.continued(ended, newest):
            raise Fault(LOST, f"it does not continue from step {newest}:\n{ended.output[-1500:]}")
        return ended

    @staticmethod
    def continued(ended: Ended, newest: int) -> bool:
        return f"continuing from step {newest} " in ended.output or f"already at step {newest} " in ended.output

    def move_out(self, folder: str) -> None:
        if storage.is_remote(folder):
            storage.remove(folder)
        else:
            shutil.move(folder, self.folder / f"moved-{self.report.refusals}")


def steps_of(folder: str) -> list[int]:
    """Steps of the complete checkpoints of a run."""
    root = f"{folder}/checkpoints"
    if storage.is_remote(folder):
        return sorted(steps_in(root))
    return sorted(int(path.name) for path in Path(root).glob("[0-9]*") if path.name.isdigit())
