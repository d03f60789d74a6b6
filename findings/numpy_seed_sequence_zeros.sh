#!/usr/bin/env bash
# NumPy 2.4.6: default_rng([seed, 0]) is default_rng(seed): zeros at the end of a seed count for nothing.
#
# Expected: SeedSequence mixes a list of integers into independent streams, so that [seed], [seed, epoch] and [seed,
#   epoch, worker] are different generators, and equal lists only give equal streams.
# Observed: up to four words of 32 bits, the list is filled with zeros, so [7], [7, 0], [7, 0, 0] and 7 are one stream,
#   as are 0 and [0, 0, 0, 0]. Integers above 32 bits are split into words: 7 + 5 * 2**32 is [7, 5]. From the fifth word
#   on, zeros count. spawn() is not affected, nor are lists of one length below 2**32.
# Why it matters: a data loader that shuffles with default_rng(seed) and draws crops or masks of worker 0 in epoch 0
#   with default_rng([seed, 0, 0]) uses the same numbers twice, in the first epoch and nowhere else. Seeds of 64 bits
#   from a hash can be pairs of small ones. Put a tag that is not zero last.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numpy as np

print("numpy", np.__version__)
groups = {
    "equal": [([7], 7), ([7, 0], 7), ([7, 0, 0, 0], 7), ([0, 0, 0, 0], 0), ([7, 5], 7 + 5 * 2**32)],
    "different": [([0, 7], 7), ([7, 0, 0, 0, 0], 7), ([7, 0, 1], [7, 0]), ([0, 0, 0, 0, 0], 0)],
}
for name, pairs in groups.items():
    for one, other in pairs:
        streams = [np.random.default_rng(seed).integers(0, 1 << 30, 1000).tolist() for seed in (one, other)]
        print(f"{one} and {other}: {streams[0][:3]}, {streams[1][:3]}")
        assert (streams[0] == streams[1]) == (name == "equal"), "the behavior has changed"
child = np.random.default_rng(np.random.SeedSequence(7).spawn(1)[0])
assert child.integers(0, 1 << 30) != np.random.default_rng(7).integers(0, 1 << 30), "the behavior has changed"
PY
