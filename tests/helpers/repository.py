"""Copies the repository, so that tests can modify files."""

import shutil
import subprocess
from pathlib import Path

from conftest import ROOT


def tracked() -> list[str]:
    """Returns the files that git tracks or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in names if (ROOT / name).is_file()]


def copy_to(folder: Path) -> Path:
    """Copies all files except for the tests."""
    for name in tracked():
        if not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder
