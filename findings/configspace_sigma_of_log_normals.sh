#!/usr/bin/env bash
# ConfigSpace 1.2.2: a log-normal learning rate with sigma=1 is always 0.001, and one with sigma=0.5 varies more than
#   one with sigma=0.9.
#
# Expected: a larger sigma, "standard deviation of the normal distribution", gives values that vary more, here on the
#   scale of logarithms.
# Observed: with log=True sigma becomes its logarithm, and the sign is lost: the logarithms of the values have a
#   deviation of |log(sigma)|. sigma=1 is a deviation of 0, so all values are the mean to 4 digits; 0.5 and 2 are the
#   same; 0.9 is narrow, and 0.1 wide. Nothing is reported.
# Why it matters: 1 is the first sigma that one tries, "one factor of e". The search of the learning rate then tries
#   one value in all its trials and says that the others do not matter. To get a factor, give it itself: sigma=math.e.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q ConfigSpace==1.2.2 numpy==2.4.6 scipy==1.17.1
"$folder/venv/bin/python" - <<'PY'
import math
from importlib.metadata import version

import numpy as np
from ConfigSpace import ConfigurationSpace, NormalFloatHyperparameter

print({name: version(name) for name in ("ConfigSpace", "numpy", "scipy")})
deviations = {}
for sigma in (0.1, 0.5, 0.9, 1, 2, math.e):
    space = ConfigurationSpace(seed=0)
    space.add(NormalFloatHyperparameter("rate", mu=1e-3, sigma=sigma, lower=1e-9, upper=1e3, log=True))
    rates = np.array([float(draw["rate"]) for draw in space.sample_configuration(2000)])
    deviations[sigma] = np.log(rates).std()
    print(f"sigma {sigma:.3f}: from {rates.min():.3g} to {rates.max():.3g}, deviation of the logarithms "
          f"{deviations[sigma]:.4f}, |log(sigma)| {abs(math.log(sigma)):.4f}")
    assert abs(deviations[sigma] - abs(math.log(sigma))) < 0.1, "the behavior has changed"
assert deviations[1] < 1e-3 < deviations[0.9] < deviations[0.5] < deviations[0.1], "the behavior has changed"
PY
