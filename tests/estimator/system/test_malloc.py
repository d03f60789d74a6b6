"""A process that needs huge pages re-executes itself only once; freed memory is kept, or returned to the system."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SCRIPT = """
import os, sys
print("begins")
sys.stdout.flush()
from estimator.system import malloc
malloc.use(keep="keep" in sys.argv)
block = b"x" * (64 << 20)
huge = [line for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages")]
del block
kept = [line for line in open("/proc/self/smaps_rollup") if line.startswith("Rss")]
small = [b"x" * 100_000 for _ in range(1000)]
last = b"x" * 100_000  # above them on the heap
del small
before = [line for line in open("/proc/self/smaps_rollup") if line.startswith("Rss")]
malloc.release()
left = [line for line in open("/proc/self/smaps_rollup") if line.startswith("Rss")]
sizes = [line.split()[1] for line in (*huge, *kept, *before, *left)]
print(sys.argv[1:], *sizes, os.environ.get("GLIBC_TUNABLES"))
"""


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="needs Linux with glibc")
@pytest.mark.parametrize(("given", "keep"), [(None, ""), ("glibc.malloc.check=0", ""), (None, "keep")])
def test_the_process_begins_again_once_and_children_know_nothing(given, keep):
    if not SWITCH.is_file() or "[never]" in SWITCH.read_text():
        pytest.skip("this system gives no huge pages")
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    if given:
        environment["GLIBC_TUNABLES"] = given
    command = [sys.executable, "-c", SCRIPT, "a b", keep]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=True)
    *starts, last = done.stdout.splitlines()
    assert starts == ["begins"] * 2
    arguments, huge, kept, before, left, variable = last.rsplit(maxsplit=5)
    assert arguments == f"['a b', {keep!r}]"
    assert int(huge) >= 32 << 10
    assert (int(kept) > 64 << 10) == bool(keep)
    assert int(left) < int(before) - (64 << 10) < 64 << 10
    assert variable == str(given)
