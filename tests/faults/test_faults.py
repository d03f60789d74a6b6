"""Fault injection: trials of each target of benchmarks.faults, the preloaded library, outcomes, and followed advice."""

import errno
import random
import subprocess
import sys

import pytest

from benchmarks import _faults_trial as trials
from benchmarks import faults
from benchmarks._faults_trial import LOST, WRONG, Damage, Fault
from benchmarks._faults_zygote import Ended

SEED = 1
TRIALS = {"train": [4], "encode": [1, 2, 3], "extract": [1], "download": [1, 2], "download_model": [1, 2], "serve": [3],
          "export": [1, 2], "export_gguf": [1]}  # fmt: skip
NEEDS = {
    "extract": ("trafilatura", "py3langid", "warcio"),
    "download": ("httpx", "protego"),
    "serve": ("fastapi", "httpx"),
    "export_gguf": ("gguf",),
}


@pytest.fixture(scope="module")
def library() -> str:
    try:
        return trials.library()
    except OSError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("target", faults.TARGETS)
def test_programs_under_faults_end_with_the_right_bits_or_a_clear_refusal(target, library):
    for package in NEEDS.get(target, ()):
        pytest.importorskip(package, reason=f"{target} needs it")
    reports = faults.run(target, numbers=TRIALS[target], seed=SEED, jobs=2)
    assert [report.why for report in reports if report.why] == []
    assert [report.number for report in reports] == TRIALS[target]
    assert all(report.kinds for report in reports)


SCRIPT = """
import os, sys, time
began = time.time()
for number in range(3):
    try:
        with open(sys.argv[1], "ab", buffering=0) as file:
            print(file.write(b"12345678"), flush=True)
    except OSError as error:
        print(error.errno, flush=True)
for _ in range(1000):
    seconds = time.time() - began
print(seconds > 1000)
"""


@pytest.mark.parametrize(
    ("op", "action", "value", "expected", "size"),
    [
        ("write", "none", 0, ["8", "8", "8", "False"], 24),
        ("write", "errno", errno.ENOSPC, ["8", "28", "8", "False"], 16),
        ("open", "errno", errno.EROFS, ["8", "30", "8", "False"], 16),
        ("write", "short", 0, ["8", "4", "8", "False"], 20),
        ("write", "torn", 0, ["8"], 12),
        ("write", "signal", 9, ["8"], 8),
        ("clock", "jump", 2000, ["8", "8", "8", "True"], 24),
    ],
)
def test_the_second_call_fails_as_told(op, action, value, expected, size, library, tmp_path):
    path = tmp_path / "file"
    where = {"path": "", "at": 200} if op == "clock" else {"path": tmp_path, "at": 2}
    rule = trials.rule(op, **where, action=action, value=value)
    environment = {"LD_PRELOAD": library, "FAULTS": rule, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", SCRIPT, str(path)], env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == expected, done.stderr
    assert path.stat().st_size == size


def ended(code: int | None, output: str) -> Ended:
    return Ended(code, output, [])


@pytest.mark.parametrize(
    ("code", "output", "outcome"),
    [
        (None, "", LOST),
        (0, "Traceback (most recent call last)\n", WRONG),
        (1, "", WRONG),
        (2, "no message\n", WRONG),
        (2, "error: it did not work\n", WRONG),
        (2, "error: a; run b\nerror: c; run d\n", WRONG),
        (-11, "", WRONG),
        (130, "", WRONG),
    ],
)
def test_ends_that_no_program_may_have(code, output, outcome):
    with pytest.raises(Fault) as fault:
        trials.check(ended(code, output), codes=[0])
    assert fault.value.outcome == outcome


def test_ends_that_programs_may_have():
    assert trials.check(ended(2, "error: /a/b is damaged; restore it from a copy\n"), codes=[0])
    assert not trials.check(ended(0, ""), codes=[0])
    assert not trials.check(ended(-9, ""), codes=[0], dies_of=[9])


def test_advice_is_followed_to_the_letter(tmp_path):
    step = tmp_path / "a" / "b" / "checkpoints" / "3"
    step.mkdir(parents=True)
    (step / "file").write_bytes(b"whole")
    for how in trials.DAMAGES:
        damage = trials.damage(str(step / "file"), how, random.Random(0), root=str(tmp_path / "a"))
        assert damage == Damage(str(step / "file"), str(tmp_path / "a"), b"whole", how)
        assert not (step / "file").exists() or (step / "file").read_bytes() != b"whole"
        damages = [damage]
        trials.follow(
            ended(2, f"error: {step} is damaged; restore it from a copy\n"), damages, random.Random(0), move=None
        )
        assert (step / "file").read_bytes() == b"whole"
        assert not damages
    moved = []
    message = f"error: {step} is damaged; move this folder out of the run\n"
    trials.follow(ended(2, message), [damage], random.Random(0), move=moved.append)
    assert moved == [str(step)]
    for message in (f"error: {step}x is damaged; restore it\n", f"error: {step} is damaged\n"):
        with pytest.raises(Fault):
            trials.follow(ended(2, message), [damage], random.Random(0), move=None)


def test_trials_follow_from_their_seed_and_number_and_are_counted_by_kind():
    reports = [
        faults.Report(1, kinds=["killed", "torn write"], outcome=LOST, why="why"),
        faults.Report(2, kinds=["killed"]),
    ]
    rows = faults.summary(reports)
    assert [row["fault"] for row in rows] == ["killed", "torn write", "trials"]
    assert [row["trials"] for row in rows] == [2, 1, 2]
    assert [row[LOST] for row in rows] == [1, 1, 1]
