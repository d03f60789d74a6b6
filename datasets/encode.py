"""Turns text into the shards that training reads.

    python3 datasets/encode.py my_texts more.jsonl "notes/*.txt" --out data --encoder encoder

writes data/text_0.tfrecords, data/text_1.tfrecords, ... Inputs are files, folders (searched to the bottom), patterns,
or the word python-docs for the documentation of this Python installation.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import argparse
import time

from tqdm import tqdm

from runtime.errors import UserError, run_program
from text import corpus, tokenizers
from text.prepare import SHARD_TOKENS, Summary, encode_corpus


def main() -> None:
    arguments = _parser().parse_intermixed_args()
    if arguments.shard_tokens < 1 or arguments.min_tokens < 1:
        raise UserError("--shard_tokens and --min_tokens must be 1 or more")
    start = time.perf_counter()
    with tqdm(unit="B", unit_scale=True, desc="encoding", disable=not sys.stderr.isatty()) as bar:

        def show(summary: Summary) -> None:
            bar.update(summary.bytes - bar.n)

        summary = encode_corpus(
            corpus.documents(arguments.inputs, text_key=arguments.text_key),
            tokenizers.load(arguments.encoder),
            out=arguments.out,
            name=arguments.name,
            shard_tokens=arguments.shard_tokens,
            min_tokens=arguments.min_tokens,
            compress=arguments.gzip,
            overwrite=arguments.overwrite,
            progress=show,
        )
    seconds = time.perf_counter() - start
    shards = f"{len(summary.shards)} shards" if len(summary.shards) > 1 else "1 shard"
    print(f"documents        {summary.documents:,}")
    print(f"skipped          {summary.skipped:,} shorter than {arguments.min_tokens} tokens")
    print(f"tokens           {summary.tokens:,}")
    print(
        f"text             {summary.bytes / 1e6:,.1f} MB in {seconds:.1f} s, {summary.bytes / 1e6 / seconds:,.1f} MB/s"
    )
    print(f"bytes per token  {summary.bytes / summary.tokens:.3f}")
    print(f"written          {shards}: {', '.join(_ends(summary.shards))}")


def _ends(paths: list[Path]) -> list[str]:
    """The first and the last of many."""
    names = [str(path) for path in paths]
    return names if len(names) < 4 else [names[0], "...", names[-1]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="file, folder, pattern, or python-docs")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the shards")
    parser.add_argument("--encoder", default="encoder", metavar="DIR", help="folder of the vocabulary (%(default)s)")
    parser.add_argument("--name", default="text", help="the shards are NAME_0.tfrecords and so on (%(default)s)")
    parser.add_argument(
        "--shard_tokens", type=int, default=SHARD_TOKENS, metavar="N", help="size of a shard (%(default)s)"
    )
    parser.add_argument("--min_tokens", type=int, default=1, metavar="N", help="skip shorter documents (%(default)s)")
    parser.add_argument("--text_key", default="text", metavar="KEY", help="key of a JSON line's text (%(default)s)")
    parser.add_argument("--gzip", action="store_true", help="compress the shards")
    parser.add_argument("--overwrite", action="store_true", help="replace shards of this name")
    return parser


if __name__ == "__main__":
    run_program(main)
