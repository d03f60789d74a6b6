"""Answers a launcher's questions about the folder of a run, on worker 0: python3 -m estimator.launch.query_run_dir.

newest FOLDER   prints the step of the newest checkpoint, or nothing
clean FOLDER    empties the folder, as main.py --clean does: once, and not at every restart
"""

import os
import sys

from estimator import storage
from estimator.errors import run_program
from estimator.training import run_dir
from estimator.training.remote_checkpoints import steps_in


def newest(folder: str) -> int | None:
    """The step of the newest whole checkpoint of a run."""
    path = storage.join(folder, "checkpoints")
    if storage.is_remote(path):
        return max(steps_in(path), default=None)
    names = [os.path.basename(each) for each in storage.children(path)]
    return max((int(name) for name in names if name.isdigit()), default=None)


def main() -> None:
    _, order, folder = sys.argv
    if order == "clean":
        run_dir.clean(folder)
    else:
        step = newest(folder)
        print("" if step is None else step)


if __name__ == "__main__":
    run_program(main)
