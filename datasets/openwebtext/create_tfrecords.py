"""Makes the shards that the inputs openwebtext, openwebtext_long and openwebtext_longbiased read.

    python3 datasets/openwebtext/create_tfrecords.py extracted --out data            documents of 25 tokens or more
    python3 datasets/openwebtext/create_tfrecords.py extracted --out data --long     those of 512 or more, again

writes data/openwebtext-newspaper_I.tfrecords, and with --long data/openwebtext-newspaper-long_I.tfrecords. Inputs are
what extract_text.py made, or anything else that datasets/encode.py reads. Text is repaired by ftfy and brought into the
normal form NFKC, as it was for the models of 2019. The same command continues where it stopped.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

if __name__ == "__main__":  # before the imports that take time
    from estimator import interrupts

    interrupts.exit_quietly()


from estimator import storage
from estimator.arguments import Parser
from estimator.corpus import archive_names, containers, file_search, python_docs
from estimator.corpus.build import executors, to_bucket
from estimator.corpus.build.plan import SHARD_TOKENS, Corpus, Options
from estimator.corpus.build.workspace import Summary
from estimator.errors import run_program
from estimator.quantities import numbered
from estimator.storage import user_paths

NAME, LONG_NAME = "openwebtext-newspaper", "openwebtext-newspaper-long"
MIN_TOKENS, LONG_MIN_TOKENS = 25, 512
# The inputs evaluate on 13 certain numbers of these; fewer shards would leave some inputs none.
SHARDS = 92
SMALLEST_SHARD = 2000
# English: tokens in a byte of text, and bytes of text in a byte of a compressed file.
TOKENS_PER_BYTE = 1 / 4.4
EXPANSION = 2.7


def main() -> None:
    arguments = _parser().parse_intermixed_args()
    name, min_tokens = (LONG_NAME, LONG_MIN_TOKENS) if arguments.long else (NAME, MIN_TOKENS)
    made = to_bucket.encode(
        [Corpus(name, tuple(arguments.inputs))],
        Options(
            fix_text=True,
            normalize="NFKC",
            min_tokens=arguments.min_tokens or min_tokens,
            drop_near_duplicates=arguments.near_duplicates,
            shard_tokens=arguments.shard_tokens or _shard_tokens(arguments.inputs),
        ),
        encoder=arguments.encoder,
        out=arguments.out,
        executor=executors.from_arguments(arguments),
        overwrite=arguments.overwrite,
        work=arguments.work,
    )
    noted = dict.fromkeys(reason for summary in made or [] for reason in summary.noted)
    for line in archive_names.warnings(archive_names.notes(noted)):
        print(line, file=sys.stderr)
    for summary in made or []:
        _print(summary, min_tokens=arguments.min_tokens or min_tokens)


def _shard_tokens(inputs: list[str]) -> int:
    """So many that the text makes about SHARDS shards, or more of SHARD_TOKENS."""
    tokens = 0.0
    for path in file_search.find(inputs):
        if path != python_docs.NAME:
            expansion = EXPANSION if path.lower().endswith((*containers.ENDINGS, ".parquet")) else 1
            tokens += storage.size(path) * expansion * TOKENS_PER_BYTE
    return int(min(max(tokens / SHARDS, SMALLEST_SHARD), SHARD_TOKENS))


def _print(made: Summary, *, min_tokens: int) -> None:
    print(f"documents        {made.documents:,} of {numbered(min_tokens, 'token')} or more")
    print(f"skipped          {file_search.counted(made.skipped) or 'none'}")
    print(f"tokens           {made.tokens:,}")
    print(f"written          {numbered(len(made.shards), 'shard')}: {made.stem}_I.tfrecords")
    if len(made.shards) < 3:
        print('evaluation       too few shards for the numbers of the inputs: set "eval_split" to a fraction, as 0.05')


def _parser() -> Parser:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("inputs", nargs="+", type=user_paths.argument, metavar="INPUT", help="file, folder or pattern")
    to_bucket.add_arguments(parser)
    add("--long", action="store_true", help="the set of long documents")
    add(
        "--min_tokens",
        type=int,
        metavar="N",
        help=f"skip shorter documents ({MIN_TOKENS}; {LONG_MIN_TOKENS} with --long)",
    )
    add("--near_duplicates", action="store_true", help="drop texts that are nearly equal to an earlier one")
    add(
        "--shard_tokens", type=int, metavar="N", help=f"size of a shard (for {SHARDS} shards, at most {SHARD_TOKENS:,})"
    )
    add("--overwrite", action="store_true", help="replace shards of this name")
    executors.add_arguments(parser)
    return parser


if __name__ == "__main__":
    run_program(main)
