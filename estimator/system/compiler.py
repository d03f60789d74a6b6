"""Compiles this repository's C++ with the local compiler, if any. Imports no JAX: `malloc` compiles before that."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path

from estimator.storage import cache_root
from estimator.system.processor import processor_id

COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-shared", "-fPIC", "-w")
FOR_THIS_PROCESSOR = (("-march=native",), ("-mcpu=native",), ())  # compilers accept one or the other
SECONDS = 300  # time limit of compilation
OLD_SECONDS = 3600  # of a folder that no compilation can still be using


def compiled(folder: Path, name: str, *options: str, state: str = "", note: str = "") -> Path | str:
    """Path of a source's library, compiled again if `state` or a file of the folder has changed; or the obstacle.

    $CXX names the compiler; an empty value means none. note: printed before a compilation, which takes long.
    """
    names_of_compilers = [name for name in os.environ.get("CXX", " ".join(COMPILERS)).split() if name]
    compiler = next(filter(None, map(shutil.which, names_of_compilers)), None)
    if compiler is None:
        return f"needs a C++ compiler ({' or '.join(names_of_compilers) or 'CXX is empty'})"
    digest = sha256("|".join((compiler, str(os.stat(compiler).st_mtime_ns), state)).encode())
    for source in sorted(folder.iterdir()):
        digest.update(source.read_bytes())
    # One folder per processor type, because different machines may share a home.
    path = cache_root.root() / "native" / processor_id() / f"{folder.parent.name}-{digest.hexdigest()[:16]}.so"
    try:
        if _is_whole(path):
            return path
        if note:
            print(note, file=sys.stderr, flush=True)
        return _compile(compiler, folder / name, path, *options) or path
    except OSError as error:
        return f"cannot be compiled: {path}: {error.strerror or error}"


def _digest_path(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _is_whole(library: Path) -> bool:
    """Whether the library is intact; loading a truncated one would crash the process."""
    try:
        return _digest_path(library).read_text(encoding="utf-8") == sha256(library.read_bytes()).hexdigest()
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def _compile(compiler: str, source: Path, library: Path, *options: str) -> str | None:
    """Returns the compiler's last line if it failed, else None."""
    library.parent.mkdir(parents=True, exist_ok=True)
    for left in library.parent.glob("tmp*"):  # by a process that was killed
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > OLD_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    fault = ""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        out = Path(folder) / library.name
        for processor in FOR_THIS_PROCESSOR:
            command = [compiler, *FLAGS, *processor, *options, str(source), "-o", str(out)]
            try:
                done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=SECONDS)
            except subprocess.TimeoutExpired:
                return f"takes {compiler} more than {SECONDS} s"
            if done.returncode == 0:
                _digest_path(out).write_text(sha256(out.read_bytes()).hexdigest(), encoding="utf-8")
                out.replace(library)
                _digest_path(out).replace(_digest_path(library))
                return None
            if os.strerror(errno.ENOSPC) in done.stderr:  # other flags take as long, and no less space
                return f"cannot be compiled by {compiler}: {library.parent}: {os.strerror(errno.ENOSPC)}"
            fault = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"ended with {done.returncode}"
    return f"cannot be compiled by {compiler}: {fault}"
