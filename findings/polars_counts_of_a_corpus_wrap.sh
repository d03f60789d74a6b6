#!/usr/bin/env bash
# polars 2.1.0: str.len_bytes().sum() of 5,000 texts of a megabyte is 0.9 GB instead of 5.2 GB.
#
# Expected: the sum of lengths is the length of all texts. The sum of a column of 8 or 16 bits is widened to Int64 "to
#   prevent overflow issues", says the documentation, and the mean of the column is right.
# Observed: str.len_bytes, str.len_chars, list.len and pl.len give UInt32, and sum, cum_sum and the sum of groups stay
#   in that type and start again at 0 after 4,294,967,295, without a word. The same sum in the SQL interface wraps
#   too; Int32 becomes negative. mean() times the number of rows is the true sum, for it is computed in Float64.
# Why it matters: the first question to a corpus is how many bytes, characters or tokens it has. OpenWebText has 38
#   GB, and the answer is a plausible small number; shares of sources and budgets computed from it are wrong. A cast
#   to Int64 before the sum helps.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q polars==2.1.0
"$folder/venv/bin/python" - <<'PY'
import polars as pl

print("polars", pl.__version__)
SIZE, COUNT = 1 << 20, 5_000
# The rows share the memory of one text.
texts = pl.DataFrame({"text": ["x" * SIZE]}).select(pl.col("text").gather([0] * COUNT), source=pl.lit("web"))
length = pl.col("text").str.len_bytes()
found = texts.select(total=length.sum(), running=length.cum_sum().last(), mean=length.mean())
of_source = texts.group_by("source").agg(total=length.sum())["total"][0]
of_sql = texts.select(n=length).sql("select sum(n) as total from self")["total"][0]
cast = texts.select(length.cast(pl.Int64).sum()).item()
total, running, mean = found.row(0)
print(f"sum {total:,} ({found.schema['total']}), cum_sum {running:,}, of the group {of_source:,}, SQL {of_sql:,}")
print(f"mean * rows {mean * COUNT:,.0f}, sum of Int64 {cast:,}")
assert cast == mean * COUNT == SIZE * COUNT
assert total == running == of_source == of_sql == SIZE * COUNT % 2**32, "the behavior has changed"
assert pl.Series([2**30] * 3, dtype=pl.Int32).sum() == -(2**30), "the behavior has changed"
assert pl.Series([30_000] * 3, dtype=pl.Int16).sum() == 90_000
PY
