"""Documents: deterministic order, splitting without loss of characters, and errors that name files without text."""

import gzip
import json
import os
from pathlib import Path

import pytest

from estimator.corpus import python_docs, readers
from estimator.corpus.documents import MAX_DOCUMENT_CHARS, Document, cut, documents
from estimator.corpus.file_search import find
from estimator.errors import UserError


def write(path: Path, contents: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = contents if isinstance(contents, bytes) else contents.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "b.txt", "text b")
    write(tmp_path / "a" / "deep" / "z.part.txt.gz", "text z")
    write(tmp_path / "a" / "lines.jsonl", '{"text": "one"}\n\n{"text": "three", "id": 3}\n')
    write(tmp_path / "c.jsonl.gz", '{"text": "c"}')
    write(tmp_path / "ignored.md", "markdown")
    write(tmp_path / ".hidden" / "x.txt", "hidden")
    write(tmp_path / ".x.txt", "hidden")
    return tmp_path


def test_a_folder_is_read_to_the_bottom_in_order_of_path(folder):
    assert list(documents(str(folder))) == [
        Document("z", "text z"),
        Document("lines-1", "one"),
        Document("lines-3", "three"),
        Document("b", "text b"),
        Document("c-1", "c"),
    ]


def test_inputs_keep_their_order_and_no_file_is_read_twice(folder):
    b, c = str(folder / "b.txt"), str(folder / "c.jsonl.gz")
    assert [document.name for document in documents([c, b, str(folder)])] == ["c-1", "b", "z", "lines-1", "lines-3"]
    os.symlink(b, folder / "link.txt")
    assert find([b, str(folder / "link.txt"), str(folder / "." / "b.txt")]) == [b]


def test_patterns_match_files_of_any_ending_and_folders(folder):
    assert [document.text for document in documents(str(folder / "*.md"))] == ["markdown"]
    assert [document.name for document in documents(str(folder / "**" / "*.jsonl"))] == ["lines-1", "lines-3"]
    assert [document.name for document in documents(str(folder / "[a]"))] == ["z", "lines-1", "lines-3"]
    odd = write(folder / "odd[1].txt", "a name that looks like a pattern")
    assert [document.name for document in documents(odd)] == ["odd[1]"]


def test_another_key_of_json_lines_can_be_named(folder):
    path = write(folder / "k.jsonl", '{"body": "x", "text": "y"}')
    assert [document.text for document in documents(path, reading=readers.Reading(("body",)))] == ["x"]


def test_byte_order_mark_is_removed_and_line_ends_are_kept(tmp_path):
    text = write(tmp_path / "a.txt", "\ufeffone\r\ntwo\n")
    lines = write(tmp_path / "b.jsonl", '\ufeff{"text": "three"}\r\n')
    assert [document.text for document in documents([text, lines])] == ["one\r\ntwo\n", "three"]


def test_long_documents_are_cut_at_paragraphs_and_nothing_is_lost(tmp_path):
    paragraph = "a line of text that is not long\n" * 700 + "\n"
    text = paragraph * 30
    path = write(tmp_path / "book.txt", text)
    pieces = list(documents(path))
    assert [piece.name for piece in pieces] == [f"book-{i}" for i in range(len(pieces))]
    assert "".join(piece.text for piece in pieces) == text
    assert all(piece.text.endswith("\n\n") and len(piece.text) <= MAX_DOCUMENT_CHARS for piece in pieces)
    line = write(tmp_path / "l.jsonl", json.dumps({"text": text}))
    assert [piece.text for piece in documents(line)] == [piece.text for piece in pieces]
    assert next(documents(line)).name == "l-1-0"


@pytest.mark.parametrize("separator", ["\n", "\r\n\r\n", " ", "", "\u65e5\n"])
def test_cutting_does_not_depend_on_how_the_text_arrives(separator):
    text = ("x" * 999 + separator) * 450
    pieces = list(cut([text]))
    assert "".join(pieces) == text
    assert all(MAX_DOCUMENT_CHARS / 2 <= len(piece) <= MAX_DOCUMENT_CHARS for piece in pieces[:-1])
    assert all(piece.endswith(separator) for piece in pieces)
    for size in (7777, 150_000):
        assert list(cut(text[i : i + size] for i in range(0, len(text), size))) == pieces


def test_a_document_of_exactly_the_limit_is_whole(tmp_path):
    path = write(tmp_path / "a.txt", "x" * MAX_DOCUMENT_CHARS)
    assert [(document.name, len(document.text)) for document in documents(path)] == [("a", MAX_DOCUMENT_CHARS)]


