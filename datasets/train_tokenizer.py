"""Trains a vocabulary on your own text: byte-level BPE, cut into words as GPT-2 does, or SentencePiece.

    python3 datasets/train_tokenizer.py my_texts --out encoder --vocab_size 8192
    python3 datasets/train_tokenizer.py my_texts --out encoder --vocab_size 8192 --kind sentencepiece

writes encoder/tokenizer.json or encoder/tokenizer.model, which main.py ("encoder_path"), datasets/encode.py (--encoder)
and other software read. See docs/tokenizers.md.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":  # before the imports that take time
    from estimator import interrupts

    interrupts.exit_quietly()

import argparse
import os
from collections import Counter
from collections.abc import Iterator

from tqdm import tqdm

from estimator.arguments import Parser, number
from estimator.corpus import archive_names, documents, file_search, parts
from estimator.corpus.build.plan import Options
from estimator.errors import UserError, run_program
from estimator.storage import user_paths
from estimator.tokenization import vocab_files
from estimator.tokenization.train_bpe import DEFAULT_MAX_MEMORY, SMALLEST, NothingToLearnError, train_byte_bpe
from estimator.tokenization.train_sentencepiece import DEFAULT_COVERAGE, MODEL_TYPES, train_sentencepiece

FILES = {"bpe": "tokenizer.json", "sentencepiece": "tokenizer.model"}
ONLY_SENTENCEPIECE = ("model_type", "byte_fallback", "character_coverage", "user_symbols")
_UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def main() -> None:
    parser = _parser()
    arguments = parser.parse_intermixed_args()
    target = arguments.out / FILES[arguments.kind]
    _check_target(target, overwrite=arguments.overwrite)
    if not 0 < arguments.vocab_size <= vocab_files.MAX_ID:
        raise UserError(f"--vocab_size {arguments.vocab_size}: give a number from 1 to {vocab_files.MAX_ID:,}")
    options = {
        "n_vocab": arguments.vocab_size,
        "out": arguments.out,
        "special_tokens": arguments.special_tokens,
        "max_memory": arguments.max_memory,
        "sample_bytes": arguments.sample_bytes,
    }
    others = {name: getattr(arguments, name) for name in ONLY_SENTENCEPIECE}
    is_bpe = arguments.kind == "bpe"
    unused = [f"--{name}" for name, value in others.items() if value != parser.get_default(name)]
    if is_bpe and unused:
        raise UserError(f"{', '.join(unused)}: byte-level BPE has no such choice; add --kind sentencepiece")
    reading = parts.reading_from(arguments)
    counts: Counter[str] = Counter()
    texts = _read(arguments.inputs, Options(reading=reading, skip_faults=arguments.on_error == "skip"), counts)
    try:
        tokenizer = train_byte_bpe(texts, **options) if is_bpe else train_sentencepiece(texts, **options, **others)
    except NothingToLearnError:
        raise documents.no_text(file_search.find(arguments.inputs, reading=reading), counts) from None
    if listed := archive_names.without_notes(counts):  # a vocabulary is learned from all members
        print(f"left out or noted: {file_search.listed(listed)}")
    specials = ", ".join(f"{name} {i}" for name, i in tokenizer.special_tokens.items())
    print(f"{target}: {tokenizer.n_vocab:,} entries; special tokens {specials}")
    if tokenizer.n_vocab < arguments.vocab_size:
        print(f"the text has no more to learn; {arguments.vocab_size:,} were asked for")


def _check_target(target: Path, *, overwrite: bool) -> None:
    folder = target.parent
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"--out {folder}: nothing can be written into {above}; choose another place")
    there = vocab_files.files(folder)
    if target in there and not overwrite:
        raise UserError(f"{target} exists; use --overwrite to replace it, or choose another --out")
    if others := [path.name for path in there if path != target]:
        raise UserError(f"{folder} holds a vocabulary of another kind ({', '.join(others)}); choose another --out")


def _read(inputs: list[str], options: Options, counts: Counter[str]) -> Iterator[str]:
    """The texts, with a bar on a terminal. counts: of omissions by reason, which it adds."""
    on_fault = options.fault_handler(counts)
    with tqdm(unit="B", unit_scale=True, desc="reading", disable=not sys.stderr.isatty()) as bar:
        for document in documents.documents(inputs, reading=options.reading, on_fault=on_fault, counts=counts):
            yield document.text
            bar.update(len(document.text))


def _size(text: str) -> int:
    """A number of bytes: 4000000, 4M, 1.5G."""
    number, unit = (text[:-1], _UNITS[text[-1:].upper()]) if text[-1:].upper() in _UNITS else (text, 1)
    size = float(number) * unit
    if not 1 <= size < 1e18:
        raise ValueError("no number of bytes")
    return int(size)


_size.__name__ = "size"  # as argparse calls it in errors


def _parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("inputs", nargs="+", type=user_paths.argument, metavar="INPUT", help="file, folder, pattern, or python-docs")
    add("--out", required=True, type=user_paths.folder, metavar="DIR", help="folder of the vocabulary")
    add("--vocab_size", required=True, type=int, metavar="N", help=f"entries in all; bpe: {SMALLEST} is bytes alone")
    add("--kind", choices=list(FILES), default="bpe", help="byte-level BPE or SentencePiece (%(default)s)")
    add("--special_tokens", nargs="+", default=[], metavar="NAME", help="special tokens besides <|endoftext|>")
    add("--max_memory", type=_size, default=DEFAULT_MAX_MEMORY, metavar="BYTES", help=(
        "learn from an even sample if all of the text would need more; 4G (the default), 500M"
    ))  # fmt: skip
    add("--sample_bytes", type=_size, metavar="BYTES", help="size of that sample, instead of --max_memory")
    parts.add_arguments(parser)
    add("--on_error", choices=("fail", "skip", "stop"), default="fail", help=(
        "on unreadable text: fail (stop is the same), or skip and count it (%(default)s)"
    ))  # fmt: skip
    add("--overwrite", action="store_true", help="replace a vocabulary that is there")
    group = parser.add_argument_group("with --kind sentencepiece")
    add = group.add_argument
    add("--model_type", choices=MODEL_TYPES, default="bpe", help="how it learns (%(default)s)")
    add("--byte_fallback", action=argparse.BooleanOptionalAction, default=True, help=(
        "spell unknown characters in bytes; without it they are lost"
    ))  # fmt: skip
    add("--character_coverage", type=number, default=DEFAULT_COVERAGE, metavar="SHARE", help=(
        "share of the text's characters that become entries (%(default)s)"
    ))  # fmt: skip
    add("--user_symbols", nargs="+", default=[], metavar="SYMBOL", help="symbols that are always one token")
    return parser


if __name__ == "__main__":
    run_program(main)
