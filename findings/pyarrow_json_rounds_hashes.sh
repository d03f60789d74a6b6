#!/usr/bin/env bash
# pyarrow 26.0.1: one large hash of 64 bits in a JSON Lines file rounds all integers of the column.
#
# Expected: "JSON numbers convert to int64, falling back to float64 if a non-integer is encountered", says the
#   documentation. An integer that int64 cannot hold becomes uint64, or raises, as it does in pyarrow.array([2**63]).
# Observed: one integer above 2^63 - 1 makes the column float64 without a word, in all blocks of the file, and so every
#   value above 2^53 is rounded: 17446744073709551615 and 17446744073709551000 become the same number, and
#   9007199254740993 becomes ...992. A file whose hashes are all below 2^63 is exact. load_dataset("json") of Hugging
#   Face 5.2.0 reads with pyarrow and does the same.
# Why it matters: corpora carry hashes as ids (xxh64, bands of MinHash, SimHash), half of them above 2^63. After
#   reading, ids match nothing in the index they came from, and near hashes are duplicates to a deduplication. A schema
#   with uint64 reads them exactly, and polars 2.1.0 does so by itself.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q pyarrow==26.0.1
"$folder/venv/bin/python" - "$folder/ids.jsonl" <<'PY'
import sys

import pyarrow
import pyarrow.json

print("pyarrow", pyarrow.__version__)
FILE = sys.argv[1]


def read(hashes: list[int], **options: object) -> pyarrow.ChunkedArray:
    """The column of a file with these hashes."""
    with open(FILE, "w") as file:
        file.writelines(f'{{"hash": {each}}}\n' for each in hashes)
    return pyarrow.json.read_json(FILE, **options)["hash"]


hashes = [17446744073709551615, 17446744073709551000, 9007199254740993]
column = read(hashes)
print(f"{hashes}: {column.type} {[int(each) for each in column.to_pylist()]}, {len(column.unique())} different")
expected = [17446744073709551616, 17446744073709551616, 9007199254740992]
assert column.type == pyarrow.float64() and column.to_pylist() == expected, "the behavior has changed"

small = [9007199254740993 + 2 * line for line in range(100_000)]  # more than a block of 1 MiB
for last in (2**63 - 1, 2**63):
    column = read([*small, last])
    found = [int(each) for each in column[: len(small)].to_pylist()]
    wrong = sum(a != b for a, b in zip(found, small, strict=True))
    print(f"{len(small):,} odd integers, then {last}: {column.type} in {column.num_chunks} blocks, {wrong:,} changed")
    assert (column.num_chunks > 1) and wrong == (len(small) if last == 2**63 else 0), "the behavior has changed"

schema = pyarrow.schema({"hash": pyarrow.uint64()})
column = read(hashes, parse_options=pyarrow.json.ParseOptions(explicit_schema=schema))
print(f"with a schema: {column.type} {column.to_pylist()}")
assert column.to_pylist() == hashes
PY