def test_characters_across_blocks_are_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "BLOCK_BYTES", 5)
    text = "\u65e5\u672c\u8a9e \U0001f469 na\u00efve" * 9
    for name in ("a.txt", "a.txt.gz"):
        assert [document.text for document in documents(write(tmp_path / name, text))] == [text]
    with pytest.raises(UserError, match="byte 32;"):
        list(documents(write(tmp_path / "b.txt", b"x" * 32 + b"\xe6\x97")))
    with pytest.raises(UserError, match="byte 11;"):
        list(documents(write(tmp_path / "b.txt", b"x" * 8 + b"\xe6\x97\xa5\xff" + b"x" * 9)))
    with pytest.raises(UserError, match="a NUL byte at byte 11,"):
        list(documents(write(tmp_path / "b.txt", b"x" * 8 + b"\xe6\x97\xa5\x00" + b"x" * 9)))


@pytest.mark.parametrize(
    ("name", "contents", "message"),
    [
        ("a.txt", b"abc\xffdef", r"a\.txt: not UTF-8 text at byte 3; convert"),
        ("a.txt", b"PK\x03\x04\x00", r"a\.txt: a NUL byte at byte 4, which text has none of; if .* `tr -d '\\000' <"),
        ("a.txt.gz", b"abc\x00", r"a\.txt\.gz: a NUL byte at byte 3 of the unzipped file, .*\"on_error\": \"skip\"$"),
        ("a.txt", b"\x00" * 9, r"a NUL byte at byte 0, which text has none of; if the file is text, remove"),
        ("a.txt", "text \u65e5".encode("utf-16-le"), r"a NUL byte at byte 1,.* without its mark: set .*utf-16-le"),
        ("a.txt", "text \u65e5".encode("utf-16-be"), r"a NUL byte at byte 0,.* without its mark: set .*utf-16-be"),
        ("a.txt", "text".encode("utf-16"), r"a\.txt: not UTF-8 text at byte 0; it looks like UTF-16.*iconv"),
        ("a.txt.gz", b"abc\xff", r"byte 3 of the unzipped file"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', r"a\.jsonl: not UTF-8 text at byte 24"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', r"a\.jsonl, line 2, column 9: not valid JSON"),
        ("a.jsonl", '{"text": "a", "n": ' + "9" * 5000 + "}", r"a\.jsonl, line 1: not valid JSON \(Exceeds"),
        ("a.jsonl", '{"text": "a"}\n["x"]\n', r"a\.jsonl, line 2: not a JSON object"),
        ("a.jsonl", '{"body": "x", "id": 1}', r'line 1: no key "text".*body, id'),
        ("a.jsonl", '{"text": 5}', r'line 1: the value of "text" is not text'),
        ("a.txt", " \n\n", r"no text in .*a\.txt: nothing but blanks"),
        ("a.jsonl", "\n", r"no text in .*a\.jsonl: nothing but blanks"),
        ("a.txt", "", r"nothing but blanks"),
    ],
)
def test_what_is_no_text_is_refused_by_file_and_place(name, contents, message, tmp_path):
    with pytest.raises(UserError, match=message):
        list(documents(write(tmp_path / name, contents)))


def test_damaged_gzip_files_are_refused(tmp_path):
    whole = gzip.compress(os.urandom(1000).hex().encode())
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x55
    for data in (whole[:-50], b"no gzip at all", bytes(flipped)):
        (tmp_path / "a.txt.gz").write_bytes(data)
        with pytest.raises(UserError, match=r"a\.txt\.gz: (damaged or incomplete gzip file|not UTF-8)"):
            list(documents(str(tmp_path / "a.txt.gz")))


def test_inputs_that_match_nothing_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    for entry, message in [
        (str(tmp_path / "none.txt"), "no such file or folder"),
        (str(tmp_path / "*.txt"), "no file matches this pattern"),
        (str(tmp_path / "empty"), r"no file in this folder ends with \.txt, .*\.jsonl, .*\.parquet"),
    ]:
        with pytest.raises(UserError, match=message):
            list(documents(entry))
    with pytest.raises(UserError, match="no input"):
        find([])


def test_python_documentation_is_megabytes_of_text_in_a_fixed_order():
    found = list(documents(python_docs.NAME))
    names = [document.name for document in found]
    assert len(set(names)) == len(names)
    assert 1.5e6 < sum(len(document.text) for document in found) < 2e7
    texts = {document.name: document.text for document in found}
    assert 'The "with" statement' in texts["topic-with"]
    assert texts["library-json-decoder"].startswith("json.decoder\n============\n\nImplementation of JSONDecoder")
    assert "    def raw_decode(self, s, idx=0)\n        Decode a JSON document" in texts["library-json-decoder"]
    assert not any("test" in Path(path).parts or "site-packages" in Path(path).parts for path in python_docs.sources())


def test_what_a_run_wrote_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    for name in ("runs/one/config.json", "runs/one/checkpoints/5/commit_success.txt", "runs/one/predictions.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert find(str(tmp_path)) == [str(tmp_path / "a.txt")]


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.txt").write_text("text")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "texts")
    assert find(str(tmp_path / "texts")) == [str(tmp_path / "texts" / "link" / "b.txt")]
