"""Sends a run's metrics to experiment trackers, each from a process of its own.

The processes follow metrics.jsonl, so a tracker that is slow, down or broken neither stops nor slows training; what it
has missed is sent later, also by hand:

    python3 -m estimator.training.trackers runs/demo/model wandb

RUN/trackers/NAME.json names the tracker's run and the last step sent of each split. It is written before the step is
sent, so no step appears twice, not even after a kill. A run that continues from an earlier checkpoint repeats the same
numbers, which are not sent again; with changed settings the numbers differ, so that the tracker gets a new run.
"""

import argparse
import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from estimator import json_text, storage
from estimator.errors import UserError, run_program
from estimator.storage import user_paths
from estimator.training import metrics_log, run_dir
from estimator.training.tracker_clients import CLIENTS, Client, TrackerRun
from estimator.training.tracker_process import LEFT_SECONDS, missing, require, warn

FOLDER = "trackers"
POLL_SECONDS, REMOTE_POLL_SECONDS = 1.0, 30.0
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 5.0, 120.0
BATCH = 200  # records
# Keys that do not change the numbers of a step; text is compared by its content.
NEUTRAL = frozenset({
    "model_path", "data_path", "encoder_path", "data_cache_gb",
    "train_steps", "sample_steps", "log_steps", "report", "trackers", "save_steps", "save_minutes", "keep_checkpoints",
    "keep_best", "load_best", "patience", "keep_every_steps", "max_loss_rise", "max_skipped_steps", "max_rollbacks",
    "check_steps",
    "predict_path", "predict_precision", "predict_batch_size", "num_samples", "length", "temperature", "top_k", "top_p",
    "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "logit_bias", "best_of", "stop",
    "sample_prompts", "sample_length", "chat_system",
})  # fmt: skip


