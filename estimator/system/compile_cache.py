"""Enables JAX's persistent compilation cache, so that restarts skip compilation."""

import contextlib
import os
import re
import warnings
from pathlib import Path
from typing import TextIO

import jax

from estimator.storage import cache_root
from estimator.system.processor import processor_id

MOST_BYTES = 4 << 30
SECONDS = 1.0  # faster compilations are not cached
_UNREADABLE = re.compile(r"Error reading persistent compilation cache entry for '([^']+)'")


def use() -> None:
    """Enables the cache in the user's cache folder or $JAX_COMPILATION_CACHE_DIR ("" disables it).

    Processes that share a program on CPUs have none.
    """
    if jax.process_count() > 1 and jax.default_backend() == "cpu":  # for trying out; a program knows its neighbors
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    # One folder per processor type, because different machines may share a home and containers change names.
    root = cache_root.root() / "compiled"
    folder = root / processor_id()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    _forget_the_oldest(root)
    _replace_unreadable(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SECONDS)


def _forget_the_oldest(root: Path) -> None:
    kept = 0
    with contextlib.suppress(OSError):  # another run may do the same
        paths = [path for path in root.rglob("*") if path.is_file()]
        for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
            kept += path.stat().st_size
            if kept > MOST_BYTES:
                path.unlink()


def _replace_unreadable(folder: Path) -> None:
    """Removes an unreadable entry; JAX never overwrites one and would warn at each start."""
    show = warnings.showwarning

    def remove(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        found = _UNREADABLE.match(str(message))
        if not found:
            show(message, category, filename, lineno, file, line)
            return
        for path in folder.iterdir():
            if path.name.startswith(f"{found[1]}-"):
                path.unlink(missing_ok=True)

    if show.__module__ != __name__:
        warnings.showwarning = remove
