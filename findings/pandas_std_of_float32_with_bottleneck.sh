#!/usr/bin/env bash
# pandas 3.1.1 with bottleneck 1.6.0: the standard deviation of 2 million values between 10000 and 10001 is 183.
#
# Expected: 0.5, as NumPy, groupby(...).std(), sem() and pandas without bottleneck give it, for float32 too. bottleneck
#   is optional, for speed, and the documentation recommends it for that.
# Observed: where bottleneck is installed, std, var and describe of float32 go through it. It adds up in one float32
#   number, so from some 10,000 values on the mean is wrong, and std is the distance to it: 0.506 of 2,000 values, 10 of
#   200,000, 183 of 2 million. sum and mean are right, as pandas does not give those to bottleneck for this reason; the
#   documentation names no exception. compute.use_bottleneck=False gives 0.5, and so does float64.
# Why it matters: norms, times and learning curves of a training are float32, and bottleneck comes with xarray[accel]
#   and with Anaconda. Error bars and z-scores of outliers are wrong by the number of rows, in one environment and not
#   another.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q pandas==3.1.1 bottleneck==1.6.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import bottleneck
import numpy as np
import pandas as pd

print("pandas", pd.__version__, "bottleneck", bottleneck.__version__, "numpy", np.__version__)
found = {}
for size in (2_000, 200_000, 2_000_000):
    series = pd.Series(np.resize(np.array([1e4, 1e4 + 1], np.float32), size))
    others = {
        "NumPy": series.to_numpy().std(ddof=1),
        "groupby": series.groupby(np.zeros(size, int)).std().iloc[0],
        "sem": series.sem() * size**0.5,
        "float64": series.astype("float64").std(),
    }
    with pd.option_context("compute.use_bottleneck", False):
        others["without bottleneck"] = series.std()
    assert np.allclose(list(others.values()), 0.5, rtol=1e-2) and abs(series.mean() - 10_000.5) < 1
    found[size] = series.std()
    assert np.isclose(found[size], series.describe()["std"]) and np.isclose(found[size], series.var() ** 0.5)
    print(f"{size:,} values: std {found[size]:.4g};", ", ".join(f"{name} {others[name]:.4g}" for name in others))
assert found[200_000] > 5 and found[2_000_000] > 50, "the behavior has changed"
PY
