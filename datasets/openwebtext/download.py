"""Fetches the pages of URL lists, politely, and keeps them in WARC files, or in tars as jcpeterson/openwebtext does.

    python3 datasets/openwebtext/download.py urls.txt RS_2017-04.txt.xz --out pages --contact you@example.org

Killed at any time, the same command continues. Each site's robots.txt is obeyed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

if __name__ == "__main__":  # before the imports that take time
    from estimator import interrupts

    interrupts.exit_quietly()

import argparse
import math
import re
from datetime import datetime

from crawler.addresses import parse_override
from crawler.crawl import Effort
from crawler.download import Options, download
from crawler.hosts import Politeness
from crawler.transport import Limits
from estimator.arguments import Parser, number
from estimator.errors import EXIT_INTERRUPTED, UserError, run_program
from estimator.parallel.signals import StopRequest
from estimator.storage import user_paths

ABOVE_ZERO = ("concurrency", "attempts", "max_bytes", "chunk_size", "file_size", "total_timeout", "read_timeout")
ABOVE_ZERO += ("connect_timeout",)
ZERO_OR_ABOVE = ("delay", "max_redirects", "bandwidth", "backoff", "max_wait", "max_crawl_delay")
DATE = "%Y-%m-%dT%H:%M:%SZ"


def main() -> int:
    arguments = _parser().parse_intermixed_args()
    with StopRequest() as stop:
        report = download(_options(arguments), should_stop=lambda: stop.signal is not None)
    for line in report.lines():
        print(line)
    if report.complete:
        return 0
    print(f"stopped by {stop.name}; the same command continues where this stopped")
    return EXIT_INTERRUPTED


def _options(arguments: argparse.Namespace) -> Options:
    if not re.fullmatch(r"[A-Za-z_-]+", arguments.agent):
        raise UserError(f"--agent {arguments.agent}: only letters, - and _, as robots.txt files name programs")
    if not arguments.contact:
        print("warning: no --contact, so the owners of the sites cannot reach you", file=sys.stderr)
    for name in ABOVE_ZERO:
        if not 0 < getattr(arguments, name) < math.inf:  # which nan is not either
            raise UserError(f"--{name} {getattr(arguments, name)}: must be a number above 0")
    for name in ZERO_OR_ABOVE:
        if not 0 <= getattr(arguments, name) < math.inf:
            raise UserError(f"--{name} {getattr(arguments, name)}: must be a number, 0 or more")
    if arguments.fixed_date and not _is_date(arguments.fixed_date):
        raise UserError(f"--fixed_date {arguments.fixed_date}: write it as 2026-01-31T12:00:00Z")
    return Options(
        inputs=arguments.inputs,
        out=arguments.out,
        state=arguments.state,
        to=arguments.to,
        file_bytes=int(arguments.file_size * 1e6),
        chunk_size=arguments.chunk_size,
        retry=arguments.retry,
        agent=arguments.agent,
        contact=arguments.contact,
        block=arguments.block,
        respect_noai=arguments.respect_noai,
        max_redirects=arguments.max_redirects,
        overrides=[parse_override(text) for text in arguments.resolve],
        allow_private=arguments.allow_private,
        fixed_date=arguments.fixed_date,
        bandwidth=arguments.bandwidth * 1e6,
        limits=Limits(
            connect=arguments.connect_timeout,
            dns=arguments.connect_timeout,
            read=arguments.read_timeout,
            total=arguments.total_timeout,
            max_bytes=arguments.max_bytes,
        ),
        politeness=Politeness(delay=arguments.delay, max_crawl_delay=arguments.max_crawl_delay),
        effort=Effort(
            concurrency=arguments.concurrency,
            attempts=arguments.attempts,
            backoff_seconds=arguments.backoff,
            max_wait_seconds=arguments.max_wait,
        ),
    )


def _is_date(text: str) -> bool:
    try:
        return datetime.strptime(text, DATE).strftime(DATE) == text
    except ValueError:
        return False


def _parser() -> Parser:
    parser = Parser(__doc__)
    limits, politeness, effort = Limits(), Politeness(), Effort()
    add = parser.add_argument
    add(
        "inputs",
        nargs="+",
        type=user_paths.argument,
        metavar="URLS",
        help="file with one URL a line (.gz, .bz2, .xz, .zst too), folder, pattern",
    )
    add(
        "--out",
        required=True,
        type=user_paths.argument,
        metavar="DIR",
        help="folder of the archives; gs:// and s3:// with --state",
    )
    add(
        "--state",
        type=user_paths.argument,
        metavar="DIR",
        help="local folder of the journal, and of the pages until all are there (DIR/state)",
    )
    add("--to", choices=("warc", "archive"), default="warc", help="output format (%(default)s)")
    add("--file_size", type=number, default=1000, metavar="MB", help="size of a WARC file (%(default)s)")
    add("--chunk_size", type=int, default=1000, metavar="N", help="pages in one tar (%(default)s)")
    add("--contact", default="", metavar="TEXT", help="mail address or page of yours, sent with every request")
    add("--agent", default="openwebtext-downloader", metavar="NAME", help="how robots.txt calls us (%(default)s)")
    add("--retry", action="store_true", help="try those again that failed for a reason that may have passed")
    add("--respect_noai", action="store_true", help="leave out pages that say noai, noarchive or tdm-reservation")
    add(
        "--block",
        type=str,
        action="append",
        default=[],
        metavar="FILE",
        help="domains and .extensions not to fetch; repeatable",
    )
    group = parser.add_argument_group("politeness")
    add = group.add_argument
    add(
        "--delay",
        type=number,
        default=politeness.delay,
        metavar="S",
        help="seconds between requests to a host (%(default)s)",
    )
    add(
        "--max_crawl_delay",
        type=number,
        default=politeness.max_crawl_delay,
        metavar="S",
        help="leave out hosts that ask for more (%(default)s)",
    )
    add("--concurrency", type=int, default=effort.concurrency, metavar="N", help="hosts at a time (%(default)s)")
    add(
        "--bandwidth",
        type=number,
        default=0,
        metavar="MB",
        help="megabytes a second in all, 0 for no limit (%(default)s)",
    )
    add("--attempts", type=int, default=effort.attempts, metavar="N", help="times a URL is tried (%(default)s)")
    add(
        "--backoff",
        type=number,
        default=effort.backoff_seconds,
        metavar="S",
        help="first pause before another attempt, doubled each time (%(default)s)",
    )
    add(
        "--max_wait",
        type=number,
        default=effort.max_wait_seconds,
        metavar="S",
        help="give up where a server asks for a longer pause (%(default)s)",
    )
    group = parser.add_argument_group("limits")
    add = group.add_argument
    add(
        "--max_bytes",
        type=int,
        default=limits.max_bytes,
        metavar="N",
        help="of a page, sent or decompressed (%(default)s)",
    )
    add("--max_redirects", type=int, default=10, metavar="N", help="(%(default)s)")
    add(
        "--connect_timeout",
        type=number,
        default=limits.connect,
        metavar="S",
        help="DNS; connection and TLS (%(default)s)",
    )
    add("--read_timeout", type=number, default=limits.read, metavar="S", help="silence of a server (%(default)s)")
    add("--total_timeout", type=number, default=limits.total, metavar="S", help="of a request in all (%(default)s)")
    group = parser.add_argument_group("network")
    add = group.add_argument
    add(
        "--resolve",
        action="append",
        default=[],
        metavar="HOST:PORT:ADDRESS",
        help="where a host is, as curl's; HOST may be *.test",
    )
    add("--allow_private", action="store_true", help="fetch from private and local addresses too")
    add(
        "--fixed_date",
        metavar="DATE",
        help="write this into the records instead of the time, such as 2026-01-31T12:00:00Z",
    )
    return parser


if __name__ == "__main__":
    run_program(main)
