#!/usr/bin/env bash
# polars 2.1.0: mean_horizontal of UInt8 200 and 100 is 22.0.
#
# Expected: a mean lies between the smallest and the largest value, and the result, a Float64, has room for it. The mean
#   of a column is right, and sum() of a column of 8 or 16 bits is widened to Int64.
# Observed: the sum across columns is computed in the columns' type, wraps around, and is then divided as a float: 300
#   is 44 in UInt8, and 44 / 2 = 22. Int8 gives a negative mean of positive values, and UInt32 wraps at 2^32.
#   sum_horizontal wraps likewise. No warning, and the dtype Float64 of the result hides the cause.
# Why it matters: scores of 0 to 255 and token counts in UInt32 (the type of str.len_bytes) are averaged over several
#   classifiers or shards by a column each, and a filter on the mean drops the best documents of a GPT-2 corpus.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q polars==2.1.0
"$folder/venv/bin/python" - <<'PY'
import polars as pl

print("polars", pl.__version__)
cases = {pl.UInt8: (200, 100), pl.Int8: (100, 60), pl.UInt32: (3_000_000_000, 2_000_000_000), pl.Float32: (200, 100)}
found = {}
for dtype, values in cases.items():
    frame = pl.DataFrame({"a": values[:1], "b": values[1:]}, schema={"a": dtype, "b": dtype})
    result = frame.select(mean=pl.mean_horizontal("a", "b"), total=pl.sum_horizontal("a", "b"))
    of_column = pl.Series(values, dtype=dtype).mean()
    found[dtype] = result["mean"][0]
    print(f"{dtype} {values}: mean_horizontal {found[dtype]} ({result.schema['mean']}), sum_horizontal "
          f"{result['total'][0]}, mean of a column {of_column}")
    assert of_column == sum(values) / 2, "the behavior has changed"
expected = {pl.UInt8: 22.0, pl.Int8: -48.0, pl.UInt32: 352_516_352.0, pl.Float32: 150.0}
assert found == expected, "the behavior has changed"
PY
