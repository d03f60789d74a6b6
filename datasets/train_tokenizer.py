"""Trains a vocabulary on your own text: byte-level BPE, cut into words as GPT-2 does.

    python3 datasets/train_tokenizer.py my_texts --out encoder --vocab_size 8192

writes encoder/tokenizer.json, which main.py ("encoder_path"), datasets/encode.py (--encoder) and other software read.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse

from runtime.errors import UserError, run_program
from text import corpus
from text.training import DEFAULT_MAX_BYTES, SMALLEST, train_byte_bpe


def main() -> None:
    arguments = _parser().parse_intermixed_args()
    target = arguments.out / "tokenizer.json"
    if target.exists() and not arguments.overwrite:
        raise UserError(f"{target} exists; use --overwrite to replace it, or choose another --out")
    texts = (document.text for document in corpus.documents(arguments.inputs, text_key=arguments.text_key))
    tokenizer = train_byte_bpe(texts, n_vocab=arguments.vocab_size, out=arguments.out, max_bytes=arguments.max_bytes)
    print(f"{target}: {tokenizer.n_vocab:,} entries, the last being <|endoftext|>")
    if tokenizer.n_vocab < arguments.vocab_size:
        print(f"the text has no more to learn; {arguments.vocab_size:,} were asked for")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="file, folder, pattern, or python-docs")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the vocabulary")
    parser.add_argument(
        "--vocab_size", required=True, type=int, metavar="N", help=f"entries in all; {SMALLEST} is bytes without merges"
    )
    parser.add_argument(
        "--max_bytes", type=int, default=DEFAULT_MAX_BYTES, metavar="N", help="learn from an even sample (%(default)s)"
    )
    parser.add_argument("--text_key", default="text", metavar="KEY", help="key of a JSON line's text (%(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace a vocabulary that is there")
    return parser


if __name__ == "__main__":
    run_program(main)
