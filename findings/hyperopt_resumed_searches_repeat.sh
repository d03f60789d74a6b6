#!/usr/bin/env bash
# hyperopt 0.3.0: a search that goes on from saved trials, with the same seed, tries the same points again.
#
# Expected: 5 trials and then 5 more with the same Trials object are the 10 trials of one search, or at least others
#   than the first 5. fmin with trials_save_file is meant for a search that was interrupted.
# Observed: the generator starts anew with each call of fmin, and the points depend on it alone in a random search:
#   trials 6 to 10 are trials 1 to 5. With TPE, that is so for the first 20 trials, which are random ones; the trials
#   after them differ. With trials_save_file the same happens across processes. No seed at all, or another one per
#   call, helps.
# Why it matters: a program has its seed in its settings, and is started again with the same command after it was
#   stopped. Each trial, hours of training, is made twice, and the repeated losses look like a confirmation of the
#   first ones.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q hyperopt==0.3.0 numpy==2.4.6
cd "$folder"
cat > search.py <<'PY'
import sys

import hyperopt
import numpy as np
from hyperopt import hp, rand, tpe

count, kind = int(sys.argv[1]), sys.argv[2]
space = hp.loguniform("learning_rate", np.log(1e-5), np.log(1e-1))
for algorithm in (rand, tpe):
    hyperopt.fmin(
        lambda rate: float((np.log(rate) + 7) ** 2), space, algo=algorithm.suggest, max_evals=count,
        rstate=np.random.default_rng(0), trials_save_file=f"{algorithm.__name__.split('.')[-1]}-{kind}",
        show_progressbar=False,
    )
PY
"$folder/venv/bin/python" -W ignore search.py 5 stopped 2> log || { cat log; exit 1; }
"$folder/venv/bin/python" -W ignore search.py 10 stopped 2> log || { cat log; exit 1; }
"$folder/venv/bin/python" -W ignore search.py 10 whole 2> log || { cat log; exit 1; }
"$folder/venv/bin/python" -W ignore - <<'PY'
import pickle

import hyperopt

print("hyperopt", hyperopt.__version__)
for name in ("rand", "tpe"):
    stopped, whole = (
        [float(trial["misc"]["vals"]["learning_rate"][0]) for trial in pickle.load(open(f"{name}-{kind}", "rb")).trials]
        for kind in ("stopped", "whole")
    )
    print(f"{name}, stopped after 5 of 10:", [f"{rate:.1e}" for rate in stopped])
    print(f"{name}, in one go:", [f"{rate:.1e}" for rate in whole])
    assert len(set(whole)) == len(whole) == 10 and stopped[:5] == whole[:5]
    assert stopped[5:] == stopped[:5], "the behavior has changed"
PY
