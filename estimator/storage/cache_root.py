"""The directory of this machine for files that can be made again."""

import os
import tempfile
from hashlib import sha256
from pathlib import Path


def root() -> Path:
    """Where this machine keeps what can be made again: $GPT2_CACHE, or a folder in the user's cache."""
    if named := os.environ.get("GPT2_CACHE"):
        return Path(named)
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "gpt2"
    try:
        return Path.home() / ".cache" / "gpt2"
    except RuntimeError:  # a container with no HOME and a user without a name
        return Path(tempfile.gettempdir()) / f"gpt2-{os.getuid()}"


def folder_of(base: str, *, kind: str = "remote") -> Path:
    """The folder here of a remote folder, for data or for something of another kind."""
    name = base.replace("+", "%2B").replace("://", "+").strip("/").replace("/", "+")
    if len(name) > 200:
        name = f"{name[:180]}-{sha256(base.encode()).hexdigest()[:16]}"
    return root() / kind / name
