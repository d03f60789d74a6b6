#!/usr/bin/env bash
# numpy-groupies 0.16.0: where numba is installed, `aggregate(..., "var")` of float32 values can be negative, and "std"
#   is NaN; without numba the same call gives the right number.
#
# Expected: the variance of 10000, 10001, 10002 and 10003 is 1.25, whatever is installed.
# Observed: `aggregate` takes the compiled version if there is numba, which subtracts the square of the mean from the
#   mean of the squares, in float32: -2.25, and NaN as the standard deviation. `aggregate_np` gives 1.25, as NumPy does.
# Why it matters: this is the usual package for statistics by group, such as step times by host or losses by domain. A
#   package that was installed for something else turns error bars into NaN.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip="$folder/venv/bin/pip --disable-pip-version-check install -q"
cat >"$folder/run.py" <<'PY'
import sys
from importlib.metadata import version

import numpy as np
import numpy_groupies

groups = np.zeros(4, int)
values = np.array([10000, 10001, 10002, 10003], np.float32)
variance = float(numpy_groupies.aggregate(groups, values, "var")[0])
deviation = float(numpy_groupies.aggregate(groups, values, "std")[0])
plain = float(numpy_groupies.aggregate_np(groups, values, "var")[0])
print("numpy-groupies", version("numpy-groupies"), sys.argv[1], "variance", variance, "deviation", deviation)
assert plain == values.var() == 1.25
if sys.argv[1] == "with numba:":
    assert variance == -2.25, "the behavior has changed"
    assert np.isnan(deviation), "the behavior has changed"
    assert numpy_groupies.aggregate(groups, values.astype(float), "var")[0] == 1.25
else:
    assert variance == 1.25, "the behavior has changed"
PY
$pip numpy-groupies==0.16.0 numpy==2.4.6
"$folder/venv/bin/python" "$folder/run.py" "without numba:"
$pip numba==0.68.1
"$folder/venv/bin/python" -W ignore "$folder/run.py" "with numba:"
