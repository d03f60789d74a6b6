"""Compiles this repository's C++ with the local compiler, if any, and registers it with XLA."""

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from hashlib import sha256
from pathlib import Path

import jax
import jaxlib

from estimator.storage import cache_root
from estimator.system.processor import processor_id

COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-shared", "-fPIC", "-w")
FOR_THIS_PROCESSOR = (("-march=native",), ("-mcpu=native",), ())  # compilers accept one or the other
SECONDS = 300  # time limit of compilation


@functools.cache
def load(folder: Path, name: str, functions: tuple[str, ...]) -> str | None:
    """Registers functions of a folder's C++ source with XLA on CPUs; returns the obstacle, or None.

    Compiles once per state of the sources, the compiler and jaxlib, and caches the library in the user's cache. $CXX
    names the compiler; an empty value means none.
    """
    found = library(folder, name)
    if isinstance(found, str):
        return found
    for function in functions:
        jax.ffi.register_ffi_target(function, jax.ffi.pycapsule(getattr(found, function)), platform="cpu")
    return None


def flag(folder: Path, name: str, function: str) -> bool:
    """Result of a function without arguments; False where the source cannot be compiled or loaded."""
    found = library(folder, name)
    return not isinstance(found, str) and bool(getattr(found, function)())


@functools.cache
def library(folder: Path, name: str) -> ctypes.CDLL | str:
    """The compiled library, or the obstacle."""
    names_of_compilers = [name for name in os.environ.get("CXX", " ".join(COMPILERS)).split() if name]
    compiler = next(filter(None, map(shutil.which, names_of_compilers)), None)
    if compiler is None:
        return f"needs a C++ compiler ({' or '.join(names_of_compilers) or 'CXX is empty'})"
    state = sha256("|".join((compiler, str(os.stat(compiler).st_mtime_ns), jaxlib.__version__)).encode())
    for source in sorted(folder.iterdir()):
        state.update(source.read_bytes())
    # One folder per processor type, because different machines may share a home.
    library_path = cache_root.root() / "native" / processor_id() / f"{folder.parent.name}-{state.hexdigest()[:16]}.so"
    try:
        if not _is_whole(library_path) and (fault := _compile(compiler, folder / name, library_path)):
            return fault
        return ctypes.CDLL(str(library_path))
    except OSError as error:
        return f"cannot be loaded: {library_path}: {error.strerror or error}"


def _digest_path(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _is_whole(library: Path) -> bool:
    """Whether the library is intact; loading a truncated one would crash the process."""
    try:
        return _digest_path(library).read_text(encoding="utf-8") == sha256(library.read_bytes()).hexdigest()
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def _compile(compiler: str, source: Path, library: Path) -> str | None:
    """Returns the compiler's last line if it failed, else None."""
    library.parent.mkdir(parents=True, exist_ok=True)
    fault = ""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        out = Path(folder) / library.name
        for processor in FOR_THIS_PROCESSOR:
            command = [compiler, *FLAGS, *processor, f"-I{jax.ffi.include_dir()}", str(source), "-o", str(out)]
            try:
                done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=SECONDS)
            except subprocess.TimeoutExpired:
                return f"takes {compiler} more than {SECONDS} s"
            if done.returncode == 0:
                _digest_path(out).write_text(sha256(out.read_bytes()).hexdigest(), encoding="utf-8")
                out.replace(library)
                _digest_path(out).replace(_digest_path(library))
                return None
            fault = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"ended with {done.returncode}"
    return f"cannot be compiled by {compiler}: {fault}"
