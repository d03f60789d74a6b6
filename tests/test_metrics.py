"""metrics.jsonl after kills and resumes, its numbers as JSON, and what the console shows."""

import io
import json
import math
import subprocess
import sys

import google_crc32c
import numpy as np
import pytest
from conftest import ROOT

from runtime import metrics
from runtime.errors import UserError
from runtime.metrics import Console, MetricsLog


def train(step, **changes):
    record = {"step": step, "tokens": step * 64, "split": "train", "loss": 5.0 - step / 1000, "time": 1.7e9 + step}
    more = {"lr": 2.5e-4, "grad_norm": 0.83, "tokens_per_second": 12345.0, "mfu": None, "step_seconds": 0.5}
    return record | more | changes


def evaluation(step, **changes):
    return {
        "step": step, "tokens": step * 64, "split": "eval", "loss": 4.1, "time": 1.7e9, "perplexity": 60.3
    } | changes  # fmt: skip


def masked(data):
    """TFRecord's checksum of some bytes."""
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
    assert metrics.read(path) == records
    assert [json.loads(line) for line in path.read_text().splitlines()] == records


def test_each_record_is_on_disk_when_write_returns(tmp_path):
    log = MetricsLog(tmp_path, resume_step=0)
    log.write(train(10))
    assert len(metrics.read(tmp_path / "metrics.jsonl")) == 1
    log.close()


def test_after_a_resume_no_step_appears_twice(tmp_path):
    path = written(tmp_path, [train(10), train(20), evaluation(20), train(30), evaluation(30), train(40)])
    written(tmp_path, [train(30, loss=3.0), evaluation(30), train(40)], resume_step=20)
    seen = [(record["split"], record["step"]) for record in metrics.read(path)]
    assert len(seen) == len(set(seen)) == 6
    assert metrics.read(path)[3]["loss"] == 3.0


def test_evaluating_the_same_checkpoint_again_adds_nothing(tmp_path):
    path = written(tmp_path, [train(10), evaluation(10)])
    before = path.read_bytes()
    written(tmp_path, [evaluation(10, loss=9.9)], resume_step=10)
    assert path.read_bytes() == before


def test_a_start_from_nothing_keeps_nothing(tmp_path):
    written(tmp_path, [evaluation(0), train(10)])
    assert metrics.read(written(tmp_path, [evaluation(0, loss=7.0)])) == [evaluation(0, loss=7.0)]


@pytest.mark.parametrize("cut", range(1, 120, 7))
def test_a_torn_last_line_is_dropped_and_training_goes_on(tmp_path, cut):
    path = written(tmp_path, [train(10), train(20)])
    path.write_bytes(path.read_bytes()[:-cut])
    whole = 2 if cut == 1 else 1  # without its line end alone, the record is whole
    assert len(metrics.read(path)) == whole
    written(tmp_path, [train(20), train(30)], resume_step=20)
    assert [record["step"] for record in metrics.read(path)] == [10, 20, 30]
    assert path.read_bytes().endswith(b"\n")


def test_a_damaged_line_is_named(tmp_path):
    path = written(tmp_path, [train(10), train(20)])
    first, second = path.read_bytes().splitlines(keepends=True)
    for damage in (b"{}\n", b"\xff\xfe\n", b"[1]\n", first[:30] + b"\n"):
        path.write_bytes(first + damage + second)
        with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: .*delete"):
            metrics.read(path)


def test_numbers_that_json_lacks_become_null(tmp_path):
    record = train(10, loss=math.nan, grad_norm=np.float32(np.inf), lr=np.float32(0.5), tokens=np.int64(640))
    path = written(tmp_path, [record])
    assert "NaN" not in path.read_text()
    assert "Infinity" not in path.read_text()
    [back] = metrics.read(path)
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
    monkeypatch.setitem(sys.modules, "torch", None)  # which takes seconds to import
    pytest.importorskip("tensorboardX", reason="no tensorboardX; pip install -r requirements-dev.txt")
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    written(tmp_path, [train(10), evaluation(10, loss=1e300)])
    written(tmp_path, [train(300)], resume_step=10)
    files = sorted(tmp_path.glob("events.out.tfevents.*"))
    events = []
    for path in files:
        data = path.read_bytes()
        while data:  # a TFRecord: length, its checksum, the event, its checksum
            size = int.from_bytes(data[:8], "little")
            assert masked(data[:8]) == int.from_bytes(data[8:12], "little")
            assert masked(data[12 : 12 + size]) == int.from_bytes(data[12 + size : 16 + size], "little")
            events.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    assert [event.file_version for event in events].count("brain.Event:2") == 2
    starts = [event.step for event in events if event.session_log.status == SessionLog.START]
    assert starts == [1, 11]  # from where on earlier files are void
    values = {(value.tag, event.step): value.simple_value for event in events for value in event.summary.value}
    assert values["train/loss", 10] == pytest.approx(4.99)
    assert values["train/loss", 300] == pytest.approx(train(300)["loss"])
    assert values["eval/perplexity", 10] == pytest.approx(60.3)
    assert values["eval/loss", 10] == float("inf")
    assert not [tag for tag, _ in values if tag == "train/mfu"]
    assert next(event.wall_time for event in events if event.summary.value) == train(10)["time"]


def test_a_run_starts_without_pytorch(tmp_path):
    """What takes seconds where it is installed, and is never needed."""
    program = (
        "import sys, main, runtime.checkpoints, text.prepare; from runtime.metrics import MetricsLog;"
        f"MetricsLog({str(tmp_path)!r}, resume_step=0).close();"
        "assert not {'torch', 'tensorboardX', 'tensorflow', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)


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


def test_console_shows_a_bar_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    console = Console(total_steps=200, stream=stream)
    console.train(train(100, loss=4.2312))
    console.note("saved")
    console.close()
    shown = stream.getvalue()
    assert " 50%|" in shown
    assert "100/200  loss  4.2312  lr 2.50e-04  12.3k tok/s  0:00:50 left" in shown
    assert "\rsaved\n" in shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (950.4, "950"), (12345, "12.3k"), (123456, "123k"), (1.214e6, "1.21M"), (2.5e9, "2.50G"), (None, "nan")],
)
def test_short_numbers(value, shown):
    assert metrics._short(value) == shown
