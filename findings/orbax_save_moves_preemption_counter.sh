#!/usr/bin/env bash
# orbax-checkpoint 0.12.8 with JAX 0.10.1: after a save, processes that count their calls of
#   reached_preemption_sync_point ignore SIGTERM, or stop at different calls.
#
# Expected: jax.experimental.multihost_utils.reached_preemption_sync_point(n) asks for a number that grows by one with
#   each call on all hosts. After SIGTERM on one of them, all get True for the same n, the next one of the host that is
#   furthest. A loop that also calls it between batches of an evaluation counts its calls, as those are not steps.
# Observed: the number of the last call belongs to the whole process, and CheckpointManager.save(step) calls the function
#   with its own step, for a decision that only PreemptionCheckpointingPolicy needs. Two processes that have made 100
#   calls and then save step 3 agree on call 4 after SIGTERM, which is over: they never get True, and as JAX has taken
#   SIGTERM from the system, they run on until they are killed. Without the save both get True at call 101. Saves in a
#   background thread come between the calls of one process and not of the other: then one stops at a call that the
#   other has already made, and both wait for each other in the next collective.
# Why it matters: the signal announces that a machine goes away. The steps since the last checkpoint are lost, or the
#   pod hangs until someone looks. Set jax_enable_preemption_service to False before jax.distributed.initialize, which
#   Orbax understands, and agree on the step through the key-value store; or call the function with the step alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release" orbax-checkpoint==0.12.8
cat > "$folder/process.py" <<'PY'
import logging
import os
import signal
import sys
import time
import warnings

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

logging.disable(logging.CRITICAL)
warnings.simplefilter("ignore")
index, address, checkpoints, saves = int(sys.argv[1]), *sys.argv[2:4], sys.argv[4] == "save"
jax.distributed.initialize(address, 2, index)
for call in range(1, 101):
    assert not multihost_utils.reached_preemption_sync_point(call)
with ocp.CheckpointManager(checkpoints) as manager:
    if saves:
        assert manager.save(3, args=ocp.args.StandardSave({"weights": np.ones(1)}))
        manager.wait_until_finished()
multihost_utils.sync_global_devices("saved")
if index == 1:
    os.kill(os.getpid(), signal.SIGTERM)
time.sleep(3)
reached = next((call for call in range(101, 201) if multihost_utils.reached_preemption_sync_point(call)), None)
print(f"process {index}: {reached}", flush=True)
multihost_utils.sync_global_devices("end")
PY
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - "$folder" <<'PY'
import socket
import subprocess
import sys
from importlib.metadata import version

print("jax", version("jax"), "orbax-checkpoint", version("orbax-checkpoint"))
folder = sys.argv[1]


def stops(saves: str) -> list[str]:
    """The call at which each of two processes learns of a SIGTERM to the second."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, f"{folder}/process.py", str(index), address, f"{folder}/{saves}", saves],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    return [line for output in outputs for line in output.splitlines() if line.startswith("process")]


without, after = stops("nothing"), stops("save")
print("without a save:", without)
print("after a save of step 3:", after)
assert without == ["process 0: 101", "process 1: 101"]
assert after == ["process 0: None", "process 1: None"], "the behavior has changed"
PY
