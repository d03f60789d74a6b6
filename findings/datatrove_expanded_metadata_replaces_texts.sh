#!/usr/bin/env bash
# datatrove 0.10.1: JsonlReader(text_key="content") and JsonlWriter(expand_metadata=True): the output has other texts.
#
# Expected: the writer writes the text of each document, with the metadata beside it, or refuses a name that is in
#   use.
# Observed: expanded metadata is put over the fields "text" and "id" of the document. A file whose text is in
#   "content" and that has a column "text" as well, a caption say, has that column in the metadata after reading, and
#   so the caption is written as the document's text, and the content is lost. A column "id" beside id_key does the
#   same to the ids. Filters between the two have seen the right text. Without expand_metadata all is right. No
#   warning.
# Why it matters: expanded metadata is the flat form that other programs read, and many data sets have a "text" beside
#   the column that is wanted. What was filtered and counted is not what the model is trained on.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q datatrove==0.10.1 orjson==3.13.0
cd "$folder"
mkdir input
cat > input/part.jsonl <<'JSON'
{"content": "a long article", "text": "its caption", "key": "article-1", "id": 7}
{"content": "another article", "key": "article-2"}
JSON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2> log <<'PY' || { cat log; exit 1; }
import json
from importlib.metadata import version

from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

print("datatrove", version("datatrove"))
found = {}
for expand in (False, True):
    documents = list(JsonlReader("input", text_key="content", id_key="key").run())
    assert [document.text for document in documents] == ["a long article", "another article"]
    with JsonlWriter(f"output-{expand}", compression=None, expand_metadata=expand) as writer:
        for document in documents:
            writer.write(document)
    with open(f"output-{expand}/00000.jsonl") as file:
        found[expand] = [(record["id"], record["text"]) for record in map(json.loads, file)]
    print(f"expand_metadata={expand}: {found[expand]}")
assert found[False] == [("article-1", "a long article"), ("article-2", "another article")]
assert found[True] == [(7, "its caption"), ("article-2", "another article")], "the behavior has changed"
PY
