"""Main text extraction on pages with known text: at least as accurate as the underlying libraries."""

import re
from html import unescape

import pytest

from benchmarks import extract as benchmark
from benchmarks._webpages import webpages
from crawler import extraction
from crawler.extraction import EXTRACTORS, PageSource, extract
from estimator.corpus.file_types import text_of_page
from estimator.errors import UserError

pytest.importorskip("trafilatura", reason="extracts text")
pytest.importorskip("resiliparse", reason="extracts text")
PAGES = list(webpages(variants=1))


def test_pages_of_the_benchmark_are_always_the_same_and_many():
    assert list(webpages(variants=1)) == PAGES
    assert len(list(webpages())) >= 50
    assert len({page.name for page in webpages()}) == len(list(webpages()))


def test_ours_is_at_least_as_good_as_each_library_alone():
    libraries = benchmark.libraries()
    names = ("trafilatura", "trafilatura, no comments", "resiliparse")
    ours = benchmark.measured(benchmark.ours()["ours"], PAGES)
    for name in names:
        assert ours["f1"] >= benchmark.measured(libraries[name], PAGES)["f1"], name
    assert ours["f1"] > 0.97


@pytest.mark.parametrize("name", ["article-body", "related", "share", "caption", "banner", "rating", "navigation-text"])
@pytest.mark.parametrize("layout", ["all", "second half", "all but the first"])
def test_names_of_classes_that_strictness_distrusts_cost_no_body(name: str, layout: str):
    """Class names that trafilatura's strict mode rejects do not lose text that its default mode keeps."""
    paragraphs = PAGES[0].truth.split("\n")
    whole = [f"<p>{paragraph}</p>" for paragraph in paragraphs]
    first = {"all": 0, "second half": len(whole) // 2, "all but the first": 1}[layout]
    menu = "".join(f'<li><a href="/{i}">Section {i}</a></li>' for i in range(12))
    body = (
        f"<!DOCTYPE html><html><head><title>Title</title></head><body><header><ul>{menu}</ul></header>"
        f'<article><div>{"".join(whole[:first])}</div><div class="{name}">{"".join(whole[first:])}</div></article>'
        "<footer><p>Copyright 2020 by the company. All rights reserved.</p></footer></body></html>"
    ).encode()
    default = benchmark.score(extract(PageSource(body), extractor="trafilatura").text, PAGES[0].truth)
    precision, recall = benchmark.score(extract(PageSource(body)).text, PAGES[0].truth)
    assert recall >= default[1] - 0.01
    assert precision > 0.9


@pytest.mark.parametrize("extractor", EXTRACTORS)
def test_every_extractor_finds_an_article_without_what_stands_around_it(extractor):
    page = next(page for page in PAGES if page.name == "news-0")
    found = extract(PageSource(page.body, page.content_type), extractor=extractor)
    precision, recall = benchmark.score(benchmark.without_title(found.text, page), page.truth)
    assert recall > 0.9
    assert precision > 0.7
    assert page.title in found.title
    assert "cookies" not in found.text or extractor == "resiliparse"


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("10<sup>9</sup> tokens", "10^9 tokens"),
        ("5.97 &times; 10<SUP class='x'> 24 </SUP> kg", "5.97 \N{MULTIPLICATION SIGN} 10^ 24 kg"),
        ("10<i><sup>&minus;3</sup></i> and <b>10</b><sup><i>-3</i></sup>", "10^\N{MINUS SIGN}3 and 10^-3"),
        ("10<sup>\N{MINUS SIGN}<b>3</b></sup> and 10<sup>&ndash;3</sup>", "10^\N{MINUS SIGN}3 and 10^\N{EN DASH}3"),
        ("NO<sub>3</sub><sup>&minus;</sup> 2 mg", "NO3\N{MINUS SIGN} 2 mg"),
        ("101<sub>2</sub> and SO<sub>4</sub><sup>2-</sup>", "101_2 and SO4^2-"),
        ("3<sup>1</sup>&frasl;<sub>2</sub> and 3<sup>1</sup>/<sub>2</sub>", "3 1\N{FRACTION SLASH}2 and 3 1/2"),
        (
            "<sup>1</sup>/<sub>2</sub> of H<sub>2</sub>O on the 5<sup>th</sup>, 9 m<sup>2</sup>",
            "1/2 of H2O on the 5th, 9 m2",
        ),
    ],
)
def test_raised_and_lowered_digits_do_not_join_the_number_before_them(html: str, text: str):
    said = "A sentence that is long enough to be taken for the text of a page, with %s, as its author wrote it. "
    page = f"<!DOCTYPE html><html><body><article><p>{said * 5}</p></article></body></html>"
    body = page.replace("%s", html).encode()
    found = {name: extract(PageSource(body), extractor=name).text for name in EXTRACTORS} | {"file": text_of_page(body)}
    for name, each in found.items():
        assert " ".join(each.split()) == (said * 5).replace("%s", text).strip(), name


