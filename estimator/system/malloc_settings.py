"""Sets up malloc of glibc for XLA on CPUs: 2 MB pages, and one kept block for a program's temporary arrays.

XLA allocates these arrays at every call and frees them afterwards. With 4 KB pages this causes a hundred thousand page
faults per training step; with large pages hundreds. And the system would clear the pages of the whole block at each
step (native/kept_block.cc). glibc reads its tunables and loads such a library only at process start, so the process
re-executes itself before it imports anything. Without a C++ compiler, or with a library that the user preloads, which
may be another malloc, there are large pages only.

Threads but the first one allocate in arenas without large pages. A server loads its models in threads, so it has one
arena for all; a training step is 5 % slower with it (docs/numbers.md).
"""

import json
import os
import signal
import sys
from pathlib import Path

from estimator.system import compiler, malloc

TUNABLES, PRELOAD = "GLIBC_TUNABLES", "LD_PRELOAD"
BEFORE = "ENVIRONMENT_BEFORE_GPT2"  # the values of these variables in the environment of the first process
HUGE_PAGES = "glibc.malloc.hugetlb=1"
ONE_ARENA = "glibc.malloc.arena_max=1"
SOURCES = Path(__file__).with_name("native")
SEPARATORS = " :$"  # in a list of libraries to preload


def use(*, one_arena: bool = False) -> None:
    """Re-executes this process once with the settings; child processes do not inherit them."""
    if not malloc.is_glibc():
        return
    if BEFORE not in os.environ:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until `interrupts.exit_quietly` in the new process
        command = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, command, environment(dict(os.environ), one_arena=one_arena))
    for name, value in json.loads(os.environ.pop(BEFORE)).items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def environment(variables: dict[str, str], *, one_arena: bool = False) -> dict[str, str]:
    """Environment with the settings, for a new process."""
    settings = [variables.get(TUNABLES), HUGE_PAGES, ONE_ARENA if one_arena else None]
    changed = {TUNABLES: ":".join(filter(None, settings))}
    if not variables.get(PRELOAD):
        library = compiler.compiled(SOURCES, "kept_block.cc")
        if isinstance(library, Path) and not set(SEPARATORS) & set(str(library)):
            changed[PRELOAD] = str(library)
    return variables | changed | {BEFORE: json.dumps({name: variables.get(name) for name in changed})}
