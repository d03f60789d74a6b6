#!/usr/bin/env bash
# grain 0.2.18: IndexSampler(shuffle=True) with 3 shards gives each process the same third of the records in every
#   epoch.
#
# Expected: "shuffle: Whether to globally shuffle the dataset", says the docstring. The records are mixed first and
#   then divided, as torch's DistributedSampler does, so that each process sees others in each epoch and with each
#   seed.
# Observed: the records are divided into contiguous parts first, and each part is shuffled for itself. Of 10 records
#   the first process has 0, 1 and 2 for ever, the last one 6, 7 and 8. With drop_remainder=True record 9 is left out
#   in every epoch and with every seed. Without sharding the shuffle is global.
# Why it matters: corpora are sorted by source, language or date. One process then trains on code only and another on
#   books, every batch has the same mixture by position, and results change with the number of processes. The records
#   at the end are never seen.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q grain==0.2.18 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - 2> "$folder/log" <<'PY' || { cat "$folder/log"; exit 1; }
from importlib.metadata import version

import grain.python as grain

print("grain", version("grain"))
RECORDS, SHARDS, EPOCHS = 10, 3, 4


def epochs(shard_options: grain.ShardOptions, seed: int) -> list[list[int]]:
    """The records that one process reads in each epoch."""
    sampler = grain.IndexSampler(
        num_records=RECORDS, shard_options=shard_options, shuffle=True, seed=seed, num_epochs=EPOCHS
    )
    read = list(grain.DataLoader(data_source=list(range(RECORDS)), sampler=sampler, worker_count=0))
    size = len(read) // EPOCHS
    return [read[i * size : (i + 1) * size] for i in range(EPOCHS)]


seen = set()
for seed in (1, 2):
    whole = epochs(grain.NoSharding(), seed)
    print(f"seed {seed}, one process: {whole[:2]}")
    assert all(sorted(epoch) == list(range(RECORDS)) for epoch in whole) and len({tuple(epoch) for epoch in whole}) > 1
    for shard in range(SHARDS):
        found = epochs(grain.ShardOptions(shard, SHARDS, drop_remainder=True), seed)
        print(f"seed {seed}, process {shard}: {found}")
        part = list(range(shard * 3, shard * 3 + 3))
        assert all(sorted(epoch) == part for epoch in found), "the behavior has changed"
        seen.update(*found)
assert 9 not in seen, "the behavior has changed"
PY