@pytest.mark.parametrize("node", ["&minus;", " \N{EN DASH} ", "&#8594;", "\u65e5", "&nbsp;\N{EURO SIGN}"])
@pytest.mark.parametrize("extractor", EXTRACTORS)
def test_a_text_of_one_character_between_tags_is_kept(extractor: str, node: str):
    said = "A sentence that is long enough to be taken for the text of a page: <i>5</i>%s<i>3</i>, as its author says. "
    head = "<!DOCTYPE html><html><head><title>\u65e5</title></head>"
    page = f"{head}<body><article><p>{said * 5}</p></article></body></html>".replace("%s", node)
    text = "".join(re.sub("<.*?>", "", said * 5).replace("%s", unescape(node)).split())
    found = extract(PageSource(page.encode()), extractor=extractor)
    assert ("".join(found.text.split()), found.title) == (text, "\u65e5")


def test_metadata_of_a_page():
    body = (
        '<html><head><title>On rivers</title><meta name="author" content="Jane Doe"><meta '
        'property="article:published_time" content="2019-05-03T10:00:00Z"></head><body><article>'
        + "<p>The river was wide and slow, and the village had stood on its bank for hundreds of years.</p>" * 5
        + "</article></body></html>"
    )
    found = extract(PageSource(body.encode()))
    assert (found.title, found.author, found.date) == ("On rivers", "Jane Doe", "2019-05-03")


def test_what_is_no_html_is_text_and_what_is_binary_is_nothing():
    assert extract(PageSource(b"Just a < b and words.\n")).text == "Just a < b and words."
    assert extract(PageSource(b"<html><p>x</p></html>", kind="text")).text == "<html><p>x</p></html>"
    assert extract(PageSource(bytes(range(256)) * 4)).text == ""
    assert extract(PageSource(b"")).text == ""


@pytest.mark.parametrize(
    "text",
    [
        "To begin a paragraph one writes <p> before it.\n\nSo it was in 1995, and so it is.",
        "The element <html> is the root, <body> has the rest.\nNobody leaves them out, though one may.",
        "# Notes\n\nUse `<div>` for blocks and <span> for the rest.",
        "<pre-war> novels were long.",
    ],
)
def test_a_text_that_mentions_tags_is_text(text: str):
    assert extract(PageSource(text.encode())).text == text


@pytest.mark.parametrize(
    "begin",
    [
        "<!DOCTYPE html>\n<html>",
        "\ufeff\n <HTML>",
        "<!-- saved --><html>",
        "<?xml version='1.0'?><html>",
        "Warning: x\n<html>",
    ],
)
def test_what_begins_or_ends_as_html_is_html(begin: str):
    paragraphs = "<p>The river was wide and slow, and the village had stood on its bank for a long time.</p>" * 9
    found = extract(PageSource(f"{begin}<body><main>{paragraphs}</main></body></html>".encode()))
    assert "river was wide" in found.text
    assert "<p>" not in found.text


@pytest.mark.parametrize("extractor", EXTRACTORS)
def test_odd_pages_do_not_raise(extractor):
    for body in (b"<html></html>", b"<!DOCTYPE html>", b"<p>", b"<body><p>&#xD800;&#0;\0 words</p>", b"<div>" * 300):
        found = extract(PageSource(body), extractor=extractor)
        found.text.encode("utf-8")
        assert "\0" not in found.text


def test_an_unknown_extractor_is_refused():
    with pytest.raises(UserError, match="no extractor 'x'"):
        extraction.require("x")
