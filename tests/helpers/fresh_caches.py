"""Cache folders with our compiled C++ and nothing more: compiling it takes 20 seconds of processor time."""

import shutil
from pathlib import Path

from estimator.storage import cache_root
from models.gpt2 import cpu_kernels


def make(folder: Path) -> Path:
    """Makes a cache folder for one test, which sets GPT2_CACHE to it."""
    folder.mkdir(parents=True)
    cpu_kernels.obstacle()  # compiles them, unless an earlier test of this process has
    libraries = cache_root.root() / "native"
    if libraries.is_dir():  # there may be no compiler
        shutil.copytree(libraries, folder / "native", ignore=shutil.ignore_patterns("tmp*"))  # those being compiled
    return folder
