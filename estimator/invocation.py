"""What messages tell a person to type: programs, by the names under which they are called here, and pip's command."""

import os
import shlex

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # the clone, or gpt2/programs of the package
COMMANDS: dict[str, str] = {}  # file of a program -> command; the command `gpt2` fills it


def program(file: str) -> str:
    """How a program is called: `python3 main.py`, or `gpt2 train` below the command `gpt2`."""
    return COMMANDS.get(file, f"python3 {file}")


def install(*extras: str) -> str:
    """The command that installs requirement files, named by a path that is right in the current folder."""
    return "pip install " + " ".join(f"-r {requirements(extra)}" for extra in extras or [""])


def requirements(extra: str) -> str:
    """The path of a requirement file; of requirements.txt for an empty name."""
    name = f"requirements-{extra}.txt" if extra else "requirements.txt"
    return name if _is_here(ROOT) else shlex.quote(os.path.join(ROOT, name))


def _is_here(folder: str) -> bool:
    try:
        return os.path.samefile(os.curdir, folder)
    except OSError:  # the current folder was removed
        return False
