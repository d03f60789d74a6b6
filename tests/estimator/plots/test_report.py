"""The report and the live page in a headless browser."""

import contextlib
import http.client
import json
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("playwright.sync_api", reason="no playwright; pip install -r requirements-dev.txt")

from helpers.browsers import chromium
from helpers.runs import write_run
from playwright import sync_api as api

from estimator.errors import UserError
from estimator.plots import figure, live, report

HOSTILE = "<script>document.title = 'run'</script><img src='http://example.com/x' onerror='alert(1)'> & \"$x$\""


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@contextlib.contextmanager
def opened(browser, address: str, **options):
    """Opens a page; it must not load external resources or run scripts that are part of a run's texts."""
    context = browser.new_context(**options)
    page = context.new_page()
    asked, faults = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
    page.goto(address)
    yield page
    assert faults == []
    assert all(url.startswith(address) for url in asked), asked
    context.close()


def full_run(folder):
    """Writes a run with everything that a report displays, including text that tries to run scripts."""
    write_run(folder, changes={"mfu": 0.4, "compile_seconds": 0.5, "input_wait": 0.1})
    event = {"step": 20, "tokens": 9, "split": "event", "event": "skipped", "reason": HOSTILE, "time": 1.7e9}
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps(event) + "\n")
    values = {"model_path": str(folder), "train_batch_size": 8, "data_path": HOSTILE, "long": "word " * 300}
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "origin.json").write_text(json.dumps({"version of JAX": "0.0", "data": [HOSTILE]}))
    (folder / "samples").mkdir()
    for step in range(1, 31):
        row = {"step": step, "prompt": HOSTILE, "text": f"sample {step}\n" + HOSTILE + "x" * 300}
        (folder / "samples" / f"{step}.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "evaluations.jsonl").write_text(json.dumps({"step": 40, "task": HOSTILE, "accuracy": 0.25}) + "\n[1]\n{")
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_report_shows_the_run_and_runs_nothing(tmp_path, browser, scheme, width):
    path = report.write(str(full_run(tmp_path / "a <b> & run")))
    size = {"width": width, "height": 800}
    with opened(browser, Path(path).as_uri(), viewport=size, color_scheme=scheme) as page:
        assert page.title() == "a <b> & run"
        assert page.locator("h2").all_inner_texts() == [
            "Curves", "Time", "Samples", "Evaluation", "Events", "Configuration", "Environment"
        ]  # fmt: skip
        assert page.locator("img, script").count() == 0
        assert page.locator("details").count() == report.MOST_STEPS
        newest = page.locator("details[open] pre").inner_text()
        assert newest == f"{HOSTILE}sample 30\n{HOSTILE}{'x' * 300}"
        assert page.get_by_text(HOSTILE).count() >= 4
        assert "25" in page.locator("section", has_text="Tasks and files").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        ink = page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ink != back
        assert (max(map(int, back[4:-1].split(", "))) > 200) == (scheme == "light")
        line = page.evaluate("getComputedStyle(document.querySelector('svg path[style*=\"--series0\"]')).stroke")
        assert line == ("rgb(0, 114, 178)" if scheme == "light" else "rgb(86, 180, 233)")


@pytest.mark.parametrize("width", [1180, 390])
def test_labels_of_the_figure_do_not_overlap(tmp_path, browser, width):
    path = report.write(str(full_run(tmp_path / "run")))
    with opened(browser, f"file://{path}", viewport={"width": width, "height": 800}) as page:
        overlaps = page.evaluate("""() => {
          const drawing = [...document.querySelectorAll("svg")].find(svg => svg.getBoundingClientRect().width);
          const boxes = [...drawing.querySelectorAll("text")].map(
            text => [text.textContent, text.getBoundingClientRect()]);
          const view = drawing.getBoundingClientRect(), faults = [];
          boxes.forEach(([name, a], i) => {
            const isCut = a.left < view.left - 1 || a.right > view.right + 1 || a.bottom > view.bottom + 1;
            if (isCut) faults.push([name, "cut"]);
            boxes.slice(i + 1).forEach(([other, b]) => {
              const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
              const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
              if (wide > 1 && high > 3) faults.push([name, other]);
            });
          });
          return faults;
        }""")
        assert overlaps == []


@pytest.mark.parametrize("width", [320, 390, 640])
def test_no_part_of_a_report_scrolls_sideways_on_a_phone(tmp_path, browser, width):
    folder = full_run(tmp_path / "run")
    records = [{"step": 40, "file": "x" * 60, **{f"number_of_things_{i}": 0.5 for i in range(12)}}, {"task": "choice"}]
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "origin.json").write_text(json.dumps({"JAX_DEFAULT_MATMUL_PRECISION_AND_MORE": "a" * 200}))
    path = report.write(str(folder))
    with opened(browser, Path(path).as_uri(), viewport={"width": width, "height": 800}) as page:
        assert (
            page.evaluate("""() => [...document.querySelectorAll("body *")].filter(
          part => part.scrollWidth > part.clientWidth && getComputedStyle(part).overflowX !== "visible"
        ).map(part => part.outerHTML.slice(0, 200))""")
            == []
        )
        letters = page.locator("svg text:visible", has_text="steps").first.bounding_box()
        assert 10 <= letters["height"] <= 24
        cells = page.locator("section", has_text="Tasks and files").locator(".stacked td:visible")
        assert cells.count() == 15
        assert cells.first.evaluate("cell => getComputedStyle(cell, '::before').content") == '"task"'
        assert page.locator(".stacked th:visible").count() == 0


def test_events_are_told_in_words(tmp_path, browser):
    start = {"event": "start", "start_seconds": 72.896, "evaluation": "7a4e" * 8}
    events = [
        start,
        {"event": "control", "command": "lr", "value": 0.0005, "request": "0179-f6ff"},
        {"event": "control", "command": "rejected", "request": "0180-f6ff", "fault": "not JSON"},
        start | {"lost_steps": 3, "lost_seconds": 1.5},
        {"event": "stop", "is_complete": True},
        {"event": "stop", "is_complete": False},
    ]
    folder = write_run(tmp_path / "run")
    with open(folder / "metrics.jsonl", "a") as file:
        file.writelines(json.dumps({"step": 5, "split": "event", "time": 1.7e9, **event}) + "\n" for event in events)
    with opened(browser, Path(report.write(str(folder))).as_uri()) as page:
        section = page.locator("section", has_text="Events")
        assert section.locator("td:last-child").all_inner_texts() == [
            "not complete",
            "complete",
            "start 1:13, lost steps 3, lost to restarts and rollbacks 1.5 s",
            "rejected, fault not JSON",
            "lr 0.0005",
            "start 1:13",
        ]
        bar, table = page.locator(".bar").bounding_box(), page.locator("section", has_text="Time").locator("table")
        assert table.bounding_box()["y"] >= bar["y"] + bar["height"] + 8


def test_lines_of_the_console_are_a_line_each(tmp_path, browser):
    folder = full_run(tmp_path / "run")
    (folder / "origin.json").write_text(json.dumps({"data": ["9 documents & more", "by names, valid/"], "axes": ["a"]}))
    with opened(browser, Path(report.write(str(folder))).as_uri()) as page:
        cells = page.locator("section", has_text="Environment").locator("td.value").all_inner_texts()
        assert cells == ["9 documents & more\nby names, valid/", '["a"]']


def test_a_report_without_matplotlib_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    page = report.page(str(write_run(tmp_path / "run")))
    assert "pip install matplotlib" in page
    assert "<svg" not in page


def test_a_report_that_cannot_be_written_fails_no_run(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "page", lambda folder: "")
    folder = write_run(tmp_path / "run")
    (folder / "report.html").mkdir()
    lines = report.conclusion(str(folder), is_written=True)
    assert lines[-1] == f"no report: {folder}/report.html: Is a directory; name a file, not a folder"


def test_a_report_needs_a_folder(tmp_path):
    with pytest.raises(UserError, match="a report is about a run's folder"):
        report.write(str(write_run(tmp_path / "run") / "metrics.jsonl"))


@contextlib.contextmanager
def served(*entries):
    server = live.LiveServer([str(entry) for entry in entries], figure.Options(), by_seed=False, port=0)
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_live_page_follows_runs(tmp_path, browser):
    folder = write_run(tmp_path / "one", steps=30)
    (tmp_path / "two <i>").mkdir()
    with served(folder, tmp_path / "two <i>") as server, opened(browser, server.address) as page:
        runs = page.locator("#runs")
        api.expect(runs).to_contain_text("two <i>: no runs", timeout=60_000)
        (tmp_path / "two <i>").rmdir()
        write_run(tmp_path / "two <i>", steps=20)
        api.expect(runs.locator("tr")).to_have_count(3, timeout=60_000)
        assert runs.locator("tr").all_inner_texts()[2].split("\t")[:2] == ["two <i>", "20"]
        row = {"step": 50, "tokens": 99, "split": "train", "loss": 1.0, "time": 1.0, "step_seconds": 1.0, "flops": 9.0}
        with open(folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        api.expect(runs.locator("tr").nth(1)).to_contain_text("50", timeout=60_000)
        page.select_option("select", "tokens")
        api.expect(runs.locator("svg")).to_contain_text("tokens", timeout=60_000)


def test_the_live_page_waits_for_the_runs_of_a_pattern(tmp_path):
    (tmp_path / "0000.json").write_text("{}")
    with served(tmp_path / "000*") as server:
        with urllib.request.urlopen(server.address + "figure") as answer:
            assert b"nothing with such a name is a run" in answer.read()
            before = answer.headers["ETag"]
        write_run(tmp_path / "0000")
        with urllib.request.urlopen(server.address + "figure") as answer:
            assert b"<svg" in answer.read()
            assert answer.headers["ETag"] != before


@pytest.mark.parametrize("width", [600, 390, 1180])
def test_the_live_page_fits_the_width_of_the_window(tmp_path, browser, width):
    folders = [write_run(tmp_path / name) for name in ("one", "two")]
    event = {"step": 0, "split": "event", "event": "start", "start_seconds": 200.0}
    for folder in folders:
        with open(folder / "metrics.jsonl", "a") as file:
            file.write(json.dumps(event) + "\n")
    with served(*folders) as server, opened(browser, server.address, viewport={"width": width, "height": 800}) as page:
        drawing = page.locator("#runs svg")
        api.expect(drawing).to_have_count(1, timeout=60_000)
        box = drawing.bounding_box()
        assert box["x"] + box["width"] <= width
        assert all(row.bounding_box()["height"] < 40 for row in page.locator("#runs tr").all())
        letters = page.locator("svg text", has_text="steps").first.bounding_box()
        assert 10 <= letters["height"] <= 24
        page.set_viewport_size({"width": 500, "height": 800})
        page.evaluate("document.querySelector('#runs .scroll').scrollTo(50, 0)")
        api.expect(drawing).not_to_have_attribute("viewBox", drawing.get_attribute("viewBox"), timeout=60_000)
        assert page.evaluate("document.querySelector('#runs .scroll').scrollLeft") == 50


def test_the_live_page_answers_this_machine_only(tmp_path):
    with served(write_run(tmp_path / "run")) as server:
        assert server.server_address[0] == "127.0.0.1"
        for path, host, status in (("", "example.com:80", 403), ("nothing", None, 404)):
            request = urllib.request.Request(server.address + path, headers={"Host": host} if host else {})
            with pytest.raises(urllib.error.HTTPError) as fault:
                urllib.request.urlopen(request)
            assert fault.value.code == status
        with pytest.raises(UserError, match=f"--port {server.server_port}: .*choose another"):
            live.LiveServer([], figure.Options(), by_seed=False, port=server.server_port)
    with pytest.raises(UserError, match="--port 99999: write a number up to 65535"):
        live.LiveServer([], figure.Options(), by_seed=False, port=99999)


def test_the_live_page_sends_small_packets_at_once(monkeypatch):
    """Else the body of an answer waits until the browser has confirmed the headers, 40 ms."""
    with served() as server:
        accept, accepted = server.get_request, []
        monkeypatch.setattr(server, "get_request", lambda: accepted.append(accept()) or accepted[-1])
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.server_port)) as client:
            client.request("GET", "/nothing")
            assert client.getresponse().read() == b"no such page"
            assert accepted[0][0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
