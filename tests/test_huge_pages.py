"""A process that asks for huge pages gets them, and begins again only once."""

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
from runtime import huge_pages
huge_pages.use()
block = b"x" * (64 << 20)
huge = [line for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages")]
print(sys.argv[1:], huge[0].split()[1], os.environ.get("GLIBC_TUNABLES"))
"""


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="needs Linux with glibc")
@pytest.mark.parametrize("given", [None, "glibc.malloc.check=0"])
def test_huge_pages_are_used_after_one_restart_and_children_know_nothing(given):
    if not SWITCH.is_file() or "[never]" in SWITCH.read_text():
        pytest.skip("this system gives no huge pages")
    environment = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    if given:
        environment["GLIBC_TUNABLES"] = given
    command = [sys.executable, "-c", SCRIPT, "a b", "c"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True)
    *starts, last = done.stdout.splitlines()
    assert starts == ["begins"] * 2
    arguments, kilobytes, tunables = last.rsplit(maxsplit=2)
    assert arguments == "['a b', 'c']"
    assert int(kilobytes) >= 32 << 10
    assert tunables == str(given)
