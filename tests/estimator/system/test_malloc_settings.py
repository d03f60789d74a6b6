"""A process re-executes itself once for huge pages and a kept block; freed memory is returned to the system."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from estimator.system.malloc_settings import BEFORE, HUGE_PAGES, PRELOAD, TUNABLES, environment

SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")
SCRIPT = """
import os, sys
print("begins")
sys.stdout.flush()
from estimator.system import malloc, malloc_settings
from estimator.system.malloc_settings import BEFORE, PRELOAD, TUNABLES
malloc_settings.use()
block = b"x" * (64 << 20)
mappings = open("/proc/self/smaps").read().split("VmFlags:")  # each but the first begins with the flags of the last one
asked = any(
    int(sizes.split("\\nSize:")[1].split()[0]) >= 64 << 10 and " hg " in flags.partition("\\n")[0]
    for sizes, flags in zip(mappings, mappings[1:])
)
del block
small = [b"x" * 100_000 for _ in range(1000)]
last = b"x" * 100_000  # above them on the heap
del small
before = [line for line in open("/proc/self/smaps_rollup") if line.startswith("Rss")]
malloc.release()
left = [line for line in open("/proc/self/smaps_rollup") if line.startswith("Rss")]
variables = [os.environ.get(name) for name in (TUNABLES, PRELOAD, BEFORE)]
print(sys.argv[1:], asked, before[0].split()[1], left[0].split()[1], *variables)
"""
THREAD = """
import ctypes, threading
from estimator.system import malloc_settings
malloc_settings.use(one_arena=True)
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
places = []
thread = threading.Thread(target=lambda: places.extend(libc.malloc(100_000) for _ in range(100)))
thread.start()
thread.join()
heaps = [line.split()[0].split("-") for line in open("/proc/self/maps") if line.endswith("[heap]\\n")]
print(all(any(int(begin, 16) <= place < int(end, 16) for begin, end in heaps) for place in places))
"""
BLOCKS = """
import ctypes, gc
from estimator.system import malloc, malloc_settings
malloc_settings.use()
libc = ctypes.CDLL(None)
libc.free.argtypes = [ctypes.c_void_p]

def allocate(megabytes, alignment=64):
    block = ctypes.c_void_p()
    assert libc.posix_memalign(ctypes.byref(block), ctypes.c_size_t(alignment), ctypes.c_size_t(megabytes << 20)) == 0
    assert block.value % alignment == 0
    return block.value

def is_cleared(block):
    return ctypes.string_at(block, 4096) == bytes(4096)

def used(megabytes):
    block = allocate(megabytes)
    ctypes.memset(block, 1, 4096)
    return block

def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/smaps_rollup") if line.startswith("Rss")) >> 10

results = {}
first = used(100)
libc.free(first)
results["kept for the same size"] = allocate(100) == first and not is_cleared(first)
libc.free(first)
results["for a bit less"] = allocate(60) == first and not is_cleared(first)
libc.free(first)
results["not for much less"] = is_cleared(allocate(40))
second = used(100)
third = used(100)
libc.free(second)
results["not if another was given out since"] = is_cleared(allocate(100))
fourth = used(100)
ctypes.memset(fourth, 1, 100 << 20)
before = resident()
libc.free(fourth)
results["in use"] = resident() > before - 20
malloc.release()
results["given back"] = resident() < before - 80
fifth = used(100)
libc.free(fifth)
results["not for more"] = is_cleared(allocate(300))
sixth = used(100)
libc.free(sixth)
results["not for another alignment"] = allocate(100, alignment=1 << 28) % (1 << 28) == 0
print(libc.posix_memalign(ctypes.byref(ctypes.c_void_p()), ctypes.c_size_t(64), ctypes.c_size_t(1 << 60)), results)
"""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="needs Linux with glibc"
)


def has_compiler() -> bool:
    return PRELOAD in environment({})


def output(script: str, *arguments: str, **variables: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if name not in (TUNABLES, PRELOAD)}
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=inherited | variables, capture_output=True, text=True, timeout=600, check=True
    )
    return done.stdout


@pytest.mark.parametrize("given", [None, "glibc.malloc.check=0", HUGE_PAGES])
def test_the_process_begins_again_once_and_children_know_nothing(given):
    if not SWITCH.is_file() or "[madvise]" not in SWITCH.read_text():
        pytest.skip("this system does not give huge pages to those who ask for them")
    *starts, last = output(SCRIPT, "a b", **({TUNABLES: given} if given else {})).splitlines()
    assert starts == ["begins"] * 2
    arguments, asked, before, left, *variables = last.rsplit(maxsplit=6)
    assert arguments == "['a b']"
    assert asked == "True"  # how many the system gives depends on how its memory is divided
    assert int(left) < int(before) - (64 << 10) < 64 << 10
    assert variables == [str(given), "None", "None"]


def test_threads_of_a_server_allocate_on_the_heap_that_has_huge_pages():
    assert output(THREAD) == "True\n"
    assert output(THREAD.replace("one_arena=True", "")) == "False\n"


def test_one_large_block_is_kept_for_the_next_request_of_its_size():
    if not has_compiler():
        pytest.skip("needs a C++ compiler")
    code, results = output(BLOCKS).split(maxsplit=1)
    assert code == "12"  # ENOMEM
    assert {name for name, is_so in eval(results).items() if not is_so} == set()


def test_without_a_compiler_or_with_a_library_of_the_user_nothing_is_preloaded(tmp_path, monkeypatch):
    assert PRELOAD not in environment({PRELOAD: "theirs.so"}).get(BEFORE, "")
    monkeypatch.setenv("GPT2_CACHE", str(tmp_path / "a b"))  # a space separates libraries
    assert PRELOAD not in environment({})
    monkeypatch.setenv("CXX", "")
    assert PRELOAD not in environment({})
    monkeypatch.delenv("GPT2_CACHE")
    assert PRELOAD not in environment({})
