"""Runs commands of this repository in one process with only the core packages and without Linux features.

    python bare_system.py COMMANDS.json     a list of [program, argument ...]

Prints a line of JSON for each command: the exit code, and the error if there was one. Packages that the core does not
need cannot be imported. As on macOS, there is no /proc, no processor affinity, and no fork.
"""

import importlib.abc
import importlib.util
import json
import multiprocessing
import os
import runpy
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
ORACLES = {"llama_cpp", "mlflow", "ray", "tensorboard", "tensorflow", "torch", "trackio", "transformers", "wandb"}
GOOGLE = {"google.api_core", "google.auth", "google.cloud"}  # shares a namespace with protobuf, a core package


def closure(files: list[Path]) -> set[str]:
    """Returns the names of all installed distributions that the requirements files pull in."""
    texts = [line.partition("#")[0].strip() for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    rest, seen = [Requirement(text) for text in texts if text and text[0] != "-"], set()
    rest = [each for each in rest if not each.marker or each.marker.evaluate()]
    while rest:
        requirement = rest.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        try:
            needed = [Requirement(line) for line in metadata.requires(requirement.name) or []]
        except metadata.PackageNotFoundError:
            continue
        extras = requirement.extras or {""}
        rest += [each for each in needed if not each.marker or any(each.marker.evaluate({"extra": e}) for e in extras)]
    return {canonicalize_name(Requirement(text).name) for text in seen}


def optional_modules() -> set[str]:
    """Returns the modules of distributions that only optional requirements files pull in."""
    core = closure([ROOT / "requirements.txt"])
    optional = (
        closure([path for path in ROOT.glob("requirements-*.txt") if path.stem[13:] not in ("dev", "tpu")]) - core
    )
    modules = metadata.packages_distributions().items()
    return {module for module, names in modules if set(map(canonicalize_name, names)) <= optional} | ORACLES | GOOGLE


class Refusal(importlib.abc.MetaPathFinder):
    """Import hook that makes modules look as if they were not installed."""

    def __init__(self, modules: set[str]):
        self.modules = modules

    def find_spec(self, fullname, path=None, target=None):
        if self.refuses(fullname):
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)

    def refuses(self, fullname: str) -> bool:
        parts = fullname.split(".")
        return bool({".".join(parts[: count + 1]) for count in range(len(parts))} & self.modules)

    def install(self) -> None:
        """Also hides the modules from importlib.util.find_spec."""
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, package=None: None if self.refuses(name) else find(name, package)
        sys.meta_path.insert(0, self)


def become_another_system() -> None:
    """Removes Linux features after importing libraries, which would otherwise load files of another platform."""
    import urllib.request  # noqa: F401

    import jax  # noqa: F401
    import numpy.lib.format  # noqa: F401
    import optax  # noqa: F401
    import tokenizers  # noqa: F401
    from orbax.checkpoint import v1  # noqa: F401

    def refuse(event, arguments):
        if event == "open" and str(arguments[0]).startswith("/proc/"):
            raise FileNotFoundError(2, "No such file or directory", arguments[0])

    def stat(path, **options):
        refuse("open", [path])
        return real(path, **options)

    sys.addaudithook(refuse)
    real, os.stat = os.stat, stat
    del os.sched_getaffinity, os.sched_setaffinity
    multiprocessing.set_start_method("spawn")
    sys.platform = "darwin"


def outcome(program: str, arguments: list[str]) -> dict:
    from estimator.errors import UserError

    sys.argv = [program, *arguments]
    try:
        return {"code": runpy.run_path(str(ROOT / program), run_name="program")["main"]() or 0}
    except UserError as error:
        return {"code": error.code, "error": str(error)}
    except SystemExit as error:
        return {"code": error.code}


if __name__ == "__main__":
    sys.path[:1] = [str(ROOT)]
    Refusal(optional_modules()).install()
    become_another_system()
    for program, *arguments in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        print("OUTCOME", json.dumps(outcome(program, arguments)), flush=True)
