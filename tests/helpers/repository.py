"""A copy of the repository, so that a test may change files or make a mess."""

import shutil
import subprocess
from pathlib import Path

from conftest import ROOT


def tracked() -> list[str]:
    """Files in git or about to be."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in names if (ROOT / name).is_file()]


def copy_to(folder: Path) -> Path:
    """Copies all files but the tests."""
    for name in tracked():
        if not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder
