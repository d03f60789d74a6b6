"""Packs the repository into one package, `gpt2`: the command, and everything else as it is below gpt2/programs.

So names such as `inputs` and `datasets` do not enter site-packages. The rest of the metadata is in pyproject.toml; the
requirements files are the one source of requirements, and each requirements-NAME.txt is an extra NAME.
"""

from collections.abc import Iterator
from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).parent
FOLDERS = ("configs", "crawler", "datasets", "estimator", "models", "serving")


def requirements(name: str) -> Iterator[str]:
    """The requirements of a file and of those that it includes; constraints do not belong to a package."""
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        requirement = line.partition("#")[0].strip()
        if requirement.startswith("-r "):
            yield from requirements(requirement.removeprefix("-r "))
        elif requirement and not requirement.startswith("-"):
            yield requirement


core = list(requirements("requirements.txt"))
extras = {path.stem.removeprefix("requirements-"): path.name for path in sorted(ROOT.glob("requirements-*.txt"))}
folders = find_namespace_packages(str(ROOT), include=[name for top in FOLDERS for name in (top, f"{top}.*")])
setup(
    install_requires=core,
    extras_require={extra: [line for line in requirements(name) if line not in core] for extra, name in extras.items()},
    packages=["gpt2", "gpt2.programs", *(f"gpt2.programs.{name}" for name in folders)],
    package_dir={
        "gpt2": "gpt2",
        "gpt2.programs": ".",
        **{f"gpt2.programs.{name}": name.replace(".", "/") for name in folders},
    },
    package_data={
        "": ["*.cc", "*.css", "*.h", "*.html", "*.js", "*.json", "*.sh", "py.typed"],
        "gpt2.programs": ["*requirements*.txt", "constraints.txt"],
    },
)
