"""Which run a checkpoint is of: an identifier in RUN/origin.json that each checkpoint repeats, so copies are noticed.

Runs and checkpoints of earlier versions have none, and are taken as they are.
"""

import secrets

from estimator import json_text, storage
from estimator.errors import UserError
from estimator.training import run_dir
from estimator.training.orbax_errors import DESCRIPTION
from estimator.training.run_checkpoints import CHECKPOINTS


def require_own(folder: str, step: int | None) -> None:
    """Raises UserError if another run wrote the checkpoint of this step, the newest of the run in `folder`."""
    own = run_dir.identity(folder)
    if own is None or step is None or _of_checkpoint(folder, step) in (None, own):
        return
    path, origin = storage.join(folder, CHECKPOINTS, str(step)), storage.join(folder, run_dir.ORIGIN)
    raise UserError(
        f"{path} was written by another run than the one in this folder (by {origin}); to continue this run, move it "
        "out of the folder; to continue the other, copy all of its folder, or set init_from to it, with another "
        "model_path, for its weights"
    )


def chosen(folder: str, step: int) -> str:
    """The identifier of the run in `folder`: the one that it has, that of its checkpoints, or a new one.

    step: of the newest checkpoint, 0 for none. An earlier version may have written it, and a later one those before.
    """
    return run_dir.identity(folder) or (step and _of_newest(folder)) or secrets.token_hex(8)


def _of_newest(folder: str) -> str | None:
    """The run that wrote the newest of the checkpoints that say so."""
    names = [path.rpartition("/")[2] for path in storage.children(storage.join(folder, CHECKPOINTS), "[0-9]*")]
    steps = sorted((int(name) for name in names if name.isdecimal()), reverse=True)
    return next(filter(None, (_of_checkpoint(folder, step) for step in steps)), None)


def _of_checkpoint(folder: str, step: int) -> str | None:
    """The run that wrote a checkpoint; None if it does not say so, or is damaged, which its reader reports."""
    try:
        description = json_text.loads(storage.read_bytes(storage.join(folder, CHECKPOINTS, str(step), DESCRIPTION)))
        found = description["custom_metadata"][run_dir.RUN]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None
