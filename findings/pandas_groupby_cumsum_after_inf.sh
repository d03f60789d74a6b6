#!/usr/bin/env bash
# pandas 3.1.1: the running sum by groups of [1, inf, 2, 3] is [1, inf, NaN, NaN]; without groups it is inf to the end.
#
# Expected: a running sum by group is the running sum of each group, as groupby(...).sum() is the sum, inf, and as apply
#   with the Series' own cumsum gives. NumPy and polars have inf too.
# Observed: from the value after inf on it is NaN, for float32 and float64, by the correction of rounding errors, which
#   is inf - inf. So is a sum that passes the largest float and comes back. cummax, cummin and cumprod by group keep
#   inf, and the documentation of both says "Cumulative sum for each group" and no more.
# Why it matters: sums of losses or of negative log-likelihoods by document or run have inf where a probability was 0.
#   NaN is skipped by means and filters where inf would have shown; "the document with the worst loss" is another one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q pandas==3.1.1 polars==2.1.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import pandas as pd
import polars as pl

print("pandas", pd.__version__, "polars", pl.__version__, "numpy", np.__version__)
VALUES = [1.0, np.inf, 2.0, 3.0]
for dtype in ("float32", "float64"):
    frame = pd.DataFrame({"document": ["a"] * 4 + ["b"], "loss": np.array([*VALUES, 5], dtype)})
    groups = frame.groupby("document")["loss"]
    found = groups.cumsum().tolist()
    alone = groups.apply(lambda losses: losses.cumsum()).tolist()
    other = pl.from_dict({"document": ["a"] * 4 + ["b"], "loss": frame["loss"].to_numpy()})
    other = other.select(pl.col("loss").cum_sum().over("document"))["loss"].to_list()
    print(f"{dtype}: by groups {found}, one Series {alone}, polars {other}")
    assert alone == other == [1, np.inf, np.inf, np.inf, 5] and groups.sum()["a"] == np.inf
    assert found[:2] == [1, np.inf] and np.isnan(found[2:4]).all() and found[4] == 5, "the behavior has changed"
    assert groups.cummax().tolist() == [1, np.inf, np.inf, np.inf, 5]
PY
