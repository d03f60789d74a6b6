"""Temporary SSH servers on this machine that accept a single generated key."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def make_keys(folder: Path) -> Path:
    """Creates the keys `user` and `host` in a directory; skips the test if sshd is not installed."""
    if not _program() or not shutil.which("ssh-keygen"):
        pytest.skip("no sshd; apt-get install openssh-server")
    keys = folder / "keys"
    keys.mkdir(mode=0o700)
    for name in ("user", "host"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / name], check=True)
    return keys


def start(keys: Path, address: str, port: int, *settings: str) -> subprocess.Popen:
    """Starts a server. settings: additional lines for sshd_config."""
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    lines = [
        f"Port {port}", f"ListenAddress {address}", f"HostKey {keys}/host", f"AuthorizedKeysFile {keys}/user.pub",
        "PidFile none", "StrictModes no", "UsePAM no", "PasswordAuthentication no", *settings,
    ]  # fmt: skip
    config = keys / f"config-{address}-{port}"
    config.write_text("".join(f"{line}\n" for line in lines))
    return subprocess.Popen([_program(), "-D", "-e", "-f", config], stderr=subprocess.DEVNULL)


def _program() -> str | None:
    return shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
