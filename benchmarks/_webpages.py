"""Web pages whose main text is known, made by code: a few dozen layouts, some languages and encodings, fixed seeds.

The English text is that of the Python documentation of this installation; other languages have sentences put together
from small vocabularies with real function words. Around it stands what stands on real pages: menus, sidebars, comments,
cookie notices, teasers, forms, scripts. The truth is the main text as a reader would copy it, without the title.
"""

import functools
import random
import re
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks._foreign import PAGES, sentences
from benchmarks._layouts import LAYOUTS, Content, article, blog, old_tables, short
from estimator.corpus import python_docs

MIN_PARAGRAPH, MAX_PARAGRAPH = 120, 900
VARIANTS = 3


class WebPage(NamedTuple):
    """A page as it comes over the wire, and what its author wrote."""

    name: str
    body: bytes
    content_type: str
    title: str
    truth: str


def webpages(variants: int = VARIANTS) -> Iterator[WebPage]:
    """Every layout `variants` times with other text, then the languages."""
    prose = _prose()
    for number, layout in enumerate(LAYOUTS):
        for variant in range(variants):
            rng = random.Random(1000 * number + variant)
            count = rng.randint(2, 3) if layout is short else rng.randint(5, 12)
            start = rng.randrange(len(prose) - count)
            content = Content(_title(rng, prose), prose[start : start + count], rng)
            made = layout(content)
            name = f"{layout.__name__.strip('_')}-{variant}"
            yield WebPage(name, made.page.encode(), "text/html; charset=utf-8", content.title, made.truth)
    yield from _languages()


@functools.cache
def _prose() -> list[str]:
    """Paragraphs of the documentation that are sentences, each once, on one line."""
    found: dict[str, None] = {}
    for _, text in python_docs.documents():
        for paragraph in re.split(r"\n\s*\n", text):
            line = " ".join(paragraph.split())
            letters = sum(map(str.isalpha, line.replace(" ", "")))
            sentence = line[:1].isupper() and line.endswith(".") and letters > 0.85 * len(line.replace(" ", ""))
            if MIN_PARAGRAPH <= len(line) <= MAX_PARAGRAPH and sentence:
                found[line] = None
    return list(found)


def _title(rng: random.Random, prose: list[str]) -> str:
    return " ".join(rng.choice(prose).split()[:6]).strip(".,:;")


def _languages() -> Iterator[WebPage]:
    for number, (language, encoding, header, declared) in enumerate(PAGES):
        rng = random.Random(50_000 + number)
        paragraphs = [sentences(language, rng) for _ in range(6)]
        content = Content(sentences(language, rng)[:40], paragraphs, rng)
        made = (article, blog, old_tables, short)[number % 4](content)
        meta = f'<meta charset="{declared}">' if declared else ""
        page = made.page.replace('<meta charset="utf-8">', meta)
        if "<meta" not in page and meta:
            page = page.replace("<HEAD>", f"<HEAD>{meta}")
        body = page.encode(encoding, "xmlcharrefreplace")
        content_type = f"text/html; charset={header}" if header else "text/html"
        yield WebPage(
            f"{language}-{encoding}-{header or 'none'}-{declared or 'none'}",
            body,
            content_type,
            content.title,
            made.truth,
        )
