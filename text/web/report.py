"""What a download came to: a table for the eye and report.json for programs."""

import json
from collections.abc import Mapping
from typing import NamedTuple

from text.web import outcomes
from text.web.crawl import Progress


class Report(NamedTuple):
    """counts: URLs of each outcome, all of them together; the rest of this process. files: archives of this process.

    complete: nothing is pending and the archives hold every page.
    """

    counts: Mapping[str | None, int]
    progress: Progress
    seconds: float
    files: list[str]
    complete: bool

    @property
    def urls(self) -> int:
        return sum(self.counts.values())

    @property
    def pages_per_second(self) -> float:
        return self.progress.pages / self.seconds if self.seconds else 0.0

    def json(self) -> str:
        """As the file report.json holds it; the counts add up to `urls`."""
        values = {
            "urls": self.urls,
            "counts": {name: self.counts.get(name, 0) for name in outcomes.DESCRIPTIONS},
            "complete": self.complete,
            "pending": self.counts.get(None, 0),
            "this_run": {
                "urls": self.progress.finished,
                "pages": self.progress.pages,
                "received_bytes": self.progress.received_bytes,
                "seconds": round(self.seconds, 1),
                "pages_per_second": round(self.pages_per_second, 2),
                "files": self.files,
            },
        }
        return json.dumps(values, indent=2) + "\n"

    def lines(self) -> list[str]:
        """As a person reads it."""
        shown = [f"{'URLs':<22}{self.urls:>12,}"]
        for name, meaning in outcomes.DESCRIPTIONS.items():
            if self.counts.get(name):
                shown.append(f"  {name:<20}{self.counts[name]:>12,}  {meaning}")
        if self.counts.get(None):
            shown.append(f"  {'not finished':<20}{self.counts[None]:>12,}")
        megabytes = self.progress.received_bytes / 1e6
        shown.append(
            f"this run: {self.progress.pages:,} pages, {megabytes:,.1f} MB in {self.seconds:,.1f} s,"
            f" {self.pages_per_second:,.1f} pages/s"
        )
        if self.files:
            ends = self.files if len(self.files) < 4 else [self.files[0], "...", self.files[-1]]
            shown.append(f"written: {len(self.files)} files: {', '.join(ends)}")
        return shown
