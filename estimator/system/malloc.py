"""glibc's malloc: whether this process has it, and giving its freed memory back."""

import ctypes
import platform
import sys


def release() -> None:
    """Gives freed memory back to the system, which malloc keeps between blocks in use."""
    if is_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def is_glibc() -> bool:
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
