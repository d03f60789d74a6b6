"""Character encoding detection: from the HTTP header, from the HTML, and from the bytes alone."""

import random

import pytest

from benchmarks._foreign import PAGES, sentences
from crawler.charsets import decode

pytest.importorskip("resiliparse", reason="guesses encodings")


@pytest.mark.parametrize(("language", "encoding", "header", "declared"), PAGES)
def test_every_language_is_read_in_its_encoding(language, encoding, header, declared):
    text = sentences(language, random.Random(1), count=30)
    meta = f'<meta http-equiv="Content-Type" content="text/html; charset={declared}">' if declared else ""
    page = f"<html><head>{meta}<title>x</title></head><body><p>{text}</p></body></html>"
    body = page.encode(encoding, "xmlcharrefreplace")
    assert decode(body, f"text/html; charset={header}" if header else "text/html")[0] == body.decode(encoding)


def test_marks_come_first_and_are_removed():
    text = "<p>\u00e9t\u00e9</p>"
    for encoding in ("utf-8-sig", "utf-16"):
        assert decode(text.encode(encoding), "text/html; charset=latin-1")[0] == text
    for encoding in ("utf-16-le", "utf-16-be"):
        assert decode(text.encode(encoding))[0] == text


def test_utf8_that_is_declared_as_something_else_is_utf8():
    text = "<p>na\u00efve caf\u00e9</p>"
    assert decode(text.encode(), "text/html; charset=iso-8859-1") == (text, "utf-8")


def test_what_is_declared_latin_is_read_as_windows():
    assert decode(b"<p>\x93quoted\x94</p>", "text/html; charset=ISO-8859-1") == ("<p>\u201cquoted\u201d</p>", "cp1252")


def test_a_stray_byte_does_not_change_the_encoding():
    body = ("\u00e9" * 400).encode()
    assert decode(body[:-1] + b" end", "text/html; charset=utf-8")[1] == "utf-8"


@pytest.mark.parametrize("label", ["base64", "rot13", "nonsense", "undefined", "", "utf-16", "idna"])
def test_labels_that_are_no_encoding_are_ignored(label):
    assert decode("<p>caf\u00e9</p>".encode(), f"text/html; charset={label}")[0] == "<p>caf\u00e9</p>"
    assert decode(b"<p>plain</p>", f"text/html; charset={label}")[0] == "<p>plain</p>"


@pytest.mark.parametrize("label", ["idna", "punycode", "raw_unicode_escape", "undefined", "unicode_escape", "utf-7"])
def test_what_python_calls_an_encoding_is_none_of_pages(label):
    body = b"<p>+AGE- \\u0041 caf\xe9</p>"
    assert decode(body, f"text/html; charset={label}")[0] == decode(body)[0]


@pytest.mark.parametrize("seed", range(5))
def test_any_bytes_give_text(seed):
    body = random.Random(seed).randbytes(3000)
    assert isinstance(decode(body)[0], str)
    assert decode(b"") == ("", "utf-8")


RUSSIAN = "\u0421\u0435\u0433\u043e\u0434\u043d\u044f \u0445\u043e\u0440\u043e\u0448\u0430\u044f"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("The company\u2019s name \u2014 it\u2019s long.", "cp1252"),
        ("E\u00e9n caf\u00e9 \u2013 dat is het \u2018mooiste\u2019 idee.", "cp1252"),
        ("R\u00f8dgr\u00f8d med fl\u00f8de er en dessert p\u00e5 \u00c6r\u00f8.", "cp1252"),
        ("Perch\u00e9 la citt\u00e0 \u00e8 cos\u00ec bella? L\u2019universit\u00e0 \u00e8 gi\u00e0 l\u00ec.", "cp1252"),
        ("\u00dea\u00f0 er gott ve\u00f0ur \u00ed dag, me\u00f0 \u00f0 og \u00fe \u00e1 \u00cdslandi.", "cp1252"),
        (
            "\uc624\ub298\uc740 \ub0a0\uc528\uac00 \uc88b\uc544\uc11c",
            "cp949",
        ),
        (
            RUSSIAN,
            "cp1251",
        ),
        (
            RUSSIAN,
            "koi8-r",
        ),
    ],
)
@pytest.mark.parametrize("times", [1, 5, 40])
def test_a_page_without_a_charset_is_read_as_browsers_read_it(text: str, encoding: str, times: int):
    html = f"<html><head><title>Page</title></head><body><p>{' '.join([text] * times)}</p></body></html>"
    assert decode(html.encode(encoding))[0] == html
