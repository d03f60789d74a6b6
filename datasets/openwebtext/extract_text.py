"""Makes text out of web pages: archives in, one JSON object per document out.

    python3 datasets/openwebtext/extract_text.py scraped --out extracted --language en --near_duplicates

writes extracted/NAME.jsonl.gz for every archive NAME, and extracted/report.json, which says what became of each page.
Inputs are WARC files, Common Crawl's WET files, _data.xz archives and other tars of pages, .html and .txt files,
folders of these, and patterns. The same command again goes on where it was stopped.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import argparse

from runtime.errors import UserError, run_program
from text import filters, languages, near_duplicates
from text.web import extraction, harvest
from text.web.harvest import Harvest, Settings
from text.web.isolation import Limits
from text.web.pages import units


def main() -> None:
    arguments = _parser().parse_intermixed_args()
    extraction.require(arguments.extractor)
    wanted = tuple(sorted(set(arguments.language)))
    languages.require(wanted)
    settings = Settings(
        extractor=arguments.extractor,
        languages=wanted,
        language_share=arguments.language_share,
        rules=_rules(arguments.rules),
        near_duplicates=arguments.near_duplicates,
        limits=Limits(arguments.page_seconds, arguments.page_megabytes),
    )
    work = Harvest(units(arguments.inputs), settings, arguments.out)
    if work.begin(overwrite=arguments.overwrite):
        report = harvest.run(work, _each)
        _print(report)


def _each(work, *, tasks, is_done, name):
    for number in range(tasks):
        if not is_done(number):
            work(number)
            print(name, number, tasks)


def _print(report) -> None:
    total = report["total"]
    for name in ["pages", *sorted(set(total) - {"pages", "documents"}), "documents"]:
        print(f"{name:16} {total.get(name, 0):>12,}")
    for each in report["damaged"]:
        print(f"damaged: {each['file']}: {each['cause']}")


def _rules(text: str) -> tuple[str, ...]:
    if text in ("all", "none"):
        return tuple(filters.RULES) if text == "all" else ()
    names = tuple(text.split(","))
    for name in names:
        if name not in filters.RULES:
            raise UserError(f"--rules: no rule {name!r}; there are all, none, and {', '.join(filters.RULES)}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="archive, page, folder or pattern")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the results")
    parser.add_argument("--extractor", default="trafilatura", help=", ".join(extraction.EXTRACTORS) + " (%(default)s)")
    parser.add_argument("--language", nargs="+", default=[], metavar="CODE", help="keep these only, such as en")
    parser.add_argument("--language_share", type=float, default=Settings().language_share, metavar="P")
    parser.add_argument("--rules", default="all")
    parser.add_argument("--near_duplicates", type=float, nargs="?", const=near_duplicates.THRESHOLD, metavar="P")
    parser.add_argument("--page_seconds", type=float, default=Limits().seconds)
    parser.add_argument("--page_megabytes", type=int, default=Limits().megabytes)
    parser.add_argument("--overwrite", action="store_true")
    return parser


if __name__ == "__main__":
    run_program(main)
