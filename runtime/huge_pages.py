"""Large blocks of memory in pages of 2 MB, for this process alone.

XLA takes a program's temporary arrays from the system at every call and gives them back. In pages of 4 KB that is a
hundred thousand page faults for a training step on a CPU, a tenth to a quarter of its time. glibc asks for huge pages
if a variable of the environment says so before the process begins, so it begins again, before it has loaded anything.
"""

import os
import platform
import sys

VARIABLE = "GLIBC_TUNABLES"
TUNABLE = "glibc.malloc.hugetlb"


def use() -> None:
    """Starts this process again with the tunable, once; the processes that it starts do not inherit it."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    given = os.environ.get(VARIABLE)
    others = [item for item in (given or "").split(":") if item]
    if ours := [item for item in others if item.startswith(f"{TUNABLE}=")]:
        others.remove(ours[0])
        os.environ[VARIABLE] = ":".join(others)
        if not others:
            del os.environ[VARIABLE]
        return
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment(dict(os.environ)))


def environment(variables: dict[str, str]) -> dict[str, str]:
    """The variables with the tunable, for a process that is to be started."""
    return variables | {VARIABLE: ":".join([*filter(None, [variables.get(VARIABLE)]), f"{TUNABLE}=1"])}
