"""How far a download is: a bar on a terminal, a line now and then elsewhere."""

import sys
import time

from tqdm import tqdm

from text.web.crawl import Progress

LINE_SECONDS = 10.0


class ProgressBar:
    """A bar on a terminal, a line now and then elsewhere."""

    def __init__(self, *, total: int, done: int) -> None:
        self._total = total
        self._before = done
        self._start = self._said = time.monotonic()
        self._bar = tqdm(
            total=total, initial=done, unit=" URLs", desc="downloading", disable=not sys.stderr.isatty(), smoothing=0.05
        )

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        rate = progress.pages / max(now - self._start, 1e-9)
        if not self._bar.disable:
            self._bar.update(self._before + progress.finished - self._bar.n)
            self._bar.set_postfix_str(f"{rate:.1f} pages/s, {progress.received_bytes / 1e6:.0f} MB", refresh=False)
        elif now - self._said >= LINE_SECONDS:
            self._said = now
            done = self._before + progress.finished
            left = (self._total - done) * (now - self._start) / max(progress.finished, 1)
            print(
                f"{done:,} of {self._total:,} URLs, {progress.pages:,} pages, {rate:.1f} pages/s,"
                f" about {_duration(left)} left",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        self._bar.close()


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60} min {rest % 60:02d} s"
