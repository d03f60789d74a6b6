"""How this process gets memory from the system: in pages of 2 MB, and, if it computes, without giving any back.

XLA takes a program's temporary arrays from the system at every call and gives them back. In pages of 4 KB that is a
hundred thousand page faults for a training step on a CPU; in large pages it is hundreds, but each is zeroed, and a
virtual machine may have to get it from its host first. glibc does otherwise if a variable of the environment says so
before the process begins, so it begins again, before it has loaded anything.
"""

import os
import platform
import sys

VARIABLE = "GLIBC_TUNABLES"
HUGE_PAGES = {"hugetlb": 1}
# Large blocks too come from the one heap, which never shrinks. Small ones join their neighbours as soon as they are
# freed: otherwise the large block that begins with them would not fit into its old place.
KEPT = HUGE_PAGES | {"mmap_max": 0, "trim_threshold": 1 << 46, "arena_max": 1, "tcache_count": 0, "mxfast": 0}


def use(tunables: dict[str, int]) -> None:
    """Starts this process again with the tunables of malloc, once; the processes that it starts do not inherit them."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    items = [item for item in os.environ.get(VARIABLE, "").split(":") if item]
    ours = _items(tunables)
    if not set(ours) <= set(items):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment(dict(os.environ), tunables))
    if others := [item for item in items if item not in ours]:
        os.environ[VARIABLE] = ":".join(others)
    else:
        del os.environ[VARIABLE]


def environment(variables: dict[str, str], tunables: dict[str, int]) -> dict[str, str]:
    """The variables with the tunables, for a process that is to be started."""
    return variables | {VARIABLE: ":".join([*filter(None, [variables.get(VARIABLE)]), *_items(tunables)])}


def _items(tunables: dict[str, int]) -> list[str]:
    return [f"glibc.malloc.{name}={value}" for name, value in tunables.items()]
