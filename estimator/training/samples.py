"""Logs the texts that training generates: RUN/samples/STEP.jsonl, TensorBoard and the console."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from estimator import storage
from estimator.parallel import agreement
from estimator.training.monitor import TrainMonitor

FOLDER = "samples"


class TextSample(NamedTuple):
    """A text generated during training: the prompt and its continuation, or a reply, which is shown on a new line."""

    prompt: str
    text: str
    is_reply: bool = False

    def __str__(self) -> str:
        return self.prompt + "\n" * self.is_reply + self.text


# (step, parameters) -> the texts of a step; all processes call it together
Sampling = Callable[[int, Any], Sequence[TextSample]]


@dataclass
class Samples:
    """Generates samples and logs them. run: the run's folder. period: steps between samples, None without."""

    run: str
    period: int | None
    sampling: Sampling
    monitor: TrainMonitor

    def add(self, step: int, params: Any) -> None:
        """Generates, logs and shows the samples of a step. A collective."""
        with self.monitor.paused("sample"):
            samples = self.sampling(step, params)
        if self.monitor.log:
            self._write(self.monitor.log.folder, step, samples)
            for number, sample in enumerate(samples):
                text = "    " + str(sample).replace("\n", "\n    ")  # Markdown for text as it is
                self.monitor.log.events.write_text(step, f"{FOLDER}/{number}", text, time=time.time())
        if self.monitor.console:
            for sample in samples:
                self.monitor.console.at_step(step, f"sample: {sample}")

    def _write(self, folder: Path, step: int, samples: Sequence[TextSample]) -> None:
        path = folder / FOLDER / f"{step}.jsonl"
        path.parent.mkdir(exist_ok=True)
        lines = [
            json.dumps({"step": step, "prompt": sample.prompt, "text": sample.text}, ensure_ascii=False) + "\n"
            for sample in samples
        ]
        storage.write_bytes_atomic(path, "".join(lines).encode(errors="replace"))

    def are_owed(self, step: int) -> bool:
        """Whether the run ended between a checkpoint and the samples of its step; equal on all processes."""
        if not step or not self.period or step % self.period:
            return False
        path = storage.join(self.run, FOLDER, f"{step}.jsonl")
        return not agreement.from_first(lambda: storage.is_file(path))
