"""Writes the documentation of this Python installation as text files, one a document: a corpus without a download.

python3 datasets/python_docs.py --out python_docs
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":  # before the imports that take time
    from estimator import interrupts

    interrupts.exit_quietly()


from estimator import quantities, storage
from estimator.arguments import Parser
from estimator.corpus import documents, python_docs
from estimator.errors import run_program
from estimator.quantities import numbered
from estimator.storage import user_paths


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--out", required=True, type=user_paths.folder, metavar="DIR", help="folder of the text files")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    count = size = 0
    for name, text in documents.documents(python_docs.NAME):
        contents = text.encode()
        storage.write_bytes_atomic(out / f"{name}.txt", contents)
        count += 1
        size += len(contents)
    print(f"{out}: {numbered(count, 'file')}, {quantities.size(size)}")


if __name__ == "__main__":
    run_program(main)
