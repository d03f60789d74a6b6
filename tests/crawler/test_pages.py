"""Reading pages from every kind of archive, and error messages that locate the damage."""

import gzip
import io
import json

import pytest
from helpers.web_archives import html, write_tar, write_warc

from crawler import pages as module
from crawler.pages import Damage, pages, units
from estimator.errors import UserError

fastwarc = pytest.importorskip("fastwarc", reason="reads WARC files")


def read(path):
    """Returns the pages at a path, and the error message if an archive is damaged."""
    found, damage = [], ""
    for unit in units([str(path)]):
        try:
            for page in pages(unit):
                found.append(page)
        except Damage as error:
            damage = str(error)
    return found, damage


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_responses_of_a_warc_are_pages_and_all_others_say_why_not(tmp_path, name):
    bodies = [
        html(0),
        (html(1), "404 Not Found", "text/html"),
        (b"\x89PNG", "200 OK", "image/png"),
        (b"plain text", "200 OK", "text/plain; charset=utf-8"),
    ]
    found, damage = read(write_warc(tmp_path / name, bodies))
    assert [page.problem for page in found] == ["", "http_status", "not_a_page", ""]
    assert found[0].body == html(0)
    assert found[0].url == "http://site.test/0"
    assert found[0].date == "2026-01-02T03:04:05"
    assert found[0].id == "00000000-0000-0000-0000-000000000000"
    assert found[3].kind == "text"
    assert damage == ""


def test_compressed_and_chunked_answers_are_unpacked(tmp_path):
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    packed = gzip.compress(html(3))
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(packed), packed)
    with open(tmp_path / "a.warc.gz", "wb") as file:
        writer = WARCWriter(file, gzip=True)
        for body in (chunked, b"not chunked, not gzip"):
            headers = [("Content-Type", "text/html"), ("Content-Encoding", "gzip"), ("Transfer-Encoding", "chunked")]
            http = StatusAndHeaders("200 OK", headers, protocol="HTTP/1.1")
            writer.write_record(
                writer.create_warc_record("http://a.test/", "response", io.BytesIO(body), http_headers=http)
            )
    found, damage = read(tmp_path / "a.warc.gz")
    assert found[0].body == html(3)
    assert [page.problem for page in found] == ["", "unreadable"]
    assert damage == ""


def test_what_a_download_has_not_finished_is_left_alone(tmp_path):
    write_warc(tmp_path / "pages-00000.warc.gz", [html(0)])
    spool = tmp_path / "state" / "spool"
    spool.mkdir(parents=True)
    write_warc(spool / "000000.warc.gz", [html(1)])
    for folder in (str(tmp_path), f"{tmp_path}/"):
        assert [unit.name for unit in units([folder])] == ["pages-00000"]


def test_wet_files_are_text_already(tmp_path):
    path = write_warc(tmp_path / "a.warc.wet.gz", ["L\u00e4nge\nBreite".encode()], kind="conversion")
    [page], damage = read(path)
    assert (page.kind, page.body.decode(), damage) == ("text", "L\u00e4nge\nBreite", "")


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_a_truncated_warc_gives_what_comes_before_and_the_damage(tmp_path, cut):
    for name in ("a.warc", "a.warc.gz"):
        path = write_warc(tmp_path / name, [html(number) for number in range(4)])
        path.write_bytes(path.read_bytes()[: -len(html(3)) // 4 - cut])
        found, damage = read(path)
        assert [page.body for page in found] == [html(number) for number in range(3)]
        assert damage


def test_a_flipped_bit_and_garbage_are_damage(tmp_path):
    path = write_warc(tmp_path / "a.warc.gz", [html(number) for number in range(4)])
    data = bytearray(path.read_bytes())
    for i in range(len(data) // 2, len(data) // 2 + 40):
        data[i] ^= 0xFF
    path.write_bytes(data)
    found, damage = read(path)
    assert len(found) < 4
    assert damage
    for content in (b"", b"garbage " * 50, gzip.compress(b"garbage " * 50), gzip.compress(b"")):
        path.write_bytes(content)
        assert read(path)[0] == []
        assert read(path)[1]


def test_archives_of_the_seed_give_ids_and_what_the_meta_archive_knows(tmp_path):
    names = [f"{number:07d}-{'ab' * 16}" for number in range(3)]
    write_tar(tmp_path / "RS_2019-01-1_data.xz", {f"{name}.txt": html(i) for i, name in enumerate(names)})
    facts = {f"{name}.json": json.dumps({"url": f"http://a.test/{i}"}).encode() for i, name in enumerate(names)}
    write_tar(tmp_path / "RS_2019-01-1_meta.xz", facts)
    [unit] = units([str(tmp_path)])
    assert (unit.name, unit.kind) == ("RS_2019-01-1", "tar")
    found, damage = read(tmp_path)
    assert [(page.id, page.url, page.body) for page in found] == [
        (name, f"http://a.test/{i}", html(i)) for i, name in enumerate(names)
    ]
    assert damage == ""
    (tmp_path / "RS_2019-01-1_meta.xz").write_bytes(b"garbage")
    assert [page.url for page in read(tmp_path)[0]] == [""] * 3


def test_a_truncated_or_empty_tar_is_damage(tmp_path):
    path = write_tar(tmp_path / "a_data.xz", {f"{i}.txt": html(i) * 50 for i in range(20)})
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) * 3 // 4):
        path.write_bytes(whole[:size])
        found, damage = read(path)
        assert len(found) < 20
        assert damage


def test_loose_files_are_taken_in_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOOSE_FILES", 2)
    (tmp_path / "deep").mkdir()
    for number in range(3):
        (tmp_path / "deep" / f"page.{number}.html").write_bytes(html(number))
    (tmp_path / ".hidden.html").write_bytes(html(9))
    (tmp_path / "state" / "spool").mkdir(parents=True)
    (tmp_path / "state" / "spool" / "000000.warc.gz").write_bytes(b"of a download that is under way")
    (tmp_path / "other.pdf").write_bytes(b"%PDF")
    found = units([str(tmp_path)])
    assert [(unit.name, len(unit.paths)) for unit in found] == [("pages-00000", 2), ("pages-00001", 1)]
    assert [page.body for page in read(tmp_path)[0]] == [html(number) for number in range(3)]
    assert read(tmp_path / "deep" / "page.1.html")[0][0].id == "page"


def test_archives_of_the_same_name_have_results_of_their_own(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_warc(tmp_path / folder / "pages.warc.gz", [html(1)])
    assert [unit.name for unit in units([str(tmp_path / "a"), str(tmp_path / "b")])] == ["pages", "pages-2"]
    assert len(units([str(tmp_path / "*"), str(tmp_path / "a")])) == 2


def test_too_large_pages_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_PAGE_BYTES", 100)
    (tmp_path / "a.html").write_bytes(html(1))
    assert read(tmp_path / "a.html")[0][0].problem == "too_large"
    assert read(write_tar(tmp_path / "b_data.xz", {"1.txt": html(1)}))[0][0].problem == "too_large"
    assert read(write_warc(tmp_path / "c.warc.gz", [html(1)]))[0][0].problem == "too_large"


def test_inputs_that_hold_no_pages_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        units([str(tmp_path / "nothing")])
    with pytest.raises(UserError, match="no pages here"):
        units([str(tmp_path)])
    with pytest.raises(UserError, match="no pages here"):
        units([str(tmp_path / "*.warc")])
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(UserError, match="not a file of pages"):
        units([str(tmp_path / "a.pdf")])
