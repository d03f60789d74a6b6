#!/usr/bin/env bash
# datasets 5.2.0: Dataset.map keeps only the new columns that the function returns for the first row.
#
# Expected: a function that returns {"link": ...} for some rows gives a column "link" with null in the others, as
#   a JSON Lines file with such rows does; or an error.
# Observed: the keys of the first row's result are the columns. Keys that only later rows have are dropped, with their
#   values, without a word. With {} for the first row the whole result is the input. The other order of the same rows
#   gives the column. A key that the first row has and a later one lacks is a KeyError, so only one half is silent.
#   The same function on to_iterable_dataset() keeps all values. With batched=True a new column of a later batch is a
#   KeyError. The documentation of map says only that the function returns a dict.
# Why it matters: annotations that few documents have (a language, a license, a reason why a filter dropped the text)
#   are lost where the first document has none, and found again after a shuffle.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q datasets==5.2.0 pyarrow==26.0.1
HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - <<'PY'
import datasets

datasets.disable_progress_bars()
print("datasets", datasets.__version__)
rows = datasets.Dataset.from_dict({"text": ["one", "two words", "three more words"]})


def annotate(row):
    words = len(row["text"].split())
    return {"words": words} if words < 2 else {"words": words, "spaces": words - 1}


def only_long(row):
    return {"spaces": row["text"].count(" ")} if " " in row["text"] else {}


found = {
    "map": list(rows.map(annotate)),
    "map, {} first": list(rows.map(only_long)),
    "streaming": list(rows.to_iterable_dataset().map(annotate)),
}
for name, result in found.items():
    print(f"{name}:", *result, sep="\n  ")
try:
    list(rows.select([2, 1, 0]).map(annotate))
    late = "no error"
except KeyError as error:
    late = f"KeyError: {error}"
print("long rows first:", late)
other = rows.select([2, 1]).map(only_long)["spaces"][:]
print("only the long rows, spaces:", other)
texts = rows["text"][:]
assert found["map"] == [{"text": text, "words": len(text.split())} for text in texts], "the behavior has changed"
assert found["map, {} first"] == [{"text": text} for text in texts], "the behavior has changed"
assert [row.get("spaces") for row in found["streaming"]] == [None, 1, 2], "the behavior has changed"
assert late == "KeyError: 'spaces'" and other == [2, 1], "the behavior has changed"
PY
