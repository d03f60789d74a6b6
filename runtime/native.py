"""This repository's C++, compiled by the machine's own compiler where there is one, and called from XLA's programs."""

import ctypes
import functools
import os
import platform
import shutil
import subprocess
import tempfile
from hashlib import sha256
from pathlib import Path

import jax
import jaxlib

from runtime import local_copies

COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-shared", "-fPIC", "-w")
FOR_THIS_PROCESSOR = (("-march=native",), ("-mcpu=native",), ())  # compilers know one or the other
SECONDS = 120  # that compiling may take


@functools.cache
def load(folder: Path, name: str, functions: tuple[str, ...]) -> str | None:
    """Makes these functions of a folder's source known to XLA on CPUs; returns what hinders it, or None.

    The source, which includes others of the folder, is compiled once for each state of them, of the compiler and of
    jaxlib; what came of it is kept in the user's cache. $CXX names a compiler; an empty one says that there is none.
    """
    names_of_compilers = [name for name in os.environ.get("CXX", " ".join(COMPILERS)).split() if name]
    compiler = next(filter(None, map(shutil.which, names_of_compilers)), None)
    if compiler is None:
        return f"needs a C++ compiler ({' or '.join(names_of_compilers) or 'CXX is empty'})"
    state = sha256("|".join((compiler, str(os.stat(compiler).st_mtime_ns), jaxlib.__version__)).encode())
    for source in sorted(folder.iterdir()):
        state.update(source.read_bytes())
    # Of each machine its own: a home may be shared by machines whose processors differ.
    made = local_copies.root() / "native" / platform.node() / f"{folder.parent.name}-{state.hexdigest()[:16]}.so"
    try:
        if not made.exists() and (fault := _compile(compiler, folder / name, made)):
            return fault
        library = ctypes.CDLL(str(made))
    except OSError as error:
        return f"cannot be loaded: {made}: {error.strerror or error}"
    for function in functions:
        jax.ffi.register_ffi_target(function, jax.ffi.pycapsule(getattr(library, function)), platform="cpu")
    return None


def _compile(compiler: str, source: Path, made: Path) -> str | None:
    """Returns what the compiler said last, if it failed."""
    made.parent.mkdir(parents=True, exist_ok=True)
    fault = ""
    with tempfile.TemporaryDirectory(dir=made.parent) as folder:
        out = Path(folder) / made.name
        for processor in FOR_THIS_PROCESSOR:
            command = [compiler, *FLAGS, *processor, f"-I{jax.ffi.include_dir()}", str(source), "-o", str(out)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
            except subprocess.TimeoutExpired:
                return f"takes {compiler} more than {SECONDS} s"
            if done.returncode == 0:
                out.replace(made)
                return None
            fault = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"ended with {done.returncode}"
    return f"cannot be compiled by {compiler}: {fault}"
