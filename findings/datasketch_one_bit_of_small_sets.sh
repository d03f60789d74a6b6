#!/usr/bin/env bash
# datasketch 2.0.0: bBitMinHash, with one bit as by default, calls half of all pairs of different words identical.
#
# Expected: sets without a common element have similarity 0, and 128 permutations leave an error of 0.09 with one bit,
#   however small the sets are: each permutation of two different elements gives bits that are equal by chance.
# Observed: since 2.0.0 the default permutations are a * h + b modulo 2^32 with an odd a. The lowest bit of that is the
#   lowest bit of h plus that of b, so for two sets of one element each the bits of all permutations agree, or none do:
#   the similarity is 1.0 or -1.0. Two bits call a fifth of such pairs identical, four bits a tenth, and sets of two
#   elements are affected as well. From 30 elements on the error is as expected. scheme="legacy", the only one
#   before 2.0.0, is right, and so is MinHash itself. The documentation speaks of "some loss of accuracy".
# Why it matters: titles, URLs, chat turns and lines of code have few shingles. A deduplication that keeps one bit per
#   value, to hold a corpus in memory, drops short documents that have nothing in common.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q datasketch==2.0.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
from importlib.metadata import version

import numpy as np
from datasketch import MinHash, bBitMinHash

PAIRS = 200
print("datasketch", version("datasketch"), "numpy", np.__version__, "scheme", MinHash().scheme)


def sketch(elements: list[str], **options: object) -> MinHash:
    """The MinHash of a set, of 128 permutations."""
    result = MinHash(num_perm=128, **options)
    result.update_batch([element.encode() for element in elements])
    return result


def similarities(size: int, bits: int, **options: object) -> np.ndarray:
    """The estimates for pairs of sets without a common element."""
    found = []
    for pair in range(PAIRS):
        one = sketch([f"one {pair} {i}" for i in range(size)], **options)
        other = sketch([f"other {pair} {i}" for i in range(size)], **options)
        assert one.jaccard(other) < 0.05
        found.append(bBitMinHash(one, bits).jaccard(bBitMinHash(other, bits)))
    return np.array(found)


cat, dog, bird = (bBitMinHash(sketch([word])) for word in ("cat", "dog", "bird"))
words = cat.jaccard(dog), cat.jaccard(bird), dog.jaccard(bird)
print("cat and dog, cat and bird, dog and bird:", words)
assert set(words) <= {-1.0, 1.0}, "the behavior has changed"
for size, bits in ((1, 1), (1, 2), (1, 4), (2, 1), (3, 1), (30, 1)):
    found, legacy = similarities(size, bits), similarities(size, bits, scheme="legacy")
    print(f"{size} elements each, {bits} bits: error {found.std():.2f}, {(found > 0.9).mean():.1%} of pairs above 0.9; "
          f"legacy: error {legacy.std():.2f}, {(legacy > 0.9).mean():.1%}")
    assert legacy.std() < 0.12 and legacy.max() < 0.5
    if size == 1:
        assert (found > 0.9).mean() > {1: 0.3, 2: 0.1, 4: 0.02}[bits], "the behavior has changed"
    if size == 30:
        assert found.std() < 0.12
assert set(np.round(similarities(1, 1), 6)) == {-1.0, 1.0}, "the behavior has changed"
PY
