"""How many files and connections may be open at a time: systems allow 1,024, or 256, unless asked for more."""

import contextlib
import resource
import sys


def allow(count: int) -> int:
    """Asks the system for `count` open files at least; how many it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    if soft < count:
        wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS has another limit than the one it reports
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
