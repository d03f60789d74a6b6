"""Counts and sizes as the programs print them."""

from collections import Counter

from estimator.corpus.containers import HIDDEN
from estimator.corpus.file_search import counted
from estimator.quantities import numbered, size


def test_counts_have_the_right_number():
    assert [numbered(count, "file") for count in (0, 1, 2000)] == ["0 files", "1 file", "2,000 files"]
    reasons = Counter({HIDDEN: 1, ".md files": 2, "exact duplicates": 1, "conversations with replies of weight 0": 1})
    shown = "1 hidden file, 2 .md files, 1 exact duplicate, 1 conversation with replies of weight 0"
    assert counted(reasons) == shown


def test_sizes_have_three_digits():
    sizes = {0: "0 B", 12: "12 B", 999.6: "1 kB", 48_213: "48.2 kB", 999_700: "1 MB", 3.2e9: "3.2 GB", 5e12: "5,000 GB"}
    assert {n_bytes: size(n_bytes) for n_bytes in sizes} == sizes
