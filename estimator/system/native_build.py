"""Registers this repository's C++ with XLA, and loads it."""

import ctypes
import functools
from pathlib import Path

import jax
import jaxlib

from estimator.system import compiler

NOTE = "compiling the C++ for this processor, once; it takes about half a minute"


@functools.cache
def load(folder: Path, name: str, functions: tuple[str, ...]) -> str | None:
    """Registers functions of a folder's C++ source with XLA on CPUs; returns the obstacle, or None.

    Compiles once per state of the sources, the compiler and jaxlib, and caches the library in the user's cache.
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
    """The compiled library, which may include the headers of XLA's FFI, or the obstacle."""
    found = compiler.compiled(folder, name, f"-I{jax.ffi.include_dir()}", state=jaxlib.__version__, note=NOTE)
    if isinstance(found, str):
        return found
    try:
        return ctypes.CDLL(str(found))
    except OSError as error:
        return f"cannot be loaded: {found}: {error.strerror or error}"
