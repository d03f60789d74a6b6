"""What a launcher asks worker 0 about the folder of a run, wherever it lies: python3 -m cluster.run_folder.

newest FOLDER   prints the step of the newest checkpoint, or nothing
clean FOLDER    empties the folder, as main.py --clean does: once, and not at every restart
"""

import sys

from runtime import run_folder, storage
from runtime.errors import run_program


def newest(folder: str) -> int | None:
    """The step of the newest whole checkpoint of a run."""
    names = [path.rstrip("/").rpartition("/")[2] for path in storage.glob(storage.join(folder, "checkpoints", "*"))]
    return max((int(name) for name in names if name.isdigit()), default=None)


def main() -> None:
    _, order, folder = sys.argv
    if order == "clean":
        run_folder.clean(folder)
    else:
        step = newest(folder)
        print("" if step is None else step)


if __name__ == "__main__":
    run_program(main)
