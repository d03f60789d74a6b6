#!/usr/bin/env bash
# webdataset 1.0.2: two documents with the keys "page1.0" and "page1.1", written by TarWriter, are read as one sample.
#
# Expected: what the writer of a library takes, its reader gives back: two samples with the keys that were written, or
#   an error where a key cannot be kept.
# Observed: a key ends at its first dot for the reader, so both are the sample "page1" with the fields 0.txt and
#   1.txt. A host name or a version in the key does the same. Keys whose rest is equal, too, raise an error; here none
#   does. TarWriter and ShardWriter check nothing. "a/b.c/1" is right, as dots in folders are kept.
# Why it matters: keys are made of addresses, file names and section numbers. The set then has fewer samples than
#   documents, whose fields have unheard-of names, and a pipeline that asks for "txt" with a handler that skips errors
#   gets none.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q webdataset==1.0.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PY'
from importlib.metadata import version

import webdataset

print("webdataset", version("webdataset"))
found = {}
for name, keys in {
    "plain": ["page1-0", "page1-1", "page2-0"],
    "folders": ["example.com/1", "example.com/2"],
    "sections": ["page1.0", "page1.1", "page2.0"],
    "hosts": ["www.one.org", "www.two.org"],
}.items():
    with webdataset.TarWriter(f"{name}.tar") as writer:
        for key in keys:
            writer.write({"__key__": key, "txt": f"text of {key}"})
    samples = list(webdataset.WebDataset(f"{name}.tar", shardshuffle=False))
    found[name] = {sample["__key__"]: [field for field in sample if not field.startswith("__")] for sample in samples}
    print(f"written: {keys}, read: {found[name]}")
    if name in ("plain", "folders"):
        assert found[name] == {key: ["txt"] for key in keys}
assert found["sections"] == {"page1": ["0.txt", "1.txt"], "page2": ["0.txt"]}, "the behavior has changed"
assert found["hosts"] == {"www": ["one.org.txt", "two.org.txt"]}, "the behavior has changed"
PY
