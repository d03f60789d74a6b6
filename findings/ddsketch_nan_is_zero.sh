#!/usr/bin/env bash
# ddsketch 3.0.1: NaN is counted as 0, so that the median of 1, 2, 3 and three NaN is 0.
#
# Expected: NaN is left out, or an error, as for inf, which raises OverflowError. Quantiles are promised within 1 % of
#   the exact ones.
# Observed: a value that is neither above nor below 0 goes to the bucket of zeros. The median and all lower quantiles
#   are 0 or too small, the count is that of all values, and sum and avg are NaN. The documentation does not speak of
#   NaN. datasketches 5.2.0 and NumPy's nanmedian leave it out.
# Why it matters: latencies, losses and rates become NaN by 0 / 0 in an idle interval. The sketch reports that half of
#   all requests took no time, or that the best losses are 0, and a merged sketch of many servers keeps it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q ddsketch==3.0.1 datasketches==5.2.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import math
from importlib.metadata import version

import datasketches
import numpy as np
from ddsketch import DDSketch

print({name: version(name) for name in ("ddsketch", "datasketches", "numpy")})
found = {}
for name, values in {"plain": [1.0, 2.0, 3.0], "with NaN": [1.0, 2.0, 3.0, math.nan, math.nan, math.nan]}.items():
    sketch, other = DDSketch(0.01), datasketches.kll_floats_sketch(200)
    for value in values:
        sketch.add(value)
        other.update(value)
    found[name] = [sketch.get_quantile_value(q) for q in (0, 0.25, 0.5, 1)]
    print(f"{name}: quantiles 0, 0.25, 0.5 and 1 are {found[name]}, count {sketch.count}, sum {sketch.sum}; median by "
          f"datasketches {other.get_quantile(0.5)}, by NumPy {np.nanmedian(values)}")
    assert other.get_quantile(0.5) == np.nanmedian(values) == 2
    assert sketch.count == len(values), "the behavior has changed"
assert np.allclose(found["plain"], [1, 1, 2, 3], rtol=0.01)
assert found["with NaN"][:3] == [0, 0, 0] and abs(found["with NaN"][3] - 3) < 0.03, "the behavior has changed"
PY
