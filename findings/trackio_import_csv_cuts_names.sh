#!/usr/bin/env bash
# trackio 0.43.0: import_csv cuts the names of metrics to 10 letters: validation/loss becomes "validation".
#
# Expected: "any other columns will be treated as metrics", says the docstring, so a run that is exported to CSV and
#   imported has the metrics that trackio.log would have given it.
# Observed: everything but letters, digits and "/" is removed from a name, and the rest is cut after 10 characters.
#   Names that become equal get _1, _2 by the order of the columns: validation/loss, validation/accuracy and
#   validation_tokens are validation, validation_1 and validation_2. train_loss is trainloss. The import prints the new
#   names of the first row and no warning. A column with one text in it is left out.
# Why it matters: curves of another tracker (W&B, a log of one's own) are imported to compare them with runs that log to
#   trackio. No chart has both, and with two files whose columns have another order, validation_1 is accuracy in one run
#   and loss in the other.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q trackio==0.43.0
cd "$folder"
HF_HUB_OFFLINE=1 TRACKIO_DIR="$folder/runs" "$folder/venv/bin/python" -W ignore - <<'PY'
import csv

import trackio
from trackio.sqlite_storage import SQLiteStorage

print("trackio", trackio.__version__)
VALUES = {"train_loss": 3.5, "gradient_norm": 0.5, "validation/loss": 3.25, "validation/accuracy": 0.375, "lr": 6e-4}
imported = {}
for name, keys in {"one": list(VALUES), "other": list(reversed(VALUES))}.items():
    with open(f"{name}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["step", *keys])
        writer.writeheader()
        writer.writerow({"step": 1, **VALUES})
    trackio.import_csv(f"{name}.csv", project=name)
    (record,) = SQLiteStorage.get_logs(name, name)
    imported[name] = {key: value for key, value in record.items() if isinstance(value, float)}
    print(f"columns {keys}: imported {imported[name]}")
logged = trackio.init(project="logged", name="run", embed=False)
trackio.log(VALUES, step=1)
trackio.finish()
(record,) = SQLiteStorage.get_logs("logged", "run")
kept = {key: value for key, value in record.items() if isinstance(value, float)}
print("logged:", kept)
assert kept == VALUES
one = {"trainloss": 3.5, "gradientno": 0.5, "validation": 3.25, "validation_1": 0.375, "lr": 6e-4}
assert imported["one"] == one, "the behavior has changed"
assert (imported["other"]["validation"], imported["other"]["validation_1"]) == (0.375, 3.25), "the behavior has changed"
PY
