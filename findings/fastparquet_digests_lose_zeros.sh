#!/usr/bin/env bash
# fastparquet 2026.9.0: one in 256 digests of a column of fixed length is read without its last byte, a zero.
#
# Expected: values of FIXED_LEN_BYTE_ARRAY(16) have 16 bytes, each any byte, says the format; pyarrow, polars and DuckDB
#   read them so. The documentation of fastparquet offers fixed_text to write them, for binary data "whose lengths
#   really are all the same or nearly so", and says nothing of what is cut when reading.
# Observed: zeros at the end of a value are gone: of 3,000 MD5 digests 10 have 15 bytes, whoever wrote the file. UUID 0
#   would be empty, and the bytes of an embedding that ends with 0.0 are 4 shorter. Columns of variable length are
#   whole. No warning.
# Why it matters: digests and UUIDs are the keys of documents. A join or a deduplication by them, against keys that
#   hashlib or another reader gives, misses 0.4 % of the documents, too few to be seen in a test; bytes.hex() has 30
#   letters then, and np.frombuffer of an embedding another shape.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q fastparquet==2026.9.0 pyarrow==26.0.1 polars==2.1.0 \
  duckdb==2.0.1 pandas==3.1.1 numpy==2.4.6
"$folder/venv/bin/python" - "$folder/file.parquet" <<'PY'
import hashlib
import sys
from importlib.metadata import version

import duckdb
import fastparquet
import pandas as pd
import polars
import pyarrow
import pyarrow.parquet

PATH = sys.argv[1]
print({name: version(name) for name in ("fastparquet", "pyarrow", "polars", "duckdb")})
digests = [hashlib.md5(str(i).encode(), usedforsecurity=False).digest() for i in range(3_000)]
ends = [digest for digest in digests if digest.endswith(b"\0")]


def shorter() -> int:
    """How many digests fastparquet reads without their end; pyarrow reads all as they are."""
    assert pyarrow.parquet.read_table(PATH)["digest"].to_pylist() == digests
    found = fastparquet.ParquetFile(PATH).to_pandas()["digest"].tolist()
    assert all(each == right.rstrip(b"\0") or each == right for each, right in zip(found, digests, strict=True))
    return sum(each != right for each, right in zip(found, digests, strict=True))


pyarrow.parquet.write_table(pyarrow.table({"digest": pyarrow.array(digests, pyarrow.binary(16))}), PATH)
assert polars.read_parquet(PATH)["digest"].to_list() == digests
assert [digest for (digest,) in duckdb.read_parquet(PATH).fetchall()] == digests
fixed = shorter()
fastparquet.write(PATH, pd.DataFrame({"digest": digests}), fixed_text={"digest": 16}, object_encoding="bytes")
own = shorter()
pyarrow.parquet.write_table(pyarrow.table({"digest": pyarrow.array(digests, pyarrow.binary())}), PATH)
variable = shorter()
print(f"shorter of {len(digests)} digests: {fixed}, {own} if fastparquet wrote them, {variable} of variable length")
assert fixed == own == len(ends) > 0 == variable, "the behavior has changed"
PY
