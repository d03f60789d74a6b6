"""The code of this repository, and the packages it needs, on a host: each sent or made once, and named by its contents.

Of a git checkout the tracked files go, as they are in the working tree; without git, all that is not made by running.
"""

import contextlib
import io
import subprocess
import tarfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from estimator.errors import UserError
from estimator.launch.interfaces import Host
from estimator.launch.job import quoted

ROOT = Path(__file__).resolve().parents[2]
NOT_SENT = ("runs", "logs", "build", "cache")  # what programs write; without git, also all that begins with a dot
INSTALL_SECONDS = 1800.0
ACCELERATOR = "estimator/system/accelerator.sh"  # prints which JAX a machine needs


def tracked_files(root: Path = ROOT) -> list[str]:
    """Names below `root`, sorted."""
    listed = None
    if (root / ".git").exists():
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True).stdout
    if listed is not None:
        names = [name for name in listed.decode().split("\0") if name]
    else:
        paths = (path.relative_to(root) for path in root.rglob("*"))
        names = [
            path.as_posix()
            for path in paths
            if path.parts[0] not in NOT_SENT
            and not any(part.startswith(".") or part == "__pycache__" for part in path.parts)
        ]
    return sorted(name for name in names if (root / name).is_file())


def pack(root: Path = ROOT) -> bytes:
    """A tar file: the same bytes for the same contents."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=6, format=tarfile.USTAR_FORMAT) as tar:
        for name in tracked_files(root):
            data = (root / name).read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755 if (root / name).stat().st_mode & 0o100 else 0o644
            tar.addfile(entry, io.BytesIO(data))
    data = bytearray(packed.getvalue())
    data[4:8] = bytes(4)  # the time, which gzip puts at the front
    return bytes(data)


def send_code(host: Host, packed: bytes) -> str:
    """The folder of the code on a host; sends the code if it is missing."""
    folder = f"{host.folder}/code/{sha256(packed).hexdigest()[:16]}"
    if host.run(f"[ -d {quoted(folder)} ]").code == 0:
        return folder
    script = f"""folder={quoted(folder)}
mkdir -p "$folder.$$" && tar -xzf - -C "$folder.$$" || exit 1
mv -T "$folder.$$" "$folder" 2>/dev/null || rm -rf "$folder.$$"  # another worker of the same disk was faster
[ -d "$folder" ]"""
    _checked(host, script, stdin=packed, timeout=300, doing="sending the code")
    return folder


def make_environment(host: Host, code: str, *, extras: Sequence[str] = (), root: Path = ROOT) -> str:
    """The interpreter of an environment on a host that has the packages of requirements.txt, made if it is missing.

    extras: further requirement files. JAX comes for the accelerator that the host has.
    """
    if host.python:
        return host.python
    kind = _checked(host, (ROOT / ACCELERATOR).read_text(encoding="utf-8"), doing="looking for an accelerator").strip()
    files = ["requirements.txt", *extras]
    texts = [(root / name).read_text(encoding="utf-8") for name in [*files, "constraints.txt"]]
    folder = f"{host.folder}/environments/{kind}-{sha256(chr(0).join(texts).encode()).hexdigest()[:16]}"
    arguments = " ".join(f"-r {quoted(f'{code}/{name}')}" for name in files)
    arguments += "" if kind == "cpu" else f" 'jax[{kind}]'"
    packages = f"-m pip --disable-pip-version-check install --quiet {arguments}"
    script = f"""folder={quoted(folder)}
mkdir -p "$folder" || exit 1
# Hosts may share a disk.
if command -v flock > /dev/null; then exec 9> "$folder.lock"; flock 9; fi
[ ! -e "$folder/complete" ] || exit 0
for python in python3 python3.14 python3.13 python3.12 python3.11 none; do
  ! "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || break
done
if [ $python != none ]; then
  "$python" -m venv --clear "$folder" || exit 1
else  # as on TPU machines with Ubuntu 22.04: uv brings one
  uv="$folder.uv"
  {{ python3 -m pip install --quiet --target "$uv" uv ||
    curl -LsSf https://astral.sh/uv/install.sh | env UV_INSTALL_DIR="$uv/bin" UV_NO_MODIFY_PATH=1 sh; }} >&2 &&
  UV_PYTHON_INSTALL_DIR="$folder.python" "$uv/bin/uv" venv --quiet --clear --seed --python 3.12 "$folder" >&2 || {{
    echo "no Python of 3.11 or newer with venv, and uv brings none; apt install python3-venv: see docs/pods.md" >&2
    exit 1
  }}
fi
"$folder/bin/python" {packages} >&2 && touch "$folder/complete\""""
    _checked(host, script, timeout=INSTALL_SECONDS, doing="making the environment")
    return f"{folder}/bin/python"


def _checked(host: Host, script: str, *, doing: str, stdin: bytes = b"", timeout: float = 60) -> str:
    output = host.run(script, stdin=stdin, timeout=timeout)
    if output.code:
        lines = [line for line in output.error.splitlines() if line.strip()]
        raise UserError(f"{host.name}: {doing} failed: " + "\n".join(lines[-5:] or [f"code {output.code}"]))
    return output.out.decode(errors="replace")
