#!/usr/bin/env bash
# hyperopt 0.3.0: quniform("heads", 1, 16, 4) gives 0, and uniformint("layers", 1, 4) gives 1 and 4 half as often as 2
#   and 3.
#
# Expected: values between the two bounds; of integers each with the same chance, as hp.randint, Optuna and NumPy do.
# Observed: a real number between the bounds is drawn and then rounded to a multiple of q, as the documentation's
#   formula says without its consequence. 1 becomes 0, which is below the lower bound; quniform(1, 15, 4) gives 16,
#   and qloguniform(log 1, log 100, 16) gives 0 in half of its draws. At the ends only half an interval is rounded to
#   a value, so that they come half as often. TPE draws in the same way.
# Why it matters: 0 heads, layers or steps of warm-up are tried although the range excludes them, and fail or train
#   nothing. In a random search the smallest and the largest model get half the trials of the others, and the plot of
#   the best losses has its dips in the middle.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q hyperopt==0.3.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PY'
import collections
import math

import hyperopt
import numpy as np
from hyperopt import hp, pyll

print("hyperopt", hyperopt.__version__, "NumPy", np.__version__)
COUNT = 2000
spaces = {
    "quniform(1, 16, 4)": hp.quniform("heads", 1, 16, 4),
    "quniform(1, 15, 4)": hp.quniform("more", 1, 15, 4),
    "qloguniform(log 1, log 100, 16)": hp.qloguniform("width", 0, math.log(100), 16),
    "uniformint(1, 4)": hp.uniformint("layers", 1, 4),
    "randint(1, 5)": hp.randint("right", 1, 5),
}
shares = {}
for name, space in spaces.items():
    generator = np.random.default_rng(0)
    draws = collections.Counter(float(pyll.stochastic.sample(space, rng=generator)) for _ in range(COUNT))
    shares[name] = {value: count / COUNT for value, count in sorted(draws.items())}
    print(name, {value: f"{share:.1%}" for value, share in shares[name].items()})
assert 0.0 in shares["quniform(1, 16, 4)"] and 16.0 in shares["quniform(1, 15, 4)"], "the behavior has changed"
assert shares["qloguniform(log 1, log 100, 16)"][0.0] > 0.4, "the behavior has changed"
integers = shares["uniformint(1, 4)"]
assert max(integers[1.0], integers[4.0]) < 0.2, "the behavior has changed"
assert min(integers[2.0], integers[3.0]) > 0.3, "the behavior has changed"
assert all(0.22 < share < 0.28 for share in shares["randint(1, 5)"].values())
PY
