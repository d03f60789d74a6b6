"""Audits the dependencies: known vulnerabilities of the pinned versions, and whether they are what is installed.

    make audit

Vulnerabilities come from PyPI's advisories, through pip-audit; where they cannot be reached, a line says so. Installed
packages are compared with the pins, and their files with the hashes of the wheels that they came from. The exit code is
1 if anything is found, 3 if only the advisories could not be reached.
"""

import base64
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
FILES = [*sorted(ROOT.glob("requirements*.txt")), ROOT / "constraints.txt"]
EXIT_FOUND, EXIT_NO_DATA = 1, 3


def pins(paths: Iterable[Path]) -> dict[str, str]:
    """Version of each package that is pinned for this Python and system."""
    lines = (line.partition("#")[0].strip() for path in paths for line in path.read_text(encoding="utf-8").splitlines())
    wanted = [Requirement(line) for line in lines if line and line[0] != "-"]
    wanted = [each for each in wanted if not each.marker or each.marker.evaluate()]
    return {each.name: str(each.specifier).removeprefix("==") for each in wanted}


def vulnerabilities(report: dict[str, Any]) -> tuple[list[str], int]:
    """Of pip-audit's report: a line for each vulnerability, and the number of packages without advisories' data."""
    packages = report["dependencies"]
    found = [
        f"{each['name']} {each['version']}: {fault['id']}, fixed in {', '.join(fault['fix_versions']) or 'no version'}"
        for each in packages
        for fault in each.get("vulns", [])
    ]
    return found, sum("skip_reason" in each for each in packages)


def differences(pinned: dict[str, str]) -> list[str]:
    """A line for each installed package of another version than its pin, or with a changed file."""
    found = []
    for name, version in sorted(pinned.items()):
        try:
            installed = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if installed.version != version:
            found.append(f"{name}: {installed.version} is installed, {version} pinned; pip install -r requirements.txt")
        for file in installed.files or []:
            path = Path(str(file.locate()))
            if file.hash and path.is_file():
                digest = base64.urlsafe_b64encode(hashlib.new(file.hash.mode, path.read_bytes()).digest())
                if digest.rstrip(b"=").decode() != file.hash.value:
                    found.append(f"{path}: differs from its wheel; pip install --force-reinstall {name}=={version}")
    return found


def main(pip_audit: str) -> int:
    pinned = pins(FILES)
    lines = "".join(f"{name}=={version}\n" for name, version in pinned.items())
    command = [pip_audit, "-r", "/dev/stdin", "--no-deps", "--disable-pip", "-f", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, input=lines, capture_output=True, encoding="utf-8")
    try:
        found, unknown = vulnerabilities(json.loads(done.stdout))
    except ValueError:
        print(done.stderr[-2000:], file=sys.stderr)
        found, unknown = [], len(pinned)
    changed = differences(pinned)
    known = f"{len(pinned) - unknown} of {len(pinned)} pins were looked up, {len(found)} vulnerabilities"
    print("\n".join([*found, *changed, f"{known}; {len(changed)} differences from the pins"]))
    return EXIT_FOUND if found or changed else EXIT_NO_DATA if unknown else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
