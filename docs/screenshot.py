"""Takes docs/page.png from a running server: three samples, and the probabilities of a token.

    python3 serve.py --model runs/demo/model          # after `make demo`
    python3 docs/screenshot.py                        # in another console

Needs requirements-dev.txt and Chromium.
"""

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

FIGURE = Path(__file__).with_name("page.png")
SIZE = {"width": 1340, "height": 620}
SETTINGS = {"max_tokens": "60", "temperature": "0.6", "seed": "4"}
TOKEN = 12  # of the first sample, under the pointer


def main() -> None:
    from playwright import sync_api

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", nargs="?", default="http://127.0.0.1:8000", help="of the server (%(default)s)")
    parser.add_argument("--out", type=Path, default=FIGURE, help="%(default)s")
    arguments = parser.parse_args()
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        tab = playwright.chromium.launch(executable_path=path, args=sandbox).new_page(viewport=SIZE)
        tab.goto(arguments.address)
        take(tab, arguments.out)


def take(tab: Any, out: Path) -> None:
    """Writes the picture of a browser's tab that shows the page."""
    tab.fill("#prompt", "The function returns a list of")
    tab.fill("#samples", "3")
    for name, value in SETTINGS.items():
        tab.fill(f"[name={name}]", value)
    tab.click("#write-go")
    tab.locator("#write-status", has_text="tokens in").wait_for(timeout=600_000)
    tab.locator("#results .text").first.locator(".t").nth(TOKEN).hover()
    tab.locator("#tip").wait_for()
    tab.screenshot(path=out)


if __name__ == "__main__":
    main()
