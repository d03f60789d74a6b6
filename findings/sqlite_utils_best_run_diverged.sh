#!/usr/bin/env bash
# sqlite-utils 4.2.1: of the losses 3.5, NaN and 2.5, order_by="loss" puts NaN first, as None, and the mean is 3.0.
#
# Expected: NaN is stored and read as NaN, as infinity is stored and read as infinity, or it is refused.
# Observed: SQLite has no NaN, and stores NULL for it without an error. NULL sorts before all numbers, so the "best"
#   run is the one that diverged, and avg() and count() leave it out. The table of types in the documentation of
#   Python's sqlite3 has float as REAL and no word on NaN. DuckDB keeps NaN and sorts it last.
# Why it matters: runs of experiments are kept in SQLite, by this library and under several trackers, and the best one
#   is asked for by "order by loss limit 1". Means over seeds are better the more seeds diverged.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q sqlite-utils==4.2.1 duckdb==2.0.1
"$folder/venv/bin/python" - <<'PY'
import math
import sqlite3
from importlib.metadata import version

import duckdb
import sqlite_utils

print("sqlite-utils", version("sqlite-utils"), "SQLite", sqlite3.sqlite_version, "duckdb", duckdb.__version__)
RUNS = [{"run": "a", "loss": 3.5}, {"run": "b", "loss": math.nan}, {"run": "c", "loss": 2.5}]
database = sqlite_utils.Database(memory=True)
database["runs"].insert_all(RUNS)
found = [(row["run"], row["loss"]) for row in database["runs"].rows_where(order_by="loss")]
(statistics,) = database.query("select avg(loss) as mean, count(loss) as number, min(loss) as best from runs")
print("ordered by loss:", found, statistics)
assert found == [("b", None), ("c", 2.5), ("a", 3.5)], "the behavior has changed"
assert statistics == {"mean": 3.0, "number": 2, "best": 2.5}, "the behavior has changed"
database["wide"].insert({"loss": math.inf})
assert next(database["wide"].rows) == {"loss": math.inf}

other = duckdb.connect()
other.execute("create table runs (run varchar, loss double)")
other.executemany("insert into runs values (?, ?)", [list(row.values()) for row in RUNS])
right = other.execute("select run, loss from runs order by loss").fetchall()
print("DuckDB:", right)
assert [run for run, _ in right] == ["c", "a", "b"] and math.isnan(right[2][1])
PY
