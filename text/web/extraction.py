"""The main text of a web page: what its author wrote, without menus, sidebars, notices and comments.

The work is trafilatura's (Barbaresi, 2021, https://aclanthology.org/2021.acl-demo.15). `best` takes what it finds when
it is strict, unless that is less than half of what it finds when it is not: strictness then lost the text. So it is
better than either on pages made by code and on 181 real ones (benchmarks/extract.py). Where both find next to nothing,
resiliparse's text is taken.
"""

import copy
import functools
import importlib.util
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from runtime.errors import UserError
from text.web.charsets import decode

# A strict result with a smaller share of the other's characters has lost the text; 0.5 to 0.7 measure alike.
STRICT_SHARE = 0.5
# Below so many characters a caption or a notice was found, not the text.
LITTLE = 200
MARKUP = re.compile(r"<\s*(!doctype|html|head|body|div|p|table|article|section|span|title|br|h[1-6])\b", re.IGNORECASE)
MARKUP_WITHIN = 4096
MODULES = ("trafilatura", "resiliparse.extract.html2text", "resiliparse.parse.encoding", "text.web.extraction")


class Source(NamedTuple):
    """What extraction is given. kind: "html", "text", or "" where the bytes must tell."""

    body: bytes
    content_type: str = ""
    url: str = ""
    kind: str = ""


class Extracted(NamedTuple):
    """What a page says. text: paragraphs, one a line, "" where there is none. date: of publication, YYYY-MM-DD."""

    text: str
    title: str = ""
    author: str = ""
    date: str = ""
    charset: str = ""


def extract(source: Source, *, extractor: str = "best") -> Extracted:
    """The main text of a page. extractor: a key of EXTRACTORS."""
    text, charset = decode(source.body, source.content_type)
    if source.kind == "text" or (not source.kind and not MARKUP.search(text[:MARKUP_WITHIN])):
        return Extracted("" if "\0" in text else text.strip(), charset=charset)
    found = EXTRACTORS[extractor](text.replace("\0", ""), source.url)
    # A page may name a half of a surrogate pair by its number; it cannot be written in UTF-8.
    return found._replace(text=found.text.encode("utf-8", "replace").decode(), charset=charset)


def require(extractor: str) -> None:
    """Raises UserError where a package is missing."""
    if extractor not in EXTRACTORS:
        raise UserError(f"no extractor {extractor!r}; there are {', '.join(EXTRACTORS)}")
    for package in ("trafilatura", "resiliparse"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"pages need {package}: pip install -r requirements-data.txt")


def _trafilatura(html: Any, url: str, *, with_metadata: bool = True, **options: Any) -> Extracted:
    """html: text, or the tree of it, which is used up."""
    import trafilatura

    found = trafilatura.bare_extraction(
        html,
        url=url or None,
        include_comments=False,
        with_metadata=with_metadata,
        date_extraction_params={"extensive_search": False, "original_date": True},
        **options,
    )
    if found is None:
        return Extracted("")
    facts = found if isinstance(found, dict) else found.as_dict()
    title, author, date = (str(facts.get(key) or "") for key in ("title", "author", "date"))
    return Extracted((facts.get("text") or "").strip(), title, author, date)


def _resiliparse(html: str, url: str) -> Extracted:
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(html)
    text = extract_plain_text(tree, main_content=True, alt_texts=False, preserve_formatting=True)
    return Extracted(re.sub(r"\n{2,}", "\n", text).strip(), (tree.title or "").strip())


def _best(html: str, url: str) -> Extracted:
    import trafilatura

    tree = trafilatura.load_html(html)
    if tree is None:
        return Extracted("")
    strict = _trafilatura(copy.deepcopy(tree), url, fast=True, favor_precision=True)
    text = _trafilatura(tree, url, fast=True, favor_recall=True, with_metadata=False).text
    if len(strict.text) >= STRICT_SHARE * len(text):
        text = strict.text
    if len(text) < LITTLE:
        other = _resiliparse(html, url).text
        text = other if len(other) > 2 * len(text) else text
    return strict._replace(text=text)


EXTRACTORS: dict[str, Callable[[str, str], Extracted]] = {
    "best": _best,
    "trafilatura": _trafilatura,
    "fast": functools.partial(_trafilatura, fast=True),
    "precision": functools.partial(_trafilatura, favor_precision=True),
    "recall": functools.partial(_trafilatura, favor_recall=True),
    "resiliparse": _resiliparse,
}
