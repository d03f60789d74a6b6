"""The main text of a web page: what its author wrote, without menus, sidebars, notices and comments.

The work is trafilatura's (Barbaresi, 2021, https://aclanthology.org/2021.acl-demo.15). `best` takes its strict result
unless that has lost text, as its default and loose results show; the default takes three times as long and is computed
only in doubt. So it is better than each on pages made by code (benchmarks/extract.py). Where all find next to nothing,
resiliparse's text is taken.
"""

import copy
import functools
import importlib.util
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from crawler.charsets import decode
from estimator import invocation
from estimator.corpus.raised_digits import set_apart
from estimator.errors import UserError

# A strict result with a smaller share of the default's characters has lost text; 0.6 to 0.95 measure alike.
STRICT_SHARE = 0.7
# A default result with a smaller share of the loose one's has lost it too; a strict one with more of all that a page
# shows has not. 0.4 and 0.5 measure alike.
HALF = 0.5
# Below so many characters a caption or a notice was found, not the text.
LITTLE = 200
_TAGS = "!doctype html|html|head|body|div|p|table|article|section|span|title|br|h[1-6]"
MARKUP = re.compile(rf"<\s*({_TAGS})\b", re.IGNORECASE)
MARKUP_WITHIN = 4096
# How HTML begins (WHATWG "MIME Sniffing", 7.1, and an XML declaration), and how it ends.
BEGIN = re.compile(
    rf"\s*(<!--|<\?xml\b|<({_TAGS}|a|b|font|frameset|h1|iframe|link|main|meta|noscript|script|style|!doctype)[\s/>])",
    re.IGNORECASE,
)
END = re.compile(r"</(body|html)\s*>\s*(<!--.*)?$", re.IGNORECASE | re.DOTALL)
END_WITHIN = 1000
# A text of one character between two tags, and a character for private use that is put after it and taken away.
SINGLE = re.compile(r"(>\s*(?:[\u0800-\uffff]|&#?\w{1,32};))(\s*<)")
COMPANION = "\U0010fffd"
MODULES = ("trafilatura", "resiliparse.extract.html2text", "resiliparse.parse.encoding", "crawler.extraction")


class PageSource(NamedTuple):
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


def extract(source: PageSource, *, extractor: str = "best") -> Extracted:
    """The main text of a page. extractor: a key of EXTRACTORS."""
    text, charset = decode(source.body, source.content_type)
    if not _is_html(text, source):
        return Extracted("" if "\0" in text else text.strip(), charset=charset)
    found = EXTRACTORS[extractor](set_apart(text.replace("\0", "")), source.url)
    # A page may name a half of a surrogate pair by its number; it cannot be written in UTF-8.
    return found._replace(text=found.text.encode("utf-8", "replace").decode(), charset=charset)


def _is_html(text: str, source: PageSource) -> bool:
    """Whether a page is HTML: one that was served as such has a tag; another begins or ends as HTML does.

    A tag within a text is not enough, as people write about tags.
    """
    if source.kind:
        return source.kind == "html"
    if "html" in source.content_type.lower():
        return MARKUP.search(text[:MARKUP_WITHIN]) is not None
    return (BEGIN.match(text) or END.search(text[-END_WITHIN:])) is not None


def require(extractor: str) -> None:
    """Raises UserError where a package is missing."""
    if extractor not in EXTRACTORS:
        raise UserError(f"no extractor {extractor!r}; available: {', '.join(EXTRACTORS)}")
    for package in ("trafilatura", "resiliparse"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"pages need {package}: {invocation.install('data')}")


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

    # It drops a text of one character, such as a minus sign (findings/resiliparse_single_characters.sh).
    tree = HTMLTree.parse(SINGLE.sub(rf"\1{COMPANION}\2", html))
    text = extract_plain_text(tree, main_content=True, alt_texts=False, preserve_formatting=True)
    text, title = (each.replace(COMPANION, "").strip() for each in (text, tree.title or ""))
    return Extracted(re.sub(r"\n{2,}", "\n", text), title)


def _best(html: str, url: str) -> Extracted:
    import trafilatura

    tree = trafilatura.load_html(html)
    if tree is None:
        return Extracted("")
    visible = sum(map(len, tree.xpath("//body//text()[normalize-space() and not(parent::script or parent::style)]")))
    strict = _trafilatura(copy.deepcopy(tree), url, fast=True, favor_precision=True)
    loose = _trafilatura(copy.deepcopy(tree), url, fast=True, favor_recall=True, with_metadata=False).text
    text = strict.text
    if len(text) < max(STRICT_SHARE * len(loose), HALF * visible):
        default = _trafilatura(tree, url, with_metadata=False).text
        if len(text) < STRICT_SHARE * len(default):
            text = default
        if len(text) < HALF * len(loose):
            text = loose
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
