#!/usr/bin/env bash
# pyarrow 26.0.1: the filter ("lang", "!=", "en") drops rows without a language, ("lang", "not in", ["en"]) keeps them.
#
# Expected: "not in" a list of one value is "!=" that value, as in SQL, pandas and polars. The documentation of filters
#   lists the operators and says nothing of nulls; only pyarrow.compute.is_in does, which the filter uses.
# Observed: "!=" gives null for a null, and the row is dropped; "not in" becomes invert(is_in(...)), for which a null is
#   a value like others that is not in the list. The same happens in dataset.to_table, with integers, and in
#   load_dataset("parquet", filters=...) of Hugging Face 5.2.0, which hands the filter on. polars drops the rows in both
#   (its columns are compared by SQL's rules), pandas keeps them in both. With None in the list they are dropped.
# Why it matters: a language, a license or a score is missing in part of the rows of a corpus. A second value turns "!="
#   into "not in", and all rows without a label come in: of 1,000 rows, 400 rather than 100. Say it in the filter:
#   field("lang").is_valid() & ... or field("lang").is_null() | ...
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q pyarrow==26.0.1 datasets==5.2.0 polars==2.1.0
HF_HUB_OFFLINE=1 HF_HOME="$folder/cache" "$folder/venv/bin/python" - "$folder/corpus.parquet" <<'PY'
import sys

import datasets
import pandas
import polars
import pyarrow
import pyarrow.dataset
import pyarrow.parquet

print("pyarrow", pyarrow.__version__, "datasets", datasets.__version__, "polars", polars.__version__)
print("pandas", pandas.__version__)
datasets.disable_progress_bars()
FILE = sys.argv[1]
languages = ["en"] * 600 + [None] * 300 + ["de"] * 100
licenses = [1] * 600 + [None] * 300 + [2] * 100
pyarrow.parquet.write_table(pyarrow.table({"lang": languages, "license": licenses}), FILE)


def rows(filters: list[tuple]) -> dict[str, int]:
    """How many rows each reader gives."""
    expression = pyarrow.parquet.filters_to_expression(filters)
    return {
        "pyarrow.parquet": pyarrow.parquet.read_table(FILE, filters=filters).num_rows,
        "pyarrow.dataset": pyarrow.dataset.dataset(FILE).to_table(filter=expression).num_rows,
        "datasets": len(datasets.load_dataset("parquet", data_files=FILE, split="train", filters=filters)),
    }


for column, value in {"lang": "en", "license": 1}.items():
    different, not_in = rows([(column, "!=", value)]), rows([(column, "not in", [value])])
    print(f"{column} != {value!r}: {different}")
    print(f"{column} not in {[value]}: {not_in}")
    assert set(different.values()) == {100} and set(not_in.values()) == {400}, "the behavior has changed"
    with_none = rows([(column, "not in", [value, None])])
    print(f"{column} not in {[value, None]}: {with_none}")
    assert set(with_none.values()) == {100}, "the behavior has changed"

frame = polars.read_parquet(FILE)
found = [frame.filter(each).height for each in (polars.col("lang") != "en", ~polars.col("lang").is_in(["en"]))]
print(f"polars, != and not is_in: {found}")
assert found == [100, 100], "polars has changed"
frame = pandas.DataFrame({"lang": languages}, dtype=object)
found = [len(frame[frame["lang"] != "en"]), len(frame[~frame["lang"].isin(["en"])])]
print(f"pandas, != and not isin: {found}")
assert found == [400, 400], "pandas has changed"
PY
