#!/usr/bin/env bash
# pyarrow 26.0.1: 0.0 and -0.0 are equal, and two groups, two values, and no partners of a join.
#
# Expected: values that are equal fall into one group, as in SQL, in pandas, in DuckDB, and in IEEE 754.
# Observed: pc.equal(0.0, -0.0) is true. Table.group_by gives two rows for them, unique and count_distinct count two,
#   is_in does not find one in a set with the other, and Table.join leaves the row of -0.0 without its partner. The keys
#   are hashed and compared by their bits.
# Why it matters: -0.0 comes out of rounding, of a negative number times zero, and of score - score in half of the
#   programs that write scores. Sums by score, the number of different values, and filters by a set are then wrong by
#   some rows, which a printed table shows as two equal keys at best. Add 0.0 to such a column first.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q pyarrow==26.0.1 pandas==3.0.0 duckdb==1.5.3 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PY'
import duckdb
import pandas
import pyarrow as pa
import pyarrow.compute as pc

print("pyarrow", pa.__version__, "pandas", pandas.__version__, "duckdb", duckdb.__version__)
table = pa.table({"score": [0.0, -0.0], "tokens": [1, 2]})
groups = table.group_by("score").aggregate([("tokens", "sum")]).to_pylist()
distinct, equal = pc.count_distinct(table["score"]).as_py(), pc.equal(0.0, -0.0).as_py()
found = pc.is_in(pa.array([-0.0]), value_set=pa.array([0.0])).to_pylist()
joined = table.join(pa.table({"score": [0.0], "name": ["zero"]}), "score")["name"].to_pylist()
print(f"equal: {equal}; groups {groups}; {distinct} distinct values; -0.0 is in [0.0]: {found}; joined {joined}")
frame = table.to_pandas().groupby("score")["tokens"].sum().tolist()
rows = duckdb.sql("select sum(tokens) from table group by score".replace("table", '"table"')).fetchall()
print(f"pandas: {frame}; duckdb: {rows}")
assert equal and frame == [3] and rows == [(3,)]
assert (len(groups), distinct, found, joined) == (2, 2, [False], ["zero", None]), "the behavior has changed"
zeros = table.set_column(0, "score", pc.add(table["score"], 0.0))
assert len(zeros.group_by("score").aggregate([("tokens", "sum")])) == 1
PY
