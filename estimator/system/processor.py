"""Identifies the processor type, for caches of compiled code."""

import functools
import platform
from hashlib import sha256
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
KEYS = ("model name", "flags", "Features", "CPU part")  # x86 and ARM


@functools.cache
def processor_id() -> str:
    """Architecture and a digest of the processor's model and instruction sets."""
    lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines() if CPUINFO.is_file() else []
    known = sorted({line for line in lines if line.partition(":")[0].strip() in KEYS})
    return f"{platform.machine()}-{sha256('|'.join(known or [platform.processor()]).encode()).hexdigest()[:12]}"
