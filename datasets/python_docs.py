"""Writes the documentation of this Python installation as text files, one a document: a corpus without a download.

python3 datasets/python_docs.py --out python_docs
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
import os

from runtime.errors import run_program
from text import corpus, python_docs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the text files")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    count = size = 0
    for name, text in corpus.documents(python_docs.NAME):
        contents = text.encode()
        temporary = out / f"{name}.tmp"
        temporary.write_bytes(contents)
        os.replace(temporary, out / f"{name}.txt")
        count += 1
        size += len(contents)
    print(f"{out}: {count} files, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_program(main)
