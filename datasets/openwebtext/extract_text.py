"""Makes text out of web pages: archives in, one JSON object per document out.

    python3 datasets/openwebtext/extract_text.py scraped --out extracted --language en --near_duplicates

writes extracted/NAME.jsonl.gz for every archive NAME, and extracted/report.json, which says what became of each page.
Inputs are WARC files, Common Crawl's WET files, _data.xz archives and other tars of pages, .html and .txt files,
folders of these, and patterns. The same command continues where it stopped.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

if __name__ == "__main__":  # before the imports that take time
    from estimator import interrupts

    interrupts.exit_quietly()

import time
from typing import Any

from crawler import extract_job, extraction
from crawler.extract_job import ExtractJob, ExtractSettings
from crawler.isolation import Limits
from crawler.pages import units
from estimator.arguments import Parser, number
from estimator.corpus import language_id, minhash, quality_filters
from estimator.corpus.build import executors
from estimator.errors import UserError, run_program
from estimator.quantities import numbered
from estimator.storage import user_paths


def main() -> None:
    arguments = _parser().parse_intermixed_args()
    wanted = tuple(sorted(set(arguments.language)))
    settings = ExtractSettings(
        extractor=arguments.extractor,
        languages=wanted,
        language_share=arguments.language_share,
        rules=_rules(arguments.rules),
        near_duplicates=arguments.near_duplicates,
        limits=Limits(arguments.page_seconds, arguments.page_megabytes),
    )
    settings.check()
    executor = executors.from_arguments(arguments)
    found = units(arguments.inputs)
    extraction.require(arguments.extractor)
    language_id.require(wanted)
    # Few archives on many cores: several pages of an archive at a time.
    processes = max(1, executors.workers_here(executor) // len(found)) if executor.kind == "local" else 1
    work = ExtractJob(found, settings, arguments.out, processes)
    start = time.perf_counter()
    if not work.begin(overwrite=arguments.overwrite):
        print(f"already complete: {arguments.out}; --overwrite does it again")
    elif report := extract_job.run(work, executor):
        _print(report, out=arguments.out, seconds=time.perf_counter() - start)


def _print(report: dict[str, Any], *, out: str, seconds: float) -> None:
    total = report["total"]
    pages, documents = total.get("pages", 0), total.get("documents", 0)
    print(f"pages              {pages:>12,}")
    for name in [*quality_filters.RULES, *sorted(set(total) - set(quality_filters.RULES) - {"pages", "documents"})]:
        if name in total:
            print(f"  {name:16} {total[name]:>12,}")
    print(f"documents          {documents:>12,}")
    print(f"speed              {pages / seconds:>12,.1f} pages/s")
    print(f"written            {out}: {numbered(len(report['files']), 'file')}, and report.json")
    for each in report["damaged"]:
        print(f"damaged            {each['file']}: {each['cause']}; what comes before is kept")


def _rules(text: str) -> tuple[str, ...]:
    if text in ("all", "none"):
        return tuple(quality_filters.RULES) if text == "all" else ()
    names = tuple(text.split(","))
    for name in names:
        if name not in quality_filters.RULES:
            raise UserError(f"--rules: no rule {name!r}; available: all, none, and {', '.join(quality_filters.RULES)}")
    return names


def _parser() -> Parser:
    defaults = ExtractSettings()
    parser = Parser(__doc__)
    add = parser.add_argument
    add(
        "inputs",
        nargs="+",
        type=user_paths.argument,
        metavar="INPUT",
        help="archive, page, folder or pattern, here or in a bucket",
    )
    add("--out", required=True, type=user_paths.argument, metavar="DIR", help="folder of the results")
    add("--overwrite", action="store_true", help="replace what other inputs or settings made there")
    what = parser.add_argument_group("selection")
    add = what.add_argument
    add(
        "--extractor",
        choices=tuple(extraction.EXTRACTORS),
        default=defaults.extractor,
        help="trafilatura in one of its settings, the %(default)s of them for each page, or resiliparse, for speed",
    )
    add("--language", nargs="+", default=[], metavar="CODE", help="documents in these only, such as en")
    add(
        "--language_share",
        type=number,
        default=defaults.language_share,
        metavar="P",
        help="of which at least this share is in its language (%(default)s)",
    )
    add(
        "--rules",
        default="all",
        metavar="NAMES",
        help=f"all, none, or some of {','.join(quality_filters.RULES)} (%(default)s)",
    )
    add(
        "--near_duplicates",
        type=number,
        nargs="?",
        const=minhash.THRESHOLD,
        metavar="P",
        help="drop documents this similar to an earlier one (%(const)s)",
    )
    add(
        "--page_seconds",
        type=number,
        default=defaults.limits.seconds,
        metavar="S",
        help="processor time for a page (%(default)s)",
    )
    add(
        "--page_megabytes",
        type=int,
        default=defaults.limits.megabytes,
        metavar="N",
        help="memory for a page (%(default)s)",
    )
    executors.add_arguments(parser)
    return parser


if __name__ == "__main__":
    run_program(main)
