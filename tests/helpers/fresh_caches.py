"""Cache folders that are empty but for our compiled C++, which takes the compiler 20 seconds."""

import shutil
from pathlib import Path

from estimator.storage import cache_root
from models.gpt2 import cpu_kernels


def make(folder: Path) -> Path:
    """Makes a cache folder for one test, to be named by GPT2_CACHE afterwards."""
    folder.mkdir(parents=True)
    if cpu_kernels.obstacle() is None:  # now they are compiled in the cache of this machine
        libraries, ignored = cache_root.root() / "native", shutil.ignore_patterns("tmp*")  # compilations under way
        shutil.copytree(libraries, folder / "native", ignore=ignored)
    return folder
