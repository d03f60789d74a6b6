"""The amount of code in the training loop, as measured by `python -m benchmarks.reading`."""

import json
import os
import subprocess
import sys

from conftest import QUICK_COMPILE, ROOT

# The goals are 24 files and 4,000 lines (`benchmarks.reading`). Lower these when a file leaves the loop.
MAX_FILES, MAX_LINES = 24, 4000


def test_a_tiny_run_enters_few_files():
    environment = {**os.environ, "XLA_FLAGS": QUICK_COMPILE}
    command = [sys.executable, "-m", "benchmarks.reading"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    details = result["details"]
    assert result["ours"] <= MAX_LINES
    assert details["files"] <= MAX_FILES
    assert details["largest_folder_share"] < 0.15
    table = [line.split() for line in done.stderr.splitlines() if line.endswith((" loop", " setup"))]
    loop = {name: int(lines) for name, lines, phase in table if phase == "loop"}
    assert (len(loop), sum(loop.values())) == (details["files"], result["ours"])
    assert len(table) == details["files"] + details["setup_files"]
    # These always run; a broken trace would miss them.
    assert {"main.py", "models/gpt2/model.py", "optimizers.py", "estimator/training/train_step.py"} <= set(loop)
