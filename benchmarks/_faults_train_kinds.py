"""The faults of training runs: each disturbs a run once, and checks how it ended and what it left behind."""

import random
import re
import signal
import time

from benchmarks import _faults_trial as trials
from benchmarks._faults_kinds import COMMON, HERE, TAKEN_FOR_DEAD, Disturbance, Kind, drawn
from benchmarks._faults_train import HEARTBEAT_SECONDS, KEYS, STEPS, Laboratory, Setting, TrainTrial
from benchmarks._faults_trial import FOREVER, LOST, SECONDS, WRONG, Fault, Report
from benchmarks._faults_zygote import Child, Ended
from estimator.storage import locks
from estimator.training.run_lock import LOCK

FILES = ("metrics.jsonl", "progress.json", "config.json", "origin.json", "vocabulary.json", "vocabulary/")


class TrainDisturbance(Disturbance[TrainTrial]):
    """Faults of training runs."""

    def start(self, *rules: str, **options) -> Ended:  # type: ignore[override]
        """A stop request must save the step that it has reached."""
        ended = super().start(*rules, **options)
        saved = re.search(r"saved at step (\d+); the same command continues", ended.output)
        newest = max(self.run.steps(), default=None)
        if saved and newest != int(saved[1]):
            raise Fault(LOST, f"it said {saved[0]!r}, and the newest step is {newest}:\n{ended.output[-1500:]}")
        return ended

    def rival(self) -> None:
        """While it is stopped, another process is started with the same command; one of them trains, by its lock."""

        def start_another(child: Child) -> None:
            lock = self.run.prefix / "run" / LOCK
            is_training = lock.exists() and locks.is_held(lock)
            other = self.run.start_process(0, 1, {})
            arguments = ["--model", str(self.run.folder / "run.json")]
            ended = other.run("main", arguments, seconds=SECONDS // 4)
            other.close()
            child.resume()
            if ended.code is None and "; waiting for it" in ended.output:  # for prepared text, as long as it takes
                return
            refused = trials.check(ended, codes=[0])
            if not refused and is_training and "already at step" not in ended.output:
                raise Fault(WRONG, f"two processes trained in one folder:\n{ended.output[-1500:]}")

        self.start(self.rule("change", "signal", signal.SIGSTOP), stopped=start_another)

    def partition(self) -> None:
        """A worker that is silent for longer than the others wait."""

        def wait(child: Child) -> None:
            time.sleep(2 * HEARTBEAT_SECONDS)
            child.resume()

        self.start(self.rule("change", "signal", signal.SIGSTOP), stopped=wait, **TAKEN_FOR_DEAD)

    def damaged(self) -> None:
        """A file of the run's folder, most often of its newest checkpoint, between two starts."""
        self.begin()
        newest = f"{self.run.run_folder}/checkpoints/{self.run.steps()[-1]}/" if self.run.steps() else None
        paths = trials.files(self.run.run_folder)
        checkpoint = [path for path in paths if newest and path.startswith(newest)]
        others = [path for path in paths if path.removeprefix(f"{self.run.run_folder}/").startswith(FILES)]
        chosen = checkpoint if checkpoint and self.draw.random() < 0.6 else others
        if chosen:
            self.damage(self.draw.choice(chosen), root=self.run.run_folder)

    def shards_damaged(self) -> None:
        self.begin()
        path = self.draw.choice(sorted(self.run.shards.iterdir()))
        self.damage(str(path), root=str(self.run.shards))

    def damage(self, path: str, *, root: str) -> None:
        super().damage(path, root=root)
        self.run.is_log_damaged |= path.endswith("metrics.jsonl")

    def shards_exchanged(self) -> None:
        """Other data under the same names: said, not silently trained on."""
        self.begin()
        one, two = self.draw.sample(sorted(self.run.shards.glob("*.tfrecords")), 2)
        contents = one.read_bytes(), two.read_bytes()
        two.write_bytes(contents[0])
        one.write_bytes(contents[1])
        before = self.run.steps()
        ended = self.start("change:1:0:none 0:")
        if before and ended.code == 0 and "already at step" not in ended.output and "data" not in _notes(ended):
            raise Fault(WRONG, f"it trains on other data without a word:\n{ended.output[-2500:]}")
        two.write_bytes(contents[1])
        one.write_bytes(contents[0])
        self.run.is_compared = self.run.is_compared and ended.code != 0

    def begin(self) -> None:
        """Makes sure that there is something to damage."""
        if not self.run.steps():
            self.start(self.rule("change", "signal", signal.SIGKILL), dies_of=(signal.SIGKILL,))

    def not_finite(self) -> None:
        """All batches from one on give NaN: it stops, and what it has saved is what the same steps without the others
        give."""
        first = self.draw.randrange(STEPS)
        newest = max(self.run.steps(), default=0)
        ended = self.start(hooks={"nan_steps": (first, FOREVER)}, codes=(0, 3))
        saved = max(self.run.steps(), default=0)
        if ended.code == 0 and STEPS - max(first, newest) >= KEYS["max_skipped_steps"]:
            raise Fault(WRONG, f"batches from {first} on are not finite, and it ends with code 0")
        if saved > max(first, newest):
            self.run.expected = self.run.setting._replace(nan=(max(first, newest), saved - 1))

    def exploding(self) -> None:
        """A learning rate with which nothing can be learned: afterwards it evaluates, with finite weights."""
        self.start(overrides={"lr": 1e9, "grad_clip": None, "warmup_steps": 1}, codes=(0, 3))
        if self.run.steps():
            ended = self.run.run(program=["--evaluate"])
            trials.check(ended, codes=[0])


def _notes(ended: Ended) -> str:
    return "\n".join(
        line for line in ended.output.splitlines() if line.startswith(("changed since", "warning", "note"))
    )


KINDS = COMMON | {
    "rival": Kind(TrainDisturbance.rival, 1, HERE),
    "partition": Kind(TrainDisturbance.partition, 1, ("two",)),
    "damaged run": Kind(TrainDisturbance.damaged, 5, ("one", "bucket")),
    "damaged shard": Kind(TrainDisturbance.shards_damaged, modes=HERE),
    "exchanged shards": Kind(TrainDisturbance.shards_exchanged, 1, HERE, is_last=True),
    "NaN": Kind(TrainDisturbance.not_finite, 1, HERE, is_last=True),
    "exploding": Kind(TrainDisturbance.exploding, 1, HERE, is_last=True),
}


def trial(laboratory: Laboratory, report: Report, draw: random.Random) -> None:
    """One trial: a setting, up to three faults, and the end of the run."""
    mode = draw.choices(("one", "two", "bucket"), (16, 2, 2))[0]
    setting = Setting(mode, draw.choice(("packed", "packed", "text")) if mode == "one" else "packed")
    if draw.random() < 0.05:
        step = draw.choice((3, 6))
        setting = setting._replace(nan=(step, step))
    has_shards = setting.input == "packed"
    kinds = {name: kind for name, kind in KINDS.items() if mode in kind.modes and (has_shards or "shard" not in name)}
    if setting.nan:
        kinds.pop("NaN", None)  # its bad steps would take the place of the setting's
    counts = laboratory.reference(setting).counts
    with TrainTrial(laboratory, report, setting, report.name) as run:
        for _ in range(draw.choice((1, 1, 2, 3))):
            report.kinds.append(name := drawn(kinds, draw))
            newest = max(run.steps(), default=-1)
            KINDS[name].disturb(TrainDisturbance(run, draw, counts, processes=2 if mode == "two" else 1))
            if not run.damages and (now := max(run.steps(), default=-1)) < newest:
                raise Fault(LOST, f"step {newest} was the newest before, and {now} is after")
            if KINDS[name].is_last:
                break
            if draw.random() < 0.1:
                run.end()
        if "exploding" in report.kinds:
            return
        run.finish(draw)
        if run.is_compared:
            run.compare(laboratory.reference(run.expected or setting))
