#!/usr/bin/env bash
# JAX 0.10.1 and 0.12.0.1: on CPUs of several processes, lines of Gloo get into a program's stdout, in the middle of others.
#
# Expected: a program's stdout holds what the program prints; reports of a library go to stderr or a log.
# Observed: for each communicator, each local device prints "[Gloo] Rank ... is connected to ... peer ranks" to stdout,
#   from a thread of its own and in several parts, which mix. There is a communicator for each group of devices that ever
#   computes together, connected when it is first used; a first result (`sync_global_devices`, `broadcast_one_to_all`)
#   is there before the other local devices have printed. So these lines come at any time, also after the program's own,
#   and a reader that waits for a line may wait for ever. No setting turns them off.
# Why it matters: generated text, JSON and tables that a program writes to stdout are damaged, at times. What helps: give
#   sys.stdout a duplicate of descriptor 1, and let descriptor 1 itself lead to /dev/null (`os.dup`, `os.dup2`).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release"
cat > "$folder/program.py" <<'PY'
import json
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils

jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", num_processes=2, process_id=int(sys.argv[2]))
total = multihost_utils.process_allgather(np.float32([jax.process_index()])).sum()
print(json.dumps({"devices": jax.device_count(), "total": float(total)}), flush=True)
multihost_utils.sync_global_devices("end")
PY
port=$(python3 -c 'import random; print(random.randrange(20000, 32000))')
export JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=4
timeout 120 "$folder/venv/bin/python" "$folder/program.py" "$port" 1 > "$folder/1.txt" 2> /dev/null &
timeout 120 "$folder/venv/bin/python" "$folder/program.py" "$port" 0 > "$folder/0.txt" 2> /dev/null
wait
echo "jax $release: stdout of process 0, which prints one line of JSON:"
cat "$folder/0.txt"
reports=$(grep -o "\[Gloo\] Rank" "$folder/0.txt" | wc -l)
[ "$reports" -ge 4 ] || { echo "the behavior has changed" >&2; exit 1; }
