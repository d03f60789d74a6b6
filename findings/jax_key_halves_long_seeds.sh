#!/usr/bin/env bash
# JAX 0.10.1: jax.random.key(7 * 2**32 + 3) is jax.random.key(3): the upper half of a seed of 64 bits is thrown away.
#
# Expected: the documentation of key and PRNGKey calls the seed "a 64- or 32-bit integer", and a key of threefry has 64
#   bits of data, so different seeds give different keys, or a seed that is too large raises, as 2**63 does.
# Observed: without jax_enable_x64, which is off unless set, the seed is cut to its lower 32 bits without a word: of a
#   Python integer, of NumPy's int64 and uint64, and for the generators rbg and unsafe_rbg. -1 and 2**63 - 1 are one
#   seed. fold_in cuts NumPy's integers in the same way and raises for a Python integer. With jax_enable_x64 the keys
#   differ, so the flag changes the random numbers. Only JAX's source and threads of its tracker (#4877) mention it.
# Why it matters: seeds are packed as run << 32 | worker, and then all runs are the same run. Among 100,000 seeds of 64
#   bits, from hashes or from the system, two give the same key with a chance of 69% (it should be below one in a
#   billion). Fold in the two halves one after the other.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
release=$("$folder/venv/bin/python" -c 'import sys; print("0.10.1" if sys.version_info < (3, 12) else "0.12.0.1")')
"$folder/venv/bin/pip" --disable-pip-version-check install -q "jax==$release"
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PY'
import hashlib

import jax
import numpy as np

print("jax", jax.__version__, "numpy", np.__version__)


def data(seed: int | np.integer, **options: object) -> list[int]:
    """The data of the key of a seed."""
    return jax.random.key_data(jax.random.key(seed, **options)).tolist()


workers = [[data(run << 32 | worker) for worker in range(4)] for run in range(3)]
for run, keys in enumerate(workers):
    print(f"run {run}, seeds run << 32 | worker: keys {keys}")
assert workers[0] == workers[1] == workers[2] == [[0, worker] for worker in range(4)], "the behavior has changed"
draws = [jax.random.normal(jax.random.key(run << 32 | 3), 3).tolist() for run in range(3)]
print(f"three numbers of worker 3 in run 0: {draws[0]}, in run 2: {draws[2]}")
assert draws[0] == draws[1] == draws[2]

seed = 7 << 32 | 3
for name, number in {"int": seed, "numpy.int64": np.int64(seed), "numpy.uint64": np.uint64(seed)}.items():
    for generator in ("threefry2x32", "rbg", "unsafe_rbg"):
        found, short = data(number, impl=generator), data(3, impl=generator)
        print(f"{seed} as {name}, {generator}: {found}, of seed 3 {short}")
        assert found == short, "the behavior has changed"
assert data(-1) == data(2**63 - 1), "the behavior has changed"
folded = [jax.random.key_data(jax.random.fold_in(jax.random.key(0), np.int64(number))) for number in (3, seed)]
assert (folded[0] == folded[1]).all(), "the behavior has changed"
for call in (lambda: jax.random.key(2**63), lambda: jax.random.fold_in(jax.random.key(0), seed)):
    try:
        call()
    except OverflowError as error:
        print("raises:", str(error)[:80])
    else:
        raise AssertionError("the behavior has changed")
with jax.enable_x64(True):
    print(f"with jax_enable_x64: {data(seed)}")
    assert data(seed) == [7, 3]

digests = [hashlib.sha256(b"%d" % number).digest() for number in range(100_000)]
seeds = np.array([int.from_bytes(digest[:8], "big", signed=True) for digest in digests])
keys = jax.random.key_data(jax.vmap(jax.random.key)(seeds))
different = len(np.unique(np.asarray(keys), axis=0))
print(f"100,000 hashes of 64 bits, {len(np.unique(seeds)):,} different, have {different:,} different keys")
assert len(np.unique(seeds)) == 100_000 > different, "the behavior has changed"
PY
