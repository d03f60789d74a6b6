#!/usr/bin/env bash
# fsspec and s3fs 2026.9.0: fs.rm("runs/lr[1]", recursive=True) deletes the folder runs/lr1 and keeps runs/lr[1].
#
# Expected: rm deletes the path that it is given ("Files or directories to delete", says the docstring, where glob's
#   names its patterns). fs.open, cat_file, exists, isdir and find take brackets as they are, and LocalFileSystem.rm
#   does, too.
# Observed: for the memory file system and for S3, and in the code that gcsfs shares with s3fs, rm expands the path as a
#   pattern first. [1] is the character 1, so another folder matches, is deleted with all that is in it, and rm returns
#   as if all was well. rm of "a?b" deletes a?b and aXb. fs.cat("runs/lr[1]/loss") reads the file of the other run, on a
#   local disk too. Where nothing matches there is a FileNotFoundError: fsspec/filesystem_spec#838 and #2036 are about
#   that. rm_file and cat_file take the path as it is.
# Why it matters: names of runs have their settings in brackets, and old runs and checkpoints are deleted by programs,
#   with the rmtree of etils.epath, for one, which Orbax uses in gs://. A program that was tested on a local folder
#   deletes other runs in a bucket.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" --disable-pip-version-check install -q fsspec==2026.9.0 s3fs==2026.9.0 "moto[server]==5.2.5"
AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_DEFAULT_REGION=us-east-1 \
  "$folder/venv/bin/python" -W ignore - "$folder" <<'PY'
import logging
import sys

import fsspec
import s3fs
from moto.server import ThreadedMotoServer

logging.disable(logging.CRITICAL)
print("fsspec", fsspec.__version__, "s3fs", s3fs.__version__)
server = ThreadedMotoServer("127.0.0.1", 0)
server.start()
address = "http://{}:{}".format(*server.get_host_and_port())
s3 = fsspec.filesystem("s3", endpoint_url=address)
s3.mkdir("bucket")
places = {
    "local": (fsspec.filesystem("file"), f"{sys.argv[1]}/runs"),
    "memory": (fsspec.filesystem("memory"), "/runs"),
    "s3": (s3, "bucket/runs"),
}
left = {}
for name, (files, runs) in places.items():
    for run in ("lr[1]", "lr1", "a?b", "aXb"):
        files.makedirs(f"{runs}/{run}", exist_ok=True)
        files.pipe_file(f"{runs}/{run}/loss", run.encode())
    assert files.isdir(f"{runs}/lr[1]") and files.cat_file(f"{runs}/lr[1]/loss") == b"lr[1]"
    read = files.cat(f"{runs}/lr[1]/loss")
    for run in ("lr[1]", "a?b"):
        files.rm(f"{runs}/{run}", recursive=True)
        files.invalidate_cache()
    left[name] = [path.split("/")[-2] for path in files.find(runs)]
    print(f"{name}: cat of lr[1]/loss gives {read}; after rm of lr[1] and a?b there is {left[name]}")
server.stop()
assert left == {"local": ["aXb", "lr1"], "memory": ["lr[1]"], "s3": ["lr[1]"]}, "the behavior has changed"
PY
