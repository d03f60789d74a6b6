"""A process that needs huge pages re-executes itself only once; freed memory is returned to the system."""

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
malloc.use()
block = b"x" * (64 << 20)
huge = [line for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages")]
del block
small = [b"x" * 100_000 for _ in range(1000)]
last = b"x" * 100_000  # above them on the heap
del small
before = [line for line in open("/proc/self/smaps_rollup") if line.startswith("Rss")]
malloc.release()
left = [line for line in open("/proc/self/smaps_rollup") if line.startswith("Rss")]
print(sys.argv[1:], huge[0].split()[1], before[0].split()[1], left[0].split()[1], os.environ.get("GLIBC_TUNABLES"))
"""


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="needs Linux with glibc")
@pytest.mark.parametrize("given", [None, "glibc.malloc.check=0"])
def test_the_process_begins_again_once_and_children_know_nothing(given):
    if not SWITCH.is_file() or "[never]" in SWITCH.read_text():
        pytest.skip("this system gives no huge pages")
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    if given:
        environment["GLIBC_TUNABLES"] = given
    command = [sys.executable, "-c", SCRIPT, "a b"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=True)
    *starts, last = done.stdout.splitlines()
    assert starts == ["begins"] * 2
    arguments, huge, before, left, variable = last.rsplit(maxsplit=4)
    assert arguments == "['a b']"
    assert int(huge) >= 32 << 10
    assert int(left) < int(before) - (64 << 10) < 64 << 10
    assert variable == str(given)
