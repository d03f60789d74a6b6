#!/usr/bin/env bash
# duckdb 2.0.1: "where isnan(loss)" finds no NaN in a Parquet file of pyarrow or polars, though "select *" shows it.
#
# Expected: a filter gives the rows for which it is true, in whatever format the table is kept. In DuckDB NaN is larger
#   than all numbers and equal to itself, so "loss > 5" finds it, as in a table of DuckDB.
# Observed: the format keeps NaN out of minimum and maximum, and says that readers must not use them when looking for NaN.
#   DuckDB does: it skips row groups, and takes isnan() and "loss = 'nan'" for false, by the largest number. max(loss)
#   is a number. Files of DuckDB itself have no maximum where there is a NaN, so the same query finds it there.
#   read_parquet(..., can_have_nan=true) is right; it is off since NaN is rare (duckdb/duckdb#25521, #25747). pyarrow
#   26.0.1 does it for ~(field <= 5), which for a table in memory keeps NaN. polars 2.1.0 finds all rows.
# Why it matters: scores, losses and norms of a run are in such files, and the query that asks for the broken ones says
#   that there are none.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q duckdb==2.0.1 polars==2.1.0 pyarrow==26.0.1
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import duckdb
import polars
import pyarrow
import pyarrow.dataset
import pyarrow.parquet

print("duckdb", duckdb.__version__, "polars", polars.__version__, "pyarrow", pyarrow.__version__)
table = pyarrow.table({"step": [0, 1, 2, 3, 4, 5], "loss": [3.0, 4.0, float("nan"), 7.0, 8.0, 9.0]})
pyarrow.parquet.write_table(table, "pyarrow.parquet", row_group_size=3)
polars.from_arrow(table).write_parquet("polars.parquet", row_group_size=3)
duckdb.sql("copy (select * from 'pyarrow.parquet') to 'duckdb.parquet' (format parquet)")


def steps(source: str, condition: str) -> list[int]:
    """The steps for which DuckDB finds the condition true."""
    return [step for (step,) in duckdb.sql(f"select step from {source} where {condition} order by step").fetchall()]


conditions = {"isnan(loss)": [2], "loss = 'nan'::double": [2], "loss > 5": [2, 3, 4, 5], "not (loss <= 5)": [2, 3, 4, 5]}
for condition, right in conditions.items():
    places = {f"{name}'s file": f"'{name}.parquet'" for name in ("pyarrow", "polars", "duckdb")}
    places["can_have_nan"] = "read_parquet('pyarrow.parquet', can_have_nan=true)"
    duckdb.register("table", table)
    places["memory"] = '"table"'
    found = {name: steps(source, condition) for name, source in places.items()}
    print(f"{condition}: {found}")
    missed = [step for step in right if step != 2]
    assert found["pyarrow's file"] == found["polars's file"] == missed, "the behavior has changed"
    assert found["duckdb's file"] == found["can_have_nan"] == found["memory"] == right
print("select *:", duckdb.sql("from 'pyarrow.parquet'").fetchall()[2])
largest = [duckdb.sql(f"select max(loss) from {source}").fetchall()[0][0] for source in ("'pyarrow.parquet'", '"table"')]
print("max(loss) of the file and of the table in memory:", largest)
assert largest[0] == 9 and largest[1] != largest[1], "the behavior has changed"

condition = ~(pyarrow.dataset.field("loss") <= 5)
file, memory = (
    each.to_pylist() for each in (
        pyarrow.dataset.dataset("pyarrow.parquet").to_table(filter=condition)["step"], table.filter(condition)["step"]
    )
)
lazy = polars.scan_parquet("pyarrow.parquet").filter(~(polars.col("loss") <= 5)).collect()["step"].to_list()
print(f"pyarrow, ~(loss <= 5): file {file}, memory {memory}; polars, file: {lazy}")
assert file == [3, 4, 5] and memory == lazy == [2, 3, 4, 5], "the behavior has changed"
PY
