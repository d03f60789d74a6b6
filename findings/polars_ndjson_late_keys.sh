#!/usr/bin/env bash
# polars 2.1.0: read_ndjson drops keys that no line among the first 100 has, without a word.
#
# Expected: `infer_schema_length` (100) guesses types from the first lines. A later value that does not fit raises, as
#   1.5 in a column of integers does, so a later key raises as well, or becomes a column.
# Observed: a key that first appears in line 101 is ignored: neither its column nor its values exist, and there is no
#   warning. The same holds for keys of nested objects, and for scan_ndjson. `infer_schema_length=None` keeps them.
# Why it matters: JSON Lines with optional keys (a language, a license, "tool_calls" in chats) are common in corpora.
#   Reading, filtering and writing a shard of a GPT-2 corpus loses them, depending on the order of its lines.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q polars==2.1.0
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import json

import polars as pl

print("polars", pl.__version__)


def read(plain: int, **options) -> tuple[list[str], list[str]]:
    """The columns, and the keys of the nested objects, of a file whose last line has one more key in both."""
    line = {"text": "a", "meta": {"url": "u"}}
    lines = [line] * plain + [{"text": "a", "meta": {"url": "u", "date": "d"}, "lang": "en"}]
    with open("shard.jsonl", "w") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    frame = pl.read_ndjson("shard.jsonl", **options)
    assert frame.equals(pl.scan_ndjson("shard.jsonl", **options).collect()) and len(frame) == plain + 1
    return frame.columns, [field.name for field in frame.schema["meta"].fields]


found = {"in line 100": read(99), "in line 101": read(100), "in line 101, of all": read(100, infer_schema_length=None)}
for name, (columns, nested) in found.items():
    print(f"first {name}: columns {columns}, keys of meta {nested}")
kept, lost = (["text", "meta", "lang"], ["url", "date"]), (["text", "meta"], ["url"])
assert list(found.values()) == [kept, lost, kept], "the behavior has changed"
with open("shard.jsonl", "w") as file:
    file.write('{"n": 1}\n' * 100 + '{"n": 1.5}\n')
try:
    pl.read_ndjson("shard.jsonl")
except pl.exceptions.ComputeError as error:
    print("a late type raises:", error)
else:
    raise SystemExit("the behavior has changed")
PY
