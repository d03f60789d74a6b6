"""The main text of pages whose text is known; at least as good as the libraries alone."""

import pytest

from benchmarks import extract as benchmark
from benchmarks._webpages import webpages
from runtime.errors import UserError
from text.web import extraction
from text.web.extraction import EXTRACTORS, Source, extract

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


@pytest.mark.parametrize("extractor", EXTRACTORS)
def test_every_extractor_finds_an_article_without_what_stands_around_it(extractor):
    page = next(page for page in PAGES if page.name == "news-0")
    found = extract(Source(page.body, page.content_type), extractor=extractor)
    precision, recall = benchmark.score(benchmark.without_title(found.text, page), page.truth)
    assert recall > 0.9
    assert precision > 0.7
    assert page.title in found.title
    assert "cookies" not in found.text or extractor == "resiliparse"


def test_metadata_of_a_page():
    body = (
        '<html><head><title>On rivers</title><meta name="author" content="Jane Doe"><meta '
        'property="article:published_time" content="2019-05-03T10:00:00Z"></head><body><article>'
        + "<p>The river was wide and slow, and the village lay beside it since the old days.</p>" * 5
        + "</article></body></html>"
    )
    found = extract(Source(body.encode()))
    assert (found.title, found.author, found.date) == ("On rivers", "Jane Doe", "2019-05-03")


def test_what_is_no_html_is_text_and_what_is_binary_is_nothing():
    assert extract(Source(b"Just a < b and words.\n")).text == "Just a < b and words."
    assert extract(Source(b"<html><p>x</p></html>", kind="text")).text == "<html><p>x</p></html>"
    assert extract(Source(bytes(range(256)) * 4)).text == ""
    assert extract(Source(b"")).text == ""


@pytest.mark.parametrize("extractor", EXTRACTORS)
def test_odd_pages_do_not_raise(extractor):
    for body in (b"<html></html>", b"<!DOCTYPE html>", b"<p>", b"<body><p>&#xD800;&#0;\0 words</p>", b"<div>" * 300):
        found = extract(Source(body), extractor=extractor)
        found.text.encode("utf-8")
        assert "\0" not in found.text


def test_an_unknown_extractor_is_refused():
    with pytest.raises(UserError, match="no extractor 'x'"):
        extraction.require("x")
