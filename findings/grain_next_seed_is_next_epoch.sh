#!/usr/bin/env bash
# grain 0.2.18: epoch 0 of shuffle(seed=1) is epoch 1 of shuffle(seed=0).
#
# Expected: runs with seeds 0, 1 and 2 see unrelated orders of the data, also over several epochs, and random
#   transformations draw unrelated numbers.
# Observed: the order of an epoch is made from seed + epoch, so three seeds over three epochs have five orders instead
#   of nine. IndexSampler, of DataLoader, does the same, and gives the record at place i a generator made from seed + i:
#   the numbers of seed 1 are those of seed 0, moved by one. WindowShuffleMapDataset counts windows so.
#   `dataset.seed(s)` before `shuffle()` hashes the seed and is not affected. The docstring only prefers that way "if
#   you don't need to control the shuffle seed individually".
# Why it matters: the spread over seeds 0, 1 and 2 is how the noise of a GPT-2 run is measured, and neighboring seeds
#   are what everyone takes. Fine-tuning for a few epochs repeats whole orders between the runs. Take seeds that are far
#   apart.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q grain==0.2.18 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import grain

RECORDS, EPOCHS, SEEDS = 100, 3, range(3)
print("grain", version("grain"))
dataset = grain.MapDataset.range(RECORDS)


def epochs(shuffled: grain.MapDataset) -> list[tuple[int, ...]]:
    """The order of the records in each epoch."""
    repeated = shuffled.repeat(EPOCHS)
    return [tuple(repeated[i + epoch * RECORDS] for i in range(RECORDS)) for epoch in range(EPOCHS)]


def sampled(seed: int) -> tuple[list[int], list[int]]:
    """The records in the order of a DataLoader's sampler, and a random number for each."""
    sampler = grain.samplers.IndexSampler(
        RECORDS, shard_options=grain.sharding.NoSharding(), shuffle=True, num_epochs=EPOCHS, seed=seed
    )
    entries = [sampler[i] for i in range(RECORDS * EPOCHS)]
    return [entry.record_key for entry in entries], [int(entry.rng.integers(1 << 30)) for entry in entries]


direct = {order for seed in SEEDS for order in epochs(dataset.shuffle(seed=seed))}
derived = {order for seed in SEEDS for order in epochs(dataset.seed(seed).shuffle())}
print(f"different orders of {len(SEEDS)} seeds x {EPOCHS} epochs: shuffle(seed=s) {len(direct)}, seed(s).shuffle() "
      f"{len(derived)}")
(orders, numbers), (next_orders, next_numbers) = sampled(0), sampled(1)
is_shifted = orders[RECORDS:] == next_orders[:-RECORDS], numbers[1:] == next_numbers[:-1]
print(f"IndexSampler: epochs of seed 1 are the next ones of seed 0: {is_shifted[0]}, also random numbers: "
      f"{is_shifted[1]}")
assert (len(direct), len(derived), *is_shifted) == (5, 9, True, True), "the behavior has changed"
PY
