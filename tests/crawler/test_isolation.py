"""Process isolation: calls that hang, run out of memory, or crash do not affect other calls."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.launching import alive, wait_for

from crawler.isolation import Failure, Isolated, Limits

LIMITS = Limits(seconds=0.3, megabytes=300)


def act(kind):
    if kind == "loop":
        while True:
            pass
    if kind == "memory":
        return len(bytearray(1 << 30))
    if kind == "abort":
        os.abort()
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "exit":
        os._exit(3)
    if kind == "deep":
        return act_deeper()
    if kind == "error":
        raise KeyError("x")
    if kind == "large":
        return b"x" * 3_000_000
    return kind, os.getpid()


def act_deeper():
    return act_deeper()


@pytest.mark.parametrize("processes", [1, 2])
def test_each_bad_call_costs_itself_only_and_the_order_stays(processes):
    items = [1, "loop", 2, "memory", 3, "abort", "exit", 4, "killed", "deep", 5, "error", 6, "large", 7]
    with Isolated(act, limits=LIMITS, processes=processes) as isolated:
        results = list(isolated.map(items))
    good = {item: result[0] for item, result in zip(items, results, strict=True) if isinstance(item, int)}
    assert good == {number: number for number in range(1, 8)}
    failures = {item: result for item, result in zip(items, results, strict=True) if isinstance(result, Failure)}
    assert failures == {
        "loop": Failure("time", "SIGPROF"),
        "memory": Failure("memory"),
        "abort": Failure("crash", "SIGABRT"),
        "exit": Failure("crash", "exit 3"),
        "killed": Failure("crash", "SIGKILL"),
        "deep": Failure("crash", "RecursionError"),
        "error": Failure("crash", "KeyError"),
    }
    assert results[items.index("large")] == b"x" * 3_000_000


def test_a_process_serves_many_calls_and_ends_with_the_block():
    with Isolated(act) as isolated:
        pids = {pid for _, pid in isolated.map(range(50))}
    assert len(pids) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(pids.pop(), 0)


def test_limits_are_of_a_call_not_of_a_process():
    with Isolated(burn, limits=LIMITS) as isolated:
        assert list(isolated.map([0.2] * 3)) == [0.2] * 3


def burn(seconds):
    start = time.process_time()
    while time.process_time() - start < seconds:
        pass
    return seconds


def test_a_call_that_another_process_killed_is_made_once_more():
    with Isolated(act) as isolated:
        [(_, pid)] = isolated.map([1])
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
        assert [number for number, _ in isolated.map([2, 3])] == [2, 3]


def run_program(path, lines):
    """Runs these lines as a program; returns when it and its processes have closed stdout and stderr."""
    path.write_text(
        "import os, sys; sys.path.insert(0, '.'); sys.path.insert(0, 'tests/crawler'); sys.path.insert(0, 'tests')\n"
        "from test_isolation import act\nfrom crawler.isolation import Isolated\nif __name__ == '__main__':\n"
        + "".join(f"    {line}\n" for line in lines)
    )
    root = Path(__file__).resolve().parents[2]
    return subprocess.run([sys.executable, str(path)], cwd=root, capture_output=True, text=True, timeout=60)


def test_processes_end_with_the_one_that_started_them(tmp_path):
    lines = ["[(_, pid)] = Isolated(act).map([1])", "print(pid, flush=True)", "os.kill(os.getpid(), 9)"]
    done = run_program(tmp_path / "program.py", lines)
    wait_for(lambda: not alive(done.stdout.strip()))


def test_who_is_killed_while_it_starts_a_process_leaves_no_traceback(tmp_path):
    lines = ["os.dup = lambda *_: os.kill(os.getpid(), 9)", "list(Isolated(act).map([1]))"]
    done = run_program(tmp_path / "program.py", lines)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
