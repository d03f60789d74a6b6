"""Fuzzing: some inputs of benchmarks.fuzz for every reader in this process, and the worker with its resource limits."""

import random

import pytest

from benchmarks import fuzz
from benchmarks._fuzz_coverage import ReachedLines
from benchmarks._fuzz_readers import READERS
from estimator import hashing

PER_READER = 10
NEEDS = {"torch": "torch", "hdf5": "h5py", "parquet": "pyarrow", "zst": "zstandard", "robots": "protego"}
NEEDS |= {"HTTP": "fastapi"}


@pytest.mark.parametrize("name", READERS)
def test_mutated_files_end_in_a_user_error_or_their_content(name, tmp_path, capsys):
    for begin, package in NEEDS.items():
        if name.startswith(begin):
            pytest.importorskip(package, reason=f"reads {name}")
    path = READERS[name].make(tmp_path)
    valid, truth = path.read_bytes(), READERS[name].read(path)
    assert fuzz._outcome(READERS[name], path, truth) == {"outcome": "equal"}
    for number in range(PER_READER):
        path.write_bytes(fuzz.mutated(valid, random.Random(f"0/{name}/{number}")))
        found = fuzz._outcome(READERS[name], path, truth)
        assert found["outcome"] not in fuzz.FAULTS, (number, found)


def test_inputs_follow_from_the_seed_and_faults_are_counted(tmp_path):
    draws = [fuzz.mutated(b'{"a": [1, 2]}', random.Random(f"{seed}/x/1")) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    result = fuzz.run("run vocabulary.json", 0, 5)
    assert result.outcomes.total() == 5
    assert not result.faults
    assert 0 < result.lines[0] <= result.lines[1]

    def outcome(read, *, is_checked=False):
        return fuzz._outcome(READERS["npy"]._replace(read=read, is_checked=is_checked), tmp_path, "truth")["outcome"]

    def failing(path):
        raise MemoryError

    assert outcome(failing) == "memory"
    assert outcome(lambda path: {}["key"]) == "crash"
    assert outcome(lambda path: "other") == "changed"
    assert outcome(lambda path: "other", is_checked=True) == "wrong"


def test_lines_of_the_entered_functions_are_counted_and_guide_the_inputs():
    lines = ReachedLines()
    with lines.traced():
        hashing.splitmix64(5)
    first = lines.reached, lines.total
    assert first == (4, 4)
    with lines.traced():
        hashing.splitmix64(5)
    assert first == (lines.reached, lines.total)
    draws = [fuzz.mutated(b"abcd", random.Random(number), [b"0123456789"]) for number in range(40)]
    assert any(b"bc" in data for data in draws)
    assert any(b"456" in data for data in draws)
