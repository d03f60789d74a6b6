"""How to get the data that the files in configs/ name and that no download brings with them."""

import os

from estimator import invocation
from estimator.errors import UserError

_ADVICE = "or name yours: --set data_path=FOLDER"
HOW_TO_GET = {
    "data/openwebtext": f"{invocation.program('datasets/openwebtext/prepare.py')} openwebtext --out",
    "runs/shakespeare/text": "python3 -m benchmarks.shakespeare --text tinyshakespeare.txt --into",
}
TO_FILL = {
    "my_texts": f"put text files into it, {_ADVICE}",
    "data/chats": f"put files of conversations into it (docs/chat.md), {_ADVICE}",
}


def check(data_path: str | list[str] | None) -> None:
    """Raises UserError where a folder that a file in configs/ names is missing, with the way to get it."""
    folder = os.path.normpath(data_path) if isinstance(data_path, str) else ""
    if os.path.exists(folder):
        return
    if command := HOW_TO_GET.get(folder):
        raise UserError(f"data_path: {data_path}: no such folder; this makes it: {command} {folder}")
    if advice := TO_FILL.get(folder):
        raise UserError(f"data_path: {data_path}: no such folder; {advice}")
