#!/usr/bin/env bash
# pandas 3.1.1 with numexpr 2.14.2: (scores == 0.1) is True for 1,000,000 rows of float32, and False for 1,000,001.
#
# Expected: a comparison of a column with a number looks at each row; other rows do not change it. numexpr, if it is
#   installed, makes pandas quicker, and the documentation recommends it for that.
# Observed: above a million elements pandas gives the operation to numexpr, which takes 0.1 for a double where NumPy
#   takes it for a float32. So `==`, `>` and `<=` of the stored number change their answer; scores * 0.1 becomes float64
#   (pandas-dev/pandas#61951). int32 + 1 wraps in short columns and not in long ones, and int32 + float32 is float64 in
#   short columns, float32 in long ones, where 16,777,217 becomes 16,777,216. With compute.use_numexpr off, length
#   changes nothing. The documentation speaks of speed only.
# Why it matters: thresholds for quality or language scores (float32 from a classifier) are tried on a sample and
#   applied to the corpus. "score > 0.1" then keeps exactly the documents that it dropped in the sample, and numexpr
#   need only be in the environment, as Anaconda has it and PyTables and blosc2 bring it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q pandas==3.1.1 numexpr==2.14.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numexpr
import numpy as np
import pandas as pd

print("pandas", pd.__version__, "numexpr", numexpr.__version__, "numpy", np.__version__)


def answers(rows: int) -> dict[str, object]:
    """What the first row of a column of equal numbers gives."""
    scores = pd.Series(np.full(rows, 0.1, np.float32))
    counts, large = pd.Series(np.full(rows, 2**31 - 1, np.int32)), pd.Series(np.full(rows, 2**24 + 1, np.int32))
    found = {
        "scores == 0.1": (scores == 0.1).iloc[0].item(),
        "scores > 0.1": (scores > 0.1).iloc[0].item(),
        "scores * 0.1": (scores * 0.1).dtype.name,
        "int32 + 1": (counts + 1).iloc[0].item(),
        "int32 + float32": int((large + scores.round()).iloc[0].item()),
    }
    assert (scores == 0.1).nunique() == 1
    return found


short, long = answers(1_000_000), answers(1_000_001)
for name in short:
    print(f"{name}: {short[name]} in 1,000,000 rows, {long[name]} in 1,000,001 rows")
    assert short[name] != long[name], "the behavior has changed"
assert short["scores == 0.1"] and not long["scores == 0.1"], "the behavior has changed"
pd.set_option("compute.use_numexpr", False)
assert answers(1_000_001) == short
PY
