"""Soak runs: slopes of resource usage, and samples of a process."""

import os

import pytest

from benchmarks import soak


def test_growth_is_that_of_a_line_through_the_second_half():
    samples = [{"at": at, "files": 10.0, "memory_MB": 100 + 0.5 * at} for at in range(100)]
    assert soak.slope(samples, "files")["grew"] == pytest.approx(0)
    row = soak.slope(samples, "memory_MB")
    assert row["grew"] == pytest.approx(0.5 * 49)
    assert (row["first"], row["half"], row["last"]) == (100, 125, 149.5)


def test_samples_of_this_process_and_of_none(tmp_path):
    (tmp_path / "file").write_bytes(bytes(2_000_000))
    with open(tmp_path / "file"):
        more = soak.measured(os.getpid(), tmp_path)
    less = soak.measured(os.getpid(), tmp_path)
    assert more["disk_MB"] == 2
    assert more["files"] == less["files"] + 1
    assert less["memory_MB"] > 10
    assert soak.measured(2**22 + 1, tmp_path) == {}


def test_the_last_whole_line_of_a_log_tells_the_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert soak._last_step(path) == 0
    path.write_text('{"step": 10, "split": "train"}\n{"step": 20, "split": "eval"}\n{"step": 3')
    assert soak._last_step(path) == 20
