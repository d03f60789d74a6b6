#!/usr/bin/env bash
# JAX 0.10.1: one in 8 million draws of jax.random.geometric is 2,147,483,647, for any p; jax.random.rayleigh gives inf.
#
# Expected: with p = 0.1 a draw above 400 happens once in 2 * 10^18. The mean of many draws is 1 / p = 10.
# Observed: the draw is made of log(u) with a uniform u, and JAX's u is 0 with a probability of 2^-23. The infinity is
#   converted to the largest integer. The mean of 30 million draws is several hundred, and with p = 0.9, where no draw
#   should ever be above 50, it is the same number that comes out. jax.random.rayleigh takes the square root of the
#   same logarithm, and is inf. exponential, gumbel, pareto and weibull_min take care that u is not 0.
# Why it matters: geometric draws are lengths: of the spans that a model has to fill in, of documents in synthetic
#   data, of the waits between failures. A batch of 512 times 1,024 has one with a chance of 6%. Clip the draws.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import jax
import numpy as np

print("jax", jax.__version__, "numpy", np.__version__)
COUNT = 30_000_000
wrong = infinite = 0
for seed in range(3):
    key = jax.random.key(seed)
    for p in (0.1, 0.9):
        draws = np.sort(np.asarray(jax.random.geometric(key, p, (COUNT,))))
        large = int((draws > 1_000).sum())
        wrong += large
        print(
            f"seed {seed}, p {p}: mean {draws.mean():.3f}, without {large} draws {draws[: COUNT - large].mean():.3f}, "
            f"the largest {draws[-1]:,}, then {draws[COUNT - large - 1]}"
        )
        assert large == 0 or draws[-large] == np.iinfo(np.int32).max, "the behavior has changed"
        assert abs(draws[: COUNT - large].mean() - 1 / p) < 0.02
    rayleigh = np.asarray(jax.random.rayleigh(key, 1.0, (COUNT,)))
    infinite += int(np.isinf(rayleigh).sum())
    exponential = np.asarray(jax.random.exponential(key, (COUNT,)))
    print(f"seed {seed}: {np.isinf(rayleigh).sum()} infinite of rayleigh, {np.isinf(exponential).sum()} of exponential")
    assert np.isfinite(exponential).all()
print(f"expected of {6 * COUNT:,} draws at a chance of 2^-23: {6 * COUNT / 2**23:.1f}; found {wrong}")
assert wrong > 5 and infinite > 2, "the behavior has changed"
PY
