#!/usr/bin/env bash
# datasets 5.2.0: Dataset.to_json writes 1e-11 and 1e-15 as 0.0, and 1e-16 as 1e-16.
#
# Expected: a float is written so that reading the file gives the same float again, as json.dumps, to_csv, to_parquet
#   and write_ndjson of polars do it. The documentation of to_json says nothing of digits.
# Observed: to_json calls pandas, which rounds to 10 places after the point. Numbers from 5e-11 down to 1e-15 become 0.0
#   and 1.2345e-8 becomes 1.23e-08; smaller numbers are exact, so the order of rows changes. Lists and records are
#   rounded as well. pandas documents double_precision=10, which a reader of datasets has no reason to look up (the
#   gap is pandas-dev/pandas#23328, open since 2018). 15, the most that pandas takes, still loses digits of 0.1 + 0.2.
# Why it matters: probabilities of tokens, p-values, learning rates and gradients are that small. Of one softmax over
#   GPT-2's vocabulary, with a clear winner, 40,937 of 50,257 probabilities are 0 after one turn through a file, and their
#   logarithms -inf. Write such columns as Parquet, or with json.dumps.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q datasets==5.2.0 pandas==3.1.1 polars==2.1.0
HF_HUB_OFFLINE=1 HF_HOME="$folder/cache" "$folder/venv/bin/python" - "$folder" <<'PY'
import csv
import json
import sys
from pathlib import Path

import datasets
import numpy as np
import pandas
import polars

print("datasets", datasets.__version__, "pandas", pandas.__version__, "polars", polars.__version__)
datasets.disable_progress_bars()
FOLDER = Path(sys.argv[1])


def lines(dataset: datasets.Dataset, **options: object) -> list[dict]:
    """The dataset after to_json."""
    dataset.to_json(FOLDER / "out.jsonl", **options)
    return [json.loads(line) for line in (FOLDER / "out.jsonl").read_text().splitlines()]


values = [1e-17, 1e-16, 1e-15, 1e-11, 4.9e-11, 1.2345e-08, 1 / 3, 0.1 + 0.2]
written = [line["p"] for line in lines(datasets.Dataset.from_dict({"p": values}))]
for value, found in zip(values, written, strict=True):
    print(f"{value!r} is written as {found!r}")
assert written == [1e-17, 1e-16, 0.0, 0.0, 0.0, 1.23e-08, 0.3333333333, 0.3], "the behavior has changed"

nested = datasets.Dataset.from_list([{"list": [1e-11, 0.5], "record": {"p": 1e-11}}])
print("in a list and a record:", lines(nested)[0])
assert lines(nested)[0] == {"list": [0.0, 0.5], "record": {"p": 0.0}}, "the behavior has changed"

logits = np.random.default_rng(0).normal(0, 4, 50_257)
logits[0] = 30
probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
found = np.array([line["p"] for line in lines(datasets.Dataset.from_dict({"p": probabilities}))])
print(f"softmax of {logits.size:,} logits: {(probabilities == 0).sum()} zeros, written {(found == 0).sum():,} zeros")
assert (probabilities > 0).all() and (found == 0).sum() > 30_000, "the behavior has changed"

precise = [line["p"] for line in lines(datasets.Dataset.from_dict({"p": values}), double_precision=15)]
print("with double_precision=15:", precise)
assert precise[3] == 1e-11 and precise[-1] == 0.3, "the behavior has changed"

dataset = datasets.Dataset.from_dict({"p": values})
dataset.to_csv(FOLDER / "out.csv")
dataset.to_parquet(FOLDER / "out.parquet")
polars.DataFrame({"p": values}).write_ndjson(FOLDER / "polars.jsonl")
assert [float(row["p"]) for row in csv.DictReader((FOLDER / "out.csv").open())] == values
assert datasets.Dataset.from_parquet(str(FOLDER / "out.parquet"))["p"][:] == values
assert [json.loads(line)["p"] for line in (FOLDER / "polars.jsonl").read_text().splitlines()] == values
assert [json.loads(json.dumps(value)) for value in values] == values
print("to_csv, to_parquet, polars and json.dumps give every number back")
PY
