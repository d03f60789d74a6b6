"""Enables JAX's persistent compilation cache, so that restarts skip compilation."""

import contextlib
import functools
import os
import re
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

import jax

from estimator.storage import cache_root
from estimator.system.processor import processor_id

MOST_BYTES = 4 << 30
JAX_DEFAULT = "1"  # the level of XLA's log that JAX sets
_UNWRITABLE = re.compile(r"Error writing persistent compilation cache entry for '[^']+': (.*)", re.DOTALL)
_UNREADABLE = re.compile(r"Error reading persistent compilation cache entry for '([^']+)'")


def use() -> None:
    """Enables the cache in the user's cache folder, or in $JAX_COMPILATION_CACHE_DIR, where "" disables it.

    Processes that share a program on CPUs, which is for trying out, have the latter only.
    """
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if folder is None and (jax.process_count() == 1 or jax.default_backend() != "cpu"):
        folder = _use_own_folder()
    if folder:
        _write_checksums()
    if folder and jax.default_backend() == "cpu":
        _hide_false_alarms()


def _write_checksums() -> None:
    """Gives JAX's new entries a checksum, which is checked whenever they are read.

    Those that zstandard compresses have none: with one changed bit, most are other programs, which would run.
    """
    from jax._src import compilation_cache  # JAX has no public name for how it compresses

    if zstd := getattr(compilation_cache, "zstd", None):  # since Python 3.14
        options = {zstd.CompressionParameter.checksum_flag: True}
        compilation_cache.compress_executable = functools.partial(zstd.compress, options=options)
    elif zstandard := getattr(compilation_cache, "zstandard", None):
        compressor = functools.partial(zstandard.ZstdCompressor, write_checksum=True)
        package = SimpleNamespace(ZstdCompressor=compressor, ZstdDecompressor=zstandard.ZstdDecompressor)
        compilation_cache.zstandard = package  # type: ignore[assignment]


def _use_own_folder() -> str | None:
    # One folder per processor type, because different machines may share a home and containers change names.
    root = cache_root.root() / "compiled"
    folder = root / processor_id()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _say_not_kept(folder, error.strerror or str(error))
        return None
    _forget_the_oldest(root)
    _handle_warnings(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # JAX leaves out what compiles in less than a second: all but two of the 19 programs that a generation starts with.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return str(folder)


def _hide_false_alarms() -> None:
    """Leaves only fatal errors in XLA's log, unless $JAX_LOGGING_LEVEL or $TF_CPP_MIN_LOG_LEVEL says otherwise.

    On processors with AVX-512 XLA reports two errors, of 2 kB each, for every program that it loads: it takes what the
    compiler prefers for instructions that are missing (https://github.com/openxla/xla/issues/44565).
    """
    level = jax.config.values["jax_logging_level"]
    if level == "NOTSET" and os.environ.get("TF_CPP_MIN_LOG_LEVEL") in (None, JAX_DEFAULT):
        jax.config.update("jax_logging_level", "CRITICAL")
        jax.config.update("jax_logging_level", level)  # for JAX's own log; that of XLA stays as it is now


def _forget_the_oldest(root: Path) -> None:
    kept = 0
    with contextlib.suppress(OSError):  # another run may do the same
        paths = [path for path in root.rglob("*") if path.is_file()]
        for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
            kept += path.stat().st_size
            if kept > MOST_BYTES:
                path.unlink()


def _say_not_kept(folder: Path, reason: str) -> None:
    advice = "free some space, or set GPT2_CACHE to a folder that can be written"
    print(f"compiled programs are not kept in {folder}: {reason}; {advice}", file=sys.stderr)


def _handle_warnings(folder: Path) -> None:
    """Removes an unreadable entry, which JAX never overwrites; says once that none can be written, not for each."""
    show, said = warnings.showwarning, False

    def say(reason: str) -> None:
        nonlocal said
        if not said:
            _say_not_kept(folder, reason)
        said = True

    def handle(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if refused := _UNWRITABLE.match(str(message)):
            say(refused[1].partition(": '")[0])
            return
        found = _UNREADABLE.match(str(message))
        if not found:
            show(message, category, filename, lineno, file, line)
            return
        try:
            for path in folder.iterdir():
                if path.name.startswith(f"{found[1]}-"):
                    path.unlink(missing_ok=True)
        except OSError as error:  # entries of another user, in a cache that they share
            say(error.strerror or str(error))

    if show.__module__ != __name__:
        warnings.showwarning = handle
