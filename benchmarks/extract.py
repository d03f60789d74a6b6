"""Measures quality and speed of main-text extraction from web pages against other libraries.

python -m benchmarks.extract                    pages made by code (_webpages.py)
python -m benchmarks.extract --pages FOLDER     real ones: html/ID.html.gz and ground-truth.json in a folder, as in
                                                https://github.com/scrapinghub/article-extraction-benchmark

Measured as there: runs of four words, each as often as it occurs; precision and recall of a page, their means over the
pages, and F1 of the two means. A title counts neither way. A library gets the bytes where it finds the encoding itself.
"""

import argparse
import collections
import gzip
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._report import versions
from benchmarks._webpages import WebPage, webpages
from crawler.charsets import decode
from crawler.extraction import EXTRACTORS, PageSource, extract
from estimator.corpus.minhash import WORD

RUN_WORDS = 4
Method = Callable[[WebPage], str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=Path, metavar="FOLDER", help="real pages with their texts")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="some of the extractors and libraries")
    parser.add_argument("--worst", type=int, default=0, metavar="N", help="also name the N worst pages of ours")
    arguments = parser.parse_args()
    pages = read_pages(arguments.pages) if arguments.pages else list(webpages())
    print(f"{len(pages)} pages, {sum(len(page.body) for page in pages) / 1e6:.1f} MB")
    results = {}
    for name, method in (ours() | libraries()).items():
        if not arguments.methods or name in arguments.methods:
            results[name] = measured(method, pages)
            figures = "  ".join(f"{key} {results[name][key]:.4f}" for key in ("precision", "recall", "f1"))
            print(f"{name:24} {figures}  {results[name]['pages_per_second']:7.1f} pages/s", flush=True)
    for name, score in sorted(results.get("ours", {}).get("scores", {}).items(), key=lambda item: item[1])[
        : arguments.worst
    ]:
        print(f"{score:.3f} {name}")
    print(json.dumps(summary(results, pages)))


def ours() -> dict[str, Method]:
    """What extract_text.py does with the bytes of a page, by each of its extractors; the default is "ours"."""

    def method(extractor: str) -> Method:
        return lambda page: extract(PageSource(page.body, page.content_type), extractor=extractor).text

    return {"ours" if name == "best" else f"ours, {name}": method(name) for name in EXTRACTORS}


def libraries() -> dict[str, Method]:
    """The libraries as their own first example uses them, where they are installed."""
    found: dict[str, Method] = {}
    try:
        import trafilatura

        found["trafilatura"] = lambda page: trafilatura.extract(page.body) or ""
        found["trafilatura, no comments"] = lambda page: trafilatura.extract(page.body, include_comments=False) or ""
    except ImportError:
        pass
    try:
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.encoding import bytes_to_str, detect_encoding

        def resiliparse(page: WebPage) -> str:
            return extract_plain_text(bytes_to_str(page.body, detect_encoding(page.body) or "utf-8"), main_content=True)

        found["resiliparse"] = resiliparse
    except ImportError:
        pass
    try:
        import justext

        stop_words = justext.get_stoplist("English")

        def by_justext(page: WebPage) -> str:
            return "\n".join(each.text for each in justext.justext(page.body, stop_words) if not each.is_boilerplate)

        found["justext"] = by_justext
    except ImportError:
        pass
    try:
        import newspaper

        def by_newspaper(page: WebPage) -> str:
            article = newspaper.Article("http://localhost/", language="en")
            article.download(input_html=decode(page.body, page.content_type)[0])
            article.parse()
            return article.text

        found["newspaper4k"] = by_newspaper
    except ImportError:
        pass
    return found


def measured(method: Method, pages: list[WebPage]) -> dict[str, Any]:
    method(pages[0])  # what a library loads at its first call is not counted
    start = time.perf_counter()
    texts = [attempted(method, page) for page in pages]
    seconds = time.perf_counter() - start
    scores = [score(without_title(text, page), page.truth) for text, page in zip(texts, pages, strict=True)]
    precision, recall = (statistics.mean(values) for values in zip(*scores, strict=True))
    return {
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "f1": round(harmonic_mean(precision, recall), 4),
        "pages_per_second": round(len(pages) / seconds, 1),
        "scores": {page.name: harmonic_mean(*pair) for page, pair in zip(pages, scores, strict=True)},
    }


def attempted(method: Method, page: WebPage) -> str:
    """The text, or "" where a library raises an error."""
    try:
        return method(page)
    except Exception as error:
        print(f"{page.name}: {type(error).__name__}: {error}")
        return ""


def without_title(text: str, page: WebPage) -> str:
    lines = [line for line in text.splitlines() if line.strip(" #*") != page.title]
    return "\n".join(lines)


def score(text: str, truth: str) -> tuple[float, float]:
    """Precision and recall."""
    found, wanted = runs(text), runs(truth)
    common = (found & wanted).total()
    return common / found.total() if found else 0.0, common / wanted.total() if wanted else 1.0


def runs(text: str) -> collections.Counter[tuple[str, ...]]:
    words = WORD.findall(text)
    count = max(1, len(words) - RUN_WORDS + 1) if words else 0
    return collections.Counter(tuple(words[i : i + RUN_WORDS]) for i in range(count))


def harmonic_mean(one: float, other: float) -> float:
    return 2 * one * other / (one + other) if one + other else 0.0


def read_pages(folder: Path) -> list[WebPage]:
    truths = json.loads((folder / "ground-truth.json").read_text(encoding="utf-8"))
    return [
        WebPage(name, gzip.decompress((folder / "html" / f"{name}.html.gz").read_bytes()), "", "", truth["articleBody"])
        for name, truth in truths.items()
    ]


def summary(results: dict[str, dict[str, Any]], pages: list[WebPage]) -> dict[str, Any]:
    shown = {name: {key: value for key, value in result.items() if key != "scores"} for name, result in results.items()}
    peers = {name: result["f1"] for name, result in shown.items() if not name.startswith("ours")}
    mine = shown.get("ours", {}).get("f1")
    return {
        "name": "extract",
        "unit": "F1 of runs of four words",
        "ours": mine,
        "peers": peers,
        "ratio": round(mine / max(peers.values()), 4) if peers and mine else None,
        "device": f"{platform.processor() or platform.machine()}, one core",
        "versions": versions("trafilatura", "resiliparse", "justext", "newspaper4k", "lxml"),
        "details": {"pages": len(pages), **shown},
    }


if __name__ == "__main__":
    main()
