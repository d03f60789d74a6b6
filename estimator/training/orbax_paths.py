"""Folders whose names Orbax, gcsfs or TensorStore would not take as they are."""

import tempfile
from pathlib import Path
from typing import Any

import jax

from estimator.errors import UserError


def readable(folder: Any, *, is_in_bucket: bool) -> tuple[Any, tempfile.TemporaryDirectory[str] | None]:
    """The folder, or a symlink to it and the temporary folder that holds the link.

    Orbax and gcsfs take some names for patterns, and TensorStore takes all for UTF-8 URLs. Raises UserError where no
    link can help: in a bucket, and for several processes.
    """
    name = str(folder)
    if name.isprintable() and not set(name) & set("*?[]\\"):
        return folder, None
    if is_in_bucket or jax.process_count() > 1:
        fault = "has *, ?, [, ], a backslash or a control character"
        harm = "in a bucket, or by several processes, other files could be read or removed"
        raise UserError(f"model_path: {name!r} {fault}: {harm}; choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    alias = tempfile.TemporaryDirectory(prefix="gpt2-checkpoints-")
    link = Path(alias.name) / "checkpoints"
    link.symlink_to(folder, target_is_directory=True)
    return link, alias
