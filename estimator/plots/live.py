"""Serves a page on this machine that follows runs while they train."""

import contextlib
import hashlib
import re
import secrets
import threading
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from estimator import storage
from estimator.errors import UserError
from estimator.plots import figure, report, summary
from estimator.plots.runs import Group, left_out, load_groups, metrics_file, paths_of

PORT = 6007
NARROWEST, WIDEST, PIXELS_PER_INCH = 3.0, 11.0, 96  # of the figure
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>runs</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<style>%(style)s form { display: flex; flex-wrap: wrap; gap: 18px; margin: 14px 0; }
td, th { white-space: nowrap; }</style></head><body>
<h1>Runs</h1>
<form><label>x axis <select name="x">%(axes)s</select></label>
<label><input type="checkbox" name="log_x"> logarithmic x</label>
<label><input type="checkbox" name="log_y"> logarithmic loss</label><span id="state" role="status"></span></form>
<div id="runs"></div>
<script nonce="%(nonce)s">
const form = document.forms[0], runs = document.getElementById("runs"), state = document.getElementById("state");
let tag = "", timer = 0, asked = 0;
state.textContent = "drawing";
async function follow() {
  clearTimeout(timer);
  const began = Date.now(), mine = ++asked;
  try {
    const query = new URLSearchParams(new FormData(form));
    query.set("width", runs.clientWidth);
    const answer = await fetch("figure?" + query, {headers: {"If-None-Match": tag}});
    if (mine !== asked) return;
    if (answer.status === 200) {
      const text = await answer.text(), left = runs.querySelector(".scroll")?.scrollLeft ?? 0;
      runs.innerHTML = text; tag = answer.headers.get("ETag");
      runs.querySelector(".scroll")?.scrollTo(left, 0);
    }
    state.textContent = answer.status < 400 ? "" : "error " + answer.status;
  } catch { state.textContent = "visualize.py has ended"; }
  if (mine === asked) timer = setTimeout(follow, Math.max(2000, 5 * (Date.now() - began)));
}
form.addEventListener("change", () => { tag = ""; follow(); });
follow();
</script></body></html>
"""


class LiveServer(ThreadingHTTPServer):
    """Serves the page of runs, given as on the command line, on 127.0.0.1. port: 0 takes a free one."""

    daemon_threads = True

    def __init__(self, entries: Sequence[str], options: figure.Options, *, by_seed: bool, port: int):
        figure.require_matplotlib()
        self.entries, self.options, self.by_seed = entries, options, by_seed
        self._drawing = threading.Lock()  # Matplotlib's settings belong to the process
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            fault = error.strerror if isinstance(error, OSError) else "write a number up to 65535"
            raise UserError(f"--port {port}: {fault}; choose another, or 0 for a free one") from None

    @property
    def address(self) -> str:
        """The address of the page."""
        return f"http://127.0.0.1:{self.server_port}/"

    def tag(self, query: str) -> str:
        """Changes when the figure does: a digest of the sizes of the metrics files."""
        digest = hashlib.sha256(query.encode())
        try:
            paths = paths_of(self.entries)
        except UserError:  # no match of a pattern has begun yet
            paths = []
        for path in paths:
            try:
                digest.update(f"{path} {storage.size(metrics_file(path))}".encode())
            except UserError:  # has not begun yet
                digest.update(path.encode())
        return f'"{digest.hexdigest()[:32]}"'

    def fragment(self, query: dict[str, list[str]]) -> str:
        """The table of the runs and their figure, or what is wrong with them."""
        x = query.get("x", ["steps"])[0]
        chosen = {"x": x if x in figure.X_AXES else "steps", "log_x": "log_x" in query, "log_y": "log_y" in query}
        options = figure.Options(
            panels=self.options.panels, smooth=self.options.smooth, theme=report.THEME, width=_inches(query), **chosen
        )
        with self._drawing:
            try:
                groups = load_groups(self.entries, by_seed=self.by_seed)
                notes = "".join(f"<p>{report.text(line)}</p>" for line in left_out(self.entries))
                return f'{_table(groups)}{notes}<div class="scroll">{report.svg(groups, options)}</div>'
            except UserError as error:
                return f"<p>{report.text(error)}</p>"


def _inches(query: dict[str, list[str]]) -> float:
    """The width of a figure whose text is as large as the page's."""
    pixels = query.get("width", [""])[0]
    width = int(pixels) if re.fullmatch("[0-9]{1,5}", pixels) else WIDEST * PIXELS_PER_INCH
    return min(max(width / PIXELS_PER_INCH, NARROWEST), WIDEST)


def _table(groups: list[Group]) -> str:
    rows = [(run.label, dict(summary.results(run))) for group in groups for run in group.runs]
    names = [name for name in summary.NAMES if name != "of which" and any(name in results for _, results in rows)]
    cells = [[report.text(label), *(report.text(results.get(name, "")) for name in names)] for label, results in rows]
    return report.table(["run", *names], cells)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # the body need not wait 40 ms for the browser to confirm the headers

    def do_GET(self) -> None:
        with contextlib.suppress(ConnectionError):  # the page was closed
            self._get()

    def _get(self) -> None:
        assert isinstance(self.server, LiveServer)
        url = urlsplit(self.path)
        host = self.headers.get("Host", "")
        if host.rpartition(":")[0] not in ("127.0.0.1", "localhost"):  # a page elsewhere whose name leads here
            self._answer(HTTPStatus.FORBIDDEN, "open http://127.0.0.1")
        elif url.path == "/":
            nonce = secrets.token_urlsafe(16)
            axes = "".join(f"<option{' selected' if x == self.server.options.x else ''}>{x}" for x in figure.X_AXES)
            page = PAGE % {"style": report.style(), "axes": axes, "nonce": nonce}
            policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; connect-src 'self'"
            self._answer(HTTPStatus.OK, page, **{"Content-Security-Policy": policy})
        elif url.path == "/figure":
            tag = self.server.tag(url.query)
            if self.headers.get("If-None-Match") == tag:
                self._answer(HTTPStatus.NOT_MODIFIED, "")
            else:
                self._answer(HTTPStatus.OK, self.server.fragment(parse_qs(url.query)), ETag=tag)
        else:
            self._answer(HTTPStatus.NOT_FOUND, "no such page")

    def _answer(self, status: HTTPStatus, text: str, **headers: str) -> None:
        data = text.encode(errors="replace")
        self.send_response(status)
        headers |= {"Content-Type": "text/html; charset=utf-8", "Content-Length": str(len(data))}
        for name, value in (headers | {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Prints nothing for each request."""


def serve(entries: Sequence[str], options: figure.Options, *, by_seed: bool, port: int) -> None:
    """Serves until Ctrl-C."""
    with LiveServer(entries, options, by_seed=by_seed, port=port) as server:
        print(f"{server.address} follows {', '.join(entries)}; Ctrl-C ends", flush=True)
        server.serve_forever()
