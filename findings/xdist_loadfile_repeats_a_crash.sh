#!/usr/bin/env bash
# pytest-xdist 3.8.0: with `--dist loadfile` a test that ends its process is run again by each new worker.
#
# Expected: as with `--dist load`, the default: such a test is reported once, a new worker continues with the next one.
# Observed: the new worker begins with the same test again, until four times as many workers as asked for have ended;
#   then the session ends. No later test of the file is run, and the test is counted as failed five times.
# Why it matters: a limit of time that ends a process whose native code hangs (pytest's faulthandler_exit_on_timeout)
#   costs its time once per new worker: ten minutes become an hour. `--max-worker-restart 1` bounds it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pytest==9.2.0 pytest-xdist==3.8.0
cd "$folder"
cat > test_ends.py <<'PY'
import os
from pathlib import Path


def test_ends():
    with Path(os.environ["STARTS"]).open("a") as file:
        file.write("start\n")
    os._exit(1)


def test_after():
    Path(os.environ["STARTS"] + ".after").touch()
PY
for way in load loadfile; do
  STARTS=$PWD/$way venv/bin/python -m pytest -q -n 1 --dist $way -p no:cacheprovider test_ends.py > $way.txt 2>&1 || true
  found="$(wc -l < $way) $(find . -name $way.after | wc -l)"
  echo "--dist $way: starts of the test that ends its process, and of the next one: $found; $(tail -1 $way.txt)"
  case "$way $found" in "load 1 1" | "loadfile 5 0") ;; *) echo "the behavior has changed" >&2; exit 1 ;; esac
done