def main() -> None:
    """The process of one tracker."""
    parser = argparse.ArgumentParser(description="Sends the metrics of a run that a tracker does not have yet.")
    parser.add_argument("run", type=user_paths.argument, help="folder of the run")
    parser.add_argument("tracker", choices=CLIENTS)
    for internal in ("--metrics", "--resume_step"):
        parser.add_argument(internal, help=argparse.SUPPRESS)
    for internal in ("--follow", "--differs"):
        parser.add_argument(internal, action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    require(missing([arguments.tracker]))
    ended = threading.Event()
    path = arguments.metrics or storage.join(arguments.run, metrics_log.FILE_NAME)
    resume_step = int(arguments.resume_step) if arguments.resume_step else None
    sender = Sender(arguments.tracker, arguments.run, resume_step=resume_step, is_replay=not arguments.differs)
    if not arguments.follow:
        ended.set()
        sender.run(storage.open(path), ended)
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(10)
    sender.keep_output()
    threading.Thread(target=_end_with_training, args=[ended], daemon=True).start()
    sender.run(storage.open(path), ended)


def _end_with_training(ended: threading.Event) -> None:
    """Waits for the end of the training process, however it ends; a tracker that hangs gets no more than its time."""
    sys.stdin.buffer.read()
    ended.set()
    time.sleep(LEFT_SECONDS)
    os._exit(1)


class Sender:
    """Sends records to a tracker.

    resume_step: step that training continues from; None if it does not run. is_replay: whether it repeats steps with
    the numbers that they had, as far as the settings allow.
    """

    def __init__(self, name: str, folder: str, *, resume_step: int | None = None, is_replay: bool = True):
        self._name, self._folder = name, folder
        self._is_remote = storage.is_remote(folder)
        self._state_file = storage.join(folder, FOLDER, f"{name}.json")
        config = run_dir.config_before(folder)
        state = self._read_state()
        self._run = TrackerRun(
            id=state.get("id") or secrets.token_hex(4),
            is_new="id" not in state,
            name=state.get("name") or _label(folder),
            config=config,
            folder=None if self._is_remote else Path(folder, FOLDER).absolute(),
            changed=run_dir.changed(state.get("config", config), config),
            step=resume_step or 0,
        )
        sent: dict[str, int] = state.get("sent", {})
        self._content = run_dir.content(folder)
        is_other_text = state.get("content") is not None and state["content"] != self._content
        is_other = not is_replay or is_other_text or bool(self._run.changed.keys() - NEUTRAL)
        if resume_step is not None and max(sent.values(), default=0) > resume_step and is_other:
            # The steps after the checkpoint come with other numbers than the tracker has.
            name = f"{self._run.name} from step {resume_step}"
            self._run = self._run._replace(id=secrets.token_hex(4), is_new=True, name=name, changed={})
            sent = {}
        self._sent = sent
        self._client: Client | None = None

    def _read_state(self) -> dict[str, Any]:
        try:
            return json_text.loads(storage.read_bytes(self._state_file))
        except FileNotFoundError:
            return {}
        except ValueError:
            raise UserError(f"{self._state_file} is damaged; restore it, or move it away to begin a new run") from None

    def _write_state(self) -> None:
        if not self._is_remote:
            Path(self._state_file).parent.mkdir(exist_ok=True)
        of_run = {"id": self._run.id, "name": self._run.name, "config": self._run.config, "content": self._content}
        state = of_run | {"sent": self._sent}
        storage.write_bytes_atomic(self._state_file, json.dumps(state).encode())

    def keep_output(self) -> None:
        """Redirects what the tracker prints to RUN/trackers/NAME.log; our own warnings still reach the terminal."""
        terminal = os.dup(2)
        log = os.devnull if self._is_remote else os.path.join(self._folder, FOLDER, f"{self._name}.log")
        if not self._is_remote:
            Path(log).parent.mkdir(exist_ok=True)
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(target, 1)
        os.dup2(target, 2)
        sys.stderr = os.fdopen(terminal, "w", buffering=1, encoding="utf-8", errors="backslashreplace")

    def run(self, file: IO[bytes], ended: threading.Event) -> None:
        """Sends the records of a file that grows until `ended`, then closes the tracker's run."""
        delay = 0.0
        while True:
            is_last = ended.is_set()
            place = file.tell()
            records, is_whole = self._next(file)
            try:
                self._send(records)
                if is_last and is_whole:
                    self._close()
                    return
                delay = 0.0
            except Exception as error:  # of any kind, out of code that is not ours
                file.seek(place)
                delay = min(2 * delay, LONGEST_RETRY_SECONDS) or FIRST_RETRY_SECONDS
                self._failed(error, is_first=delay == FIRST_RETRY_SECONDS, is_running=not is_last)
            if is_last:
                time.sleep(delay)
            elif delay or is_whole:
                ended.wait(delay or (REMOTE_POLL_SECONDS if self._is_remote else POLL_SECONDS))

    def _next(self, file: IO[bytes]) -> tuple[list[metrics_log.Record], bool]:
        """Up to BATCH new records that were not sent, and whether the file has no more."""
        sent, records = self._sent, []
        for line in _lines(file):
            record = metrics_log.parse(line)
            if record and record["split"] in ("train", "eval") and record["step"] > sent.get(record["split"], -1):
                records.append(record)
                if len(records) == BATCH:
                    return records, False
        return records, True

    def _send(self, records: Sequence[metrics_log.Record]) -> None:
        if self._client is None:
            self._client = CLIENTS[self._name](self._run)
            self._run = self._run._replace(id=self._client.id, is_new=False)
            self._write_state()
        if not records:
            return
        before = dict(self._sent)
        self._sent |= {record["split"]: record["step"] for record in records}
        self._write_state()
        try:
            self._client.write(records)
        except Exception:
            self._sent = before
            raise

    def _close(self) -> None:
        if self._client:
            self._client.close()

    def _failed(self, error: Exception, *, is_first: bool, is_running: bool) -> None:
        self._client = None
        if is_first:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            later = "training continues, and it is tried again" if is_running else "it is tried again"
            warn(self._name, f"{reason}; {later}")


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """The complete lines from here on; leaves the file behind the last of them."""
    while True:
        place = file.tell()
        line = file.readline()
        if not line.endswith(b"\n"):
            file.seek(place)
            return
        yield line


def _label(folder: str) -> str:
    """Name of the run: its folder, with the one above if that is called model."""
    parts = [part for part in (folder if storage.is_remote(folder) else os.path.abspath(folder)).split("/") if part]
    return "-".join(parts[-2:]) if parts[-1] in ("model", "run") and len(parts) > 1 else parts[-1]


if __name__ == "__main__":
    run_program(main)
