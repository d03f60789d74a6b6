"""Makes glibc's malloc take 2 MB pages, and gives memory that a compilation has freed back to the system.

XLA allocates a program's temporary arrays at every call and frees them afterwards. With 4 KB pages this causes a
hundred thousand page faults per training step on a CPU; with large pages hundreds. Memory is not kept for the next
call: that would save a few percent of a small model's step, and half as much memory again would stay in use, because
two calls are in flight. glibc reads its tunables only at process start, so the process re-executes itself before it
imports anything.
"""

import ctypes
import os
import platform
import signal
import sys

VARIABLE, HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"


def use() -> None:
    """Re-executes this process once with 2 MB pages; child processes do not inherit the setting."""
    if not _is_glibc():
        return
    items = [item for item in os.environ.get(VARIABLE, "").split(":") if item]
    if HUGE_PAGES not in items:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until `interrupts.exit_quietly` in the new process
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment(dict(os.environ)))
    if others := [item for item in items if item != HUGE_PAGES]:
        os.environ[VARIABLE] = ":".join(others)
    else:
        del os.environ[VARIABLE]


def release() -> None:
    """Gives freed memory back to the system, which malloc keeps between blocks in use."""
    if _is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def environment(variables: dict[str, str]) -> dict[str, str]:
    """Environment with the setting, for a new process."""
    return variables | {VARIABLE: ":".join([*filter(None, [variables.get(VARIABLE)]), HUGE_PAGES])}


def _is_glibc() -> bool:
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
