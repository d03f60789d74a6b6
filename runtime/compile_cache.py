"""Compiled programs are kept, so that a run that starts again does not wait for the compiler."""

import contextlib
import os
import platform
from pathlib import Path

import jax

from runtime import local_copies

MOST_BYTES = 4 << 30
SECONDS = 1.0  # what compiles faster is not kept


def use() -> None:
    """Keeps them in a folder of the user's cache, or in what $JAX_COMPILATION_CACHE_DIR names ("" is nowhere)."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    if jax.process_count() > 1 and jax.default_backend() == "cpu":  # for trying out; a program knows its neighbours
        return
    # Of each machine its own: a home may be shared by machines whose processors differ.
    folder = local_copies.root() / "compiled" / platform.node()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    _forget_the_oldest(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SECONDS)


def _forget_the_oldest(folder: Path) -> None:
    kept = 0
    with contextlib.suppress(OSError):  # of another run that does the same
        for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True):
            kept += path.stat().st_size
            if kept > MOST_BYTES:
                path.unlink()
