#!/usr/bin/env bash
# fastparquet 2026.9.0: lists of texts that polars, DuckDB or, in large files, pyarrow wrote are all read as None.
#
# Expected: the column is read as lists of strings. The documentation has this very column, tags, as its example of
#   lists that are handled, and says that those of structs, maps or lists are left out or None. Encodings that
#   fastparquet lacks raise NotImplementedError.
# Observed: lists of texts are read where the page has a dictionary. In plain pages, which polars 2.1.0 and DuckDB 2.0.1
#   write, each list is None, without a warning. pyarrow begins with a dictionary and goes on without one after about a
#   megabyte: a file of 5,000 rows is right, of 20,000 the last 8,000 are None. Lists of numbers are right, and a map
#   from texts is one of its keys if there is no dictionary.
# Why it matters: the links, tags, languages or authors of a document are such lists. With None for "has none", filters
#   and joins over a corpus quietly see a part of it; a test with a few rows of pyarrow passes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q fastparquet==2026.9.0 pyarrow==26.0.1 polars==2.1.0 \
  duckdb==2.0.1 pandas==3.1.1 numpy==2.4.6
"$folder/venv/bin/python" - "$folder/file.parquet" <<'PY'
import sys
import warnings
from importlib.metadata import version

import duckdb
import fastparquet
import polars
import pyarrow
import pyarrow.parquet

PATH = sys.argv[1]
print({name: version(name) for name in ("fastparquet", "pyarrow", "polars", "duckdb")})
SMALL = [["en", "de"], ["fr"], ["en"]]


def read() -> list:
    """The column as fastparquet reads it; pyarrow reads all lists."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = fastparquet.ParquetFile(PATH).to_pandas()["tags"].tolist()
    assert None not in pyarrow.parquet.read_table(PATH)["tags"].to_pylist()
    return found


writers = {
    "polars": lambda: polars.DataFrame({"tags": SMALL}).write_parquet(PATH),
    "DuckDB": lambda: duckdb.sql("select unnest([['en', 'de'], ['fr'], ['en']]) tags").write_parquet(PATH),
    "pyarrow, no dictionary": lambda: pyarrow.parquet.write_table(
        pyarrow.table({"tags": SMALL}), PATH, use_dictionary=False
    ),
}
for name, write in writers.items():
    write()
    found = read()
    print(f"{name}: {SMALL} is {found}")
    assert found == [None] * 3, "the behavior has changed"
for rows in (3, 5_000, 20_000):
    links = [[f"https://example.org/{row}/{i}" for i in range(3)] for row in range(rows)]
    pyarrow.parquet.write_table(pyarrow.table({"tags": links}), PATH)
    found = read()
    lost = sum(each is None for each in found)
    print(f"pyarrow, {rows:,} rows: {lost:,} are None")
    assert all(each is None or list(each) == right for each, right in zip(found, links, strict=True))
    assert (lost > 5_000) == (rows == 20_000) and (lost == 0) == (rows < 20_000), "the behavior has changed"
numbers = [[1, 2], [3], [4]]
pyarrow.parquet.write_table(pyarrow.table({"tags": numbers}), PATH, use_dictionary=False)
assert [list(each) for each in read()] == numbers
maps = pyarrow.array([[("a", 1)], [("b", 2)]], pyarrow.map_(pyarrow.string(), pyarrow.int64()))
pyarrow.parquet.write_table(pyarrow.table({"tags": maps}), PATH, use_dictionary=False)
print("maps", maps.to_pylist(), "are", read())
assert read() == ["a", "b"], "the behavior has changed"
PY
