#!/usr/bin/env bash
# polars 2.1.0: the entropy of the probabilities 0.5, 0.5 and 0 is NaN; SciPy's is 1 bit.
#
# Expected: an outcome that never happens adds nothing to the entropy, as 0 * log(0) is 0 by its limit and in every
#   textbook. The documentation gives the formula and
#   says nothing of zeros.
# Observed: one zero makes the result NaN, of probabilities, of counts, and in each group of group_by. In a mean over
#   groups the NaN goes on; there is no null, so drop_nulls keeps it.
# Why it matters: counts of the languages, sources or characters of a document, padded with zeros where one does not
#   occur, are the usual input, and low entropy is a filter for repetitive text in a GPT-2 corpus. polars takes NaN
#   for greater than every number: a filter "entropy > 3" keeps exactly the documents with zeros.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q polars==2.1.0 scipy==1.17.1
"$folder/venv/bin/python" - <<'PY'
import math

import polars as pl
import scipy
import scipy.stats

print("polars", pl.__version__, "scipy", scipy.__version__)
cases = {"probabilities": [0.5, 0.5, 0.0], "counts": [7, 7, 0], "one outcome": [9, 0], "no zero": [0.5, 0.25, 0.25]}
for name, values in cases.items():
    found, expected = pl.Series(values).entropy(base=2), scipy.stats.entropy(values, base=2)
    print(f"{name} {values}: polars {found}, SciPy {expected}")
    if 0 in values:
        assert math.isnan(found) and math.isfinite(expected), "the behavior has changed"
    else:
        assert math.isclose(found, expected)
documents = pl.DataFrame({"document": ["a"] * 3 + ["b"] * 3, "count": [9, 1, 0, 3, 3, 3]})
entropies = documents.group_by("document").agg(entropy=pl.col("count").entropy(base=2))
kept = entropies.filter(pl.col("entropy") > 1.58)["document"].to_list()
print(entropies.sort("document").rows(), "with more than 1.58 bits:", sorted(kept))
assert sorted(kept) == ["a", "b"], "the behavior has changed"
PY
