"""metrics.jsonl after kills and resumes, its JSON numbers, and console output."""

import functools
import io
import json
import math
import subprocess
import sys
import time

import google_crc32c
import numpy as np
import pytest
from conftest import ROOT

from estimator.errors import UserError
from estimator.spec import EstimatorSpec
from estimator.training import metrics_log, metrics_writers, monitor
from estimator.training.data_position import DataPosition, DataSpan
from estimator.training.metrics_writers import Console, MetricsLog
from estimator.training.run_config import RunConfig


def train(step, **changes):
    record = {"step": step, "tokens": step * 64, "split": "train", "loss": 5.0 - step / 1000, "time": 1.7e9 + step}
    more = {"lr": 2.5e-4, "grad_norm": 0.83, "tokens_per_second": 12345.0, "mfu": None, "step_seconds": 0.5}
    return record | more | changes


def evaluation(step, **changes):
    return {
        "step": step, "tokens": step * 64, "split": "eval", "loss": 4.1, "time": 1.7e9, "perplexity": 60.3
    } | changes  # fmt: skip


def masked(data):
    """Returns TFRecord's masked CRC of the data."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def written(folder, records, *, resume_step=0):
    log = MetricsLog(folder, resume_step=resume_step)
    for record in records:
        log.write(record)
    log.close()
    return folder / "metrics.jsonl"


def test_records_are_read_back_as_written(tmp_path):
    records = [train(10), train(20), evaluation(20, bits_per_byte=1.9)]
    path = written(tmp_path / "new" / "run", records)
    assert metrics_log.read(path) == records
    assert [json.loads(line) for line in path.read_text().splitlines()] == records


def test_each_record_is_on_disk_when_write_returns(tmp_path):
    log = MetricsLog(tmp_path, resume_step=0)
    log.write(train(10))
    assert len(metrics_log.read(tmp_path / "metrics.jsonl")) == 1
    log.close()


def test_after_a_resume_no_step_appears_twice(tmp_path):
    path = written(tmp_path, [train(10), train(20), evaluation(20), train(30), evaluation(30), train(40)])
    written(tmp_path, [train(30, loss=3.0), evaluation(30), train(40)], resume_step=20)
    seen = [(record["split"], record["step"]) for record in metrics_log.read(path)]
    assert len(seen) == len(set(seen)) == 6
    assert metrics_log.read(path)[3]["loss"] == 3.0


def test_evaluating_the_same_checkpoint_again_adds_nothing(tmp_path):
    path = written(tmp_path, [train(10), evaluation(10)])
    before = path.read_bytes()
    written(tmp_path, [evaluation(10, loss=9.9)], resume_step=10)
    assert path.read_bytes() == before


@pytest.mark.parametrize("resume_step", [1, 3990, 4000, 5000])
def test_a_resume_reads_only_the_end_of_a_long_log(tmp_path, monkeypatch, resume_step):
    lines = [train(step) for step in range(1, 4001)]
    lines.insert(3989, {"step": 3991, "tokens": 0, "split": "event", "event": "lr", "time": 1.7e9})  # before its step
    lines.insert(2000, evaluation(2000))
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    size, parsed = path.stat().st_size, []
    parse = metrics_log.parse
    monkeypatch.setattr(metrics_log, "parse", lambda line: parsed.append(line) or parse(line))
    monkeypatch.setattr(metrics_log, "BLOCK", 8000)
    written(tmp_path, [train(4000), evaluation(4000)], resume_step=resume_step)
    if resume_step > 1:
        assert sum(map(len, parsed)) < size / 10
    kept = [line for line in lines if line["step"] <= resume_step]
    more = [evaluation(4000)] if resume_step >= 4000 else [train(4000), evaluation(4000)]
    assert metrics_log.read(path) == kept + [line for line in more if line["step"] > resume_step or line not in kept]


def test_a_damaged_line_at_the_end_of_a_long_log_is_named(tmp_path, monkeypatch):
    path = written(tmp_path, [train(step) for step in range(1, 1001)])
    path.write_bytes(path.read_bytes() + b"damaged\n")
    monkeypatch.setattr(metrics_log, "BLOCK", 8000)
    with pytest.raises(UserError, match="line 1001: not a record"):
        written(tmp_path, [], resume_step=1000)


def test_a_start_from_nothing_keeps_nothing(tmp_path):
    written(tmp_path, [evaluation(0), train(10)])
    assert metrics_log.read(written(tmp_path, [evaluation(0, loss=7.0)])) == [evaluation(0, loss=7.0)]


@pytest.mark.parametrize("cut", range(1, 120, 7))
def test_a_torn_last_line_is_dropped_and_training_goes_on(tmp_path, cut):
    path = written(tmp_path, [train(10), train(20)])
    path.write_bytes(path.read_bytes()[:-cut])
    whole = 2 if cut == 1 else 1  # the record is complete, only its newline is missing
    assert len(metrics_log.read(path)) == whole
    written(tmp_path, [train(20), train(30)], resume_step=20)
    assert [record["step"] for record in metrics_log.read(path)] == [10, 20, 30]
    assert path.read_bytes().endswith(b"\n")


def test_a_damaged_line_is_named(tmp_path):
    path = written(tmp_path, [train(10), train(20)])
    first, second = path.read_bytes().splitlines(keepends=True)
    for damage in (b"{}\n", b"\xff\xfe\n", b"[1]\n", first[:30] + b"\n"):
        path.write_bytes(first + damage + second)
        with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: .*move this line"):
            metrics_log.read(path)


@pytest.mark.parametrize("parser", ["json", "orjson"])
@pytest.mark.parametrize("key", ["loss", "lr", "step_seconds", "eval_seconds"])
def test_a_text_where_a_resumed_run_needs_a_number_is_named(tmp_path, monkeypatch, key, parser):
    loads = pytest.importorskip(parser).loads
    monkeypatch.setattr(metrics_log, "_loads", lambda: loads)
    path = written(tmp_path, [train(10)])
    path.write_text(path.read_text() + json.dumps(train(20) | {key: "5.0"}) + "\n")
    for read in (metrics_log.read, functools.partial(metrics_log.tail, step=10)):
        with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: .*move this line"):
            read(path)


def test_numbers_that_json_lacks_become_null(tmp_path):
    record = train(10, loss=math.nan, grad_norm=np.float32(np.inf), lr=np.float32(0.5), tokens=np.int64(640))
    path = written(tmp_path, [record])
    assert "NaN" not in path.read_text()
    assert "Infinity" not in path.read_text()
    [back] = metrics_log.read(path)
    assert (back["loss"], back["grad_norm"], back["lr"], back["tokens"]) == (None, None, 0.5, 640)


def test_no_temporary_file_is_left(tmp_path):
    written(tmp_path, [train(10), train(20)])
    written(tmp_path, [], resume_step=10)
    names = {path.name for path in tmp_path.iterdir() if not path.name.startswith("events.out.tfevents.")}
    assert names == {"metrics.jsonl"}


def test_a_refused_write_names_the_file(tmp_path, monkeypatch):
    log = MetricsLog(tmp_path, resume_step=0)
    log.write(train(10))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full)
    with pytest.raises(OSError, match=r"metrics\.jsonl"):
        log.write(train(20))


def test_tensorboards_reader_finds_the_scalars(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # takes seconds to import
    pytest.importorskip("tensorboardX", reason="no tensorboardX; pip install -r requirements-dev.txt")
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    written(tmp_path, [train(10), evaluation(10, loss=1e300)])
    written(tmp_path, [train(300)], resume_step=10)
    files = sorted(tmp_path.glob("events.out.tfevents.*"))
    events = []
    for path in files:
        data = path.read_bytes()
        while data:  # TFRecord: length, CRC of the length, event, CRC of the event
            size = int.from_bytes(data[:8], "little")
            assert masked(data[:8]) == int.from_bytes(data[8:12], "little")
            assert masked(data[12 : 12 + size]) == int.from_bytes(data[12 + size : 16 + size], "little")
            events.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    assert [event.file_version for event in events].count("brain.Event:2") == 2
    starts = [event.step for event in events if event.session_log.status == SessionLog.START]
    assert starts == [1, 11]  # events of earlier files are void from these steps on
    values = {(value.tag, event.step): value.simple_value for event in events for value in event.summary.value}
    assert values["train/loss", 10] == pytest.approx(4.99)
    assert values["train/loss", 300] == pytest.approx(train(300)["loss"])
    assert values["eval/perplexity", 10] == pytest.approx(60.3)
    assert values["eval/loss", 10] == float("inf")
    assert not [tag for tag, _ in values if tag == "train/mfu"]
    assert next(event.wall_time for event in events if event.summary.value) == train(10)["time"]


def test_a_run_starts_without_pytorch(tmp_path):
    """Importing these packages takes seconds, and they are never needed."""
    program = (
        "import sys, main, estimator.training.checkpoints, estimator.corpus.build.text_cache;"
        "from estimator.training.metrics_writers import MetricsLog;"
        f"MetricsLog({str(tmp_path)!r}, resume_step=0).close();"
        "assert not {'torch', 'tensorboardX', 'tensorflow', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=600)


def test_console_prints_aligned_lines_where_there_is_no_terminal():
    stream = io.StringIO()
    console = Console(total_steps=2000, stream=stream)
    console.note("2 devices")
    console.train(train(120, loss=4.2312))
    console.train(train(240, loss=None, mfu=0.431))
    console.evaluation(evaluation(240, bits_per_byte=1.92))
    console.close()
    note, first, second, third = stream.getvalue().splitlines()
    assert note == "2 devices"
    assert first == "step    120/2000  loss  4.2312  lr 2.50e-04  grad  0.83  12.3k tok/s  0:15:40 left"
    assert second.startswith("step    240/2000  loss     nan  lr 2.50e-04")
    assert "mfu 43.1%" in second
    assert third == "step    240/2000  eval loss 4.1000  perplexity 60.30  bits per byte 1.9200"


def test_the_time_left_counts_neither_the_first_pause_of_a_kind_nor_commanded_waiting(monkeypatch):
    stream = io.StringIO()
    console = Console(total_steps=1000, stream=stream)
    monkeypatch.setattr(time, "monotonic", iter(range(0, 10**9, 3600)).__next__)  # one hour between records
    console.train(train(100, compile_seconds=60.0))
    console.evaluation(evaluation(100, eval_seconds=30.0))  # including 26 seconds of compilation
    console.train(train(200, sample_seconds=33.0))
    console.evaluation(evaluation(200, eval_seconds=4.0))
    console.train(train(300))
    left = [line.split("tok/s")[1].strip() for line in stream.getvalue().splitlines() if "tok/s" in line]
    assert left == ["0:07:30 left", "0:06:40 left", "0:06:04 left"]  # 900, 800, 700 steps of 0.5 s; 4 s per 200 steps


def test_a_number_too_long_to_read_is_written_in_powers_of_ten(tmp_path):
    stream = io.StringIO()
    Console(total_steps=10, stream=stream).evaluation(evaluation(10, perplexity=33035935790847.8359))
    assert "perplexity 3.30e+13" in stream.getvalue()
    assert [metrics_writers.readable(value, 4) for value in (81.25, 999999.0, 22394104.7194, None)] == [
        "81.2500", "999999.0000", "2.2394e+07", "nan",
    ]  # fmt: skip


def test_console_shows_a_bar_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    console = Console(total_steps=200, stream=stream)
    console.train(train(100, loss=4.2312))
    console.evaluation(evaluation(100))
    console.train(train(110, loss=4.2))
    console.note("saved")
    console.close()
    shown = stream.getvalue()
    assert " 50%|" in shown
    assert "100/200  loss  4.2312  12.3k tok/s  0:00:50 left" in shown
    assert "110/200  loss  4.2000  eval 4.1000  12.3k tok/s" in shown
    assert "\rsaved\n" in shown
    console = Console(total_steps=132, stream=stream)
    console.train(train(130, loss=4.2))
    console.evaluation(evaluation(132, loss=3.9876))
    console.close()
    assert "132/132  loss  4.2000  eval 3.9876  12.3k tok/s" in stream.getvalue().rpartition("\r")[2]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (950.4, "950"), (12345, "12.3k"), (123456, "123k"), (1.214e6, "1.21M"), (2.5e9, "2.50G"), (None, "nan")],
)
def test_short_numbers(value, shown):
    assert metrics_writers._short(value) == shown


def test_a_restart_logs_the_steps_and_seconds_that_it_repeats(tmp_path):
    kept = [train(10), train(20)]
    repeated = [train(30, checkpoint_seconds=1.0), evaluation(30, eval_seconds=2.0), train(40, compile_seconds=4.0)]
    written(tmp_path, kept + repeated)
    log = MetricsLog(tmp_path, resume_step=20)
    assert log.lost == (20, 20 * 0.5 + 1 + 2 + 4)
    log.event({"step": 20, "split": "event", "event": "start", "time": 1.7e9, "lost_steps": 20, "lost_seconds": 17.0})
    log.event({"step": 20, "split": "event", "event": "stop", "time": 1.7e9})
    log.write(train(30))
    log.close()
    again = MetricsLog(tmp_path, resume_step=10)  # the checkpoint of step 20 was corrupt
    assert again.lost == (20, 20 * 0.5 + 17)
    again.close()
    assert metrics_log.read(tmp_path / "metrics.jsonl") == kept[:1]


def train_monitor(log: MetricsLog, *, log_steps: int = 1) -> monitor.TrainMonitor:
    watch = monitor.LossWatch(max_skipped=9, max_rise=None)
    config = RunConfig(model_path=str(log.folder), train_batch_size=10, max_steps=9, log_steps=log_steps)
    position = DataPosition([DataSpan(0, 0, 0, 10, 1, None, 0)])
    spec = EstimatorSpec({}, lambda *_: None, flops_per_token=6.0)
    return monitor.TrainMonitor(log, None, config=config, spec=spec, peak_flops=1e3, watch=watch, position=position)


def test_the_steps_of_a_call_share_its_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(monitor.time, "monotonic", lambda: now[0])
    training = train_monitor(log := MetricsLog(tmp_path, resume_step=0), log_steps=4)
    for last, count, seconds in ((10, 10, 20.0), (20, 10, 10.0), (21, 1, 3.0), (24, 3, 3.0)):
        with training.waiting():
            now[0] += seconds / 4
        metrics = {name: np.ones(count, np.float32) for name in ("loss", "lr", "grad_norm", "finite", "accepted")}
        training.add(last, count, metrics)
        now[0] += 3 * seconds / 4
        training.flush()
    log.close()
    found = metrics_log.read(log.path)
    assert [record["step"] for record in found] == [4, 8, 12, 16, 20, 24]
    assert [record["step_seconds"] for record in found] == [2, 2, 1.5, 1, 1, 1.5]
    assert [record["tokens_per_second"] for record in found] == [10 / record["step_seconds"] for record in found]
    assert [record["mfu"] for record in found] == [record["tokens_per_second"] * 6 / 1e3 for record in found]
    assert {round(record["input_wait"], 6) for record in found} == {0.25}


def test_pauses_are_logged_by_kind_and_count_as_no_training_time(tmp_path, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(monitor.time, "monotonic", lambda: float(next(clock)))
    training = train_monitor(log := MetricsLog(tmp_path, resume_step=0))
    metrics = {name: np.float32(1) for name in ("loss", "lr", "grad_norm")} | dict.fromkeys(
        ("finite", "accepted"), True
    )
    training.start(0, total_steps=1)
    for kind in ("compile", "checkpoint", "checkpoint", "eval"):
        with training.paused(kind):
            pass
    training.evaluation(1, {"loss": 1.0})
    training.add(1, 1, metrics)
    training.flush()
    with training.paused("checkpoint"):
        pass
    training.stop(1, is_complete=True)
    log.close()
    start, evaluated, trained, stop = metrics_log.read(log.path)
    assert start["event"] == "start"
    assert "lost_steps" not in start
    assert evaluated["eval_seconds"] == 1
    assert (trained["compile_seconds"], trained["checkpoint_seconds"], trained["flops"]) == (1, 2, 60)
    assert "eval_seconds" not in trained
    assert trained["step_seconds"] == 6  # 10 clock ticks since the start, minus four pauses
    assert stop["checkpoint_seconds"] == 1
