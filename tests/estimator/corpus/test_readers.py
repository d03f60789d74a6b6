"""File readers: the format is detected from content and name, and files without text are rejected or counted."""

import bz2
import gzip
import io
import json
import lzma
import os
import re
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from estimator.corpus import containers, documents, file_search, file_types, json_values, readers
from estimator.corpus.documents import documents_of
from estimator.corpus.file_search import find
from estimator.corpus.parts import Part, Reading
from estimator.errors import UserError
from estimator.interop import safetensors_io, torch_pickle
from estimator.storage import lfs
from estimator.tokenization import json_files

LINES = '{"text": "one", "url": "u"}\n{"text": "two"}\n'


def write(path: Path, contents: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    return str(path)


def texts(path: str | Path, **reading) -> list[str]:
    return [document.text for document in documents.documents(str(path), reading=Reading(**reading))]


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def tarred(members: dict[str, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


RECORDS = {
    "c4.json": LINES,
    "c4.json.gz": gzip.compress(LINES.encode()),
    "a.ndjson": LINES,
    "a.jsonlines": LINES,
    "a.JSONL": LINES,
    "a.txt": LINES,  # regardless of the file name
    "no_ending": LINES,
    "array.json": '[{"text": "one"},\n {"text": "two"}]',
    "array_in_lines.jsonl": '[{"text": "one"}, {"text": "two"}]',
    "array.txt": '[\n {\n  "text": "one"\n },\n {"text": "two"}\n]\n',
    "strings.json": '["one", "two"]',
    "pretty.json": '{\n "text": "one"\n}\n{\n "text": "two"\n}\n',
    "wrapped.json": '{"version": "1", "data": [{"text": "one"}, {"text": "two"}]}',
    "pandas.json": '{"text": {"0": "one", "1": "two"}, "n": {"0": 1, "1": 2}}',
    "columns.json": '{"text": ["one", "two"], "n": [1, 2]}',
    "bom.json": b"\xef\xbb\xbf" + LINES.encode(),
    "t.csv": 'id,text\n1,one\n2,"two"\n',
    "t.CSV": "n;text\r\n1;one\r\n2;two\r\n",
    "t.tsv.gz": gzip.compress(b"text\tn\none\t1\ntwo\t2\n"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_records_are_read_as_records_whatever_the_file_is_called(name, tmp_path):
    assert texts(write(tmp_path / name, RECORDS[name])) == ["one", "two"]


ARTICLE = {"title": "T", "text": "The article.", "comments": [{"user": "a", "text": "first"}, {"text": "second"}]}


@pytest.mark.parametrize(
    ("value", "keys", "expected"),
    [
        (ARTICLE, ("text",), ["The article."]),
        (ARTICLE, ("title", "text"), ["T\n\nThe article."]),
        (ARTICLE, ("comments.text",), ["first\n\nsecond"]),
        (ARTICLE | {"comments": [{"text": "far longer than the article " * 9}]}, ("text",), ["The article."]),
        ({"body": "The article.", "authors": [{"name": "Ann"}, {"name": "Bob"}]}, ("body",), ["The article."]),
        ({"data": {"text": "The article."}, "meta": {"id": "1"}}, ("data.text",), ["The article."]),
        ({"title": "Set", "data": [{"title": "T", "text": "one"}]}, ("title", "text"), ["T\n\none"]),
        ({"info": {"year": "2020"}, "data": [{"text": "the first record"}]}, ("text",), ["the first record"]),
    ],
)
def test_an_object_with_text_is_a_record_whatever_lists_it_has(value, keys, expected, tmp_path):
    for indent in (None, 2):
        assert texts(write(tmp_path / "a.json", json.dumps(value, indent=indent)), text_key=keys) == expected


def test_the_keys_that_a_message_names_are_those_of_the_record(tmp_path):
    value = {"title": "T", "body": "A text of the record", "authors": [{"name": "Ann"}]}
    with pytest.raises(UserError, match=r'no key "text".*"text_key": "body".* title, body, authors'):
        texts(write(tmp_path / "a.json", json.dumps(value)))


def test_tables_have_quotes_and_line_ends_within_fields(tmp_path):
    path = write(tmp_path / "a.csv", 'text,n\n"a, ""b""\nc",1\nplain,2\n')
    assert texts(path) == ['a, "b"\nc', "plain"]
    with pytest.raises(UserError, match=r'a\.csv, line 3: no key "body".*: "text_key": "text".* text, n'):
        texts(path, text_key=("body",))
    nameless = write(tmp_path / "c.csv", '0,"a first\nrow ' + "of text " * 99 + '"\n1,"a longer second row"\n')
    with pytest.raises(UserError, match=r'no key "text"; .*: "text_key": "KEY".*are: 0, a first row [a-z ]+\.\.\.$'):
        texts(nameless)
    open_quote = write(tmp_path / "b.csv", 'text\n"never closed\nx\n')
    with pytest.raises(UserError, match=r"b\.csv, line 3: not valid CSV"):
        texts(open_quote)
    with pytest.raises(UserError, match=r"c\.csv, line 2: 3 columns, but 2 in the first line"):
        texts(write(tmp_path / "c.csv", "text,n\na,b,c\n"))


@pytest.mark.parametrize("text", ["{curly} prose\nmore", "[Verse 1]\nla la", "{}", "[1, 2]", "[x](y) is a link", ""])
def test_prose_with_brackets_stays_prose(text, tmp_path):
    path = write(tmp_path / "a.txt", text + "\nend")
    assert texts(path) == [text + "\nend"]


PACKED = {
    "a.txt.xz": lzma.compress(b"text"),
    "a.txt.BZ2": bz2.compress(b"te") + bz2.compress(b"xt"),
    "a.txt": gzip.compress(b"text"),  # detected by content
    "a.zip": zipped({"b/a.txt": b"text"}),
    "a.tar": tarred({"a.txt": b"text"}),
    "a.tgz": tarred({"a.txt": b"text"}, "w:gz"),
    "a.tar.xz": tarred({"a.txt": b"text"}, "w:xz"),
    "a.tbz2": tarred({"a.txt.gz": gzip.compress(b"text")}, "w:bz2"),
    "nested.zip": zipped({"in.zip": zipped({"a.jsonl": b'{"text": "text"}'})}),
    "in.tar": tarred({"in.zip": zipped({"a.jsonl.bz2": bz2.compress(b'{"text": "text"}')})}),
}


@pytest.mark.parametrize("name", PACKED)
def test_packed_files_are_unpacked_by_content_also_within_one_another(name, tmp_path):
    assert texts(write(tmp_path / name, PACKED[name])) == ["text"]


def test_frames_without_data_between_those_of_zstd_are_passed_over(tmp_path):
    """pzstd and the seekable format write them: RFC 8878, section 3.1.2."""
    zstandard = pytest.importorskip("zstandard", reason="zstandard is not installed")
    skippable = b"\x5e\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"size"
    frames = [zstandard.compress(text) for text in (b"some ", b"text")]
    path = tmp_path / "a.txt.zst"
    write(path, skippable + skippable.join(frames) + skippable)
    assert texts(path) == ["some text"]
    write(path, b"".join(frames) + skippable[:3])
    with pytest.raises(UserError, match="damaged or incomplete zstd file"):
        texts(path)


@pytest.mark.parametrize("name", [name for name in PACKED if len(PACKED[name]) > 40])
def test_what_is_packed_and_damaged_is_refused(name, tmp_path):
    data = PACKED[name]
    cut = write(tmp_path / name, data[: 514 if name.endswith(".tar") else len(data) // 2])
    with pytest.raises(UserError, match=r"damaged|not UTF-8|no text|binary"):
        texts(cut)


def test_members_that_are_no_text_are_counted_and_left_out(tmp_path):
    members = {
        "a.txt": b"text",
        "b.png": b"\x89PNG\r\n",
        ".DS_Store": b"\0\1",
        "c.pdf": b"%PDF-1.7",
        "d.bin": b"\0\1\2",
    }
    counts: Counter[str] = Counter()
    path = write(tmp_path / "a.zip", zipped(members))
    found = list(documents_of(Part(path), on_fault=lambda reason, error: counts.update([reason])))
    assert [document.text for document in found] == ["text"]
    assert counts == {"hidden files": 1, "an image": 1, "a PDF": 1, "a binary file": 1}


def test_bombs_and_endless_nesting_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "RATIO_FROM", 1 << 20)
    blanks = b" " * (1 << 22)
    for name, data in [("a.txt.bz2", bz2.compress(blanks)), ("a.zip", zipped({"a.txt": blanks}))]:
        if name == "a.zip":
            monkeypatch.setattr(containers, "MAX_RATIO", 500)
        with pytest.raises(UserError, match=rf"{name}.*unpacks to more than [15],?[0]+ times its size"):
            texts(write(tmp_path / name, data))
    data = b"text"
    for _ in range(6):
        data = gzip.compress(data)
    with pytest.raises(UserError, match=r"packed more than 4 times; unpack it first"):
        texts(write(tmp_path / "a.gz", data))


def test_what_is_no_text_is_refused_by_name(tmp_path):
    for name, data, what in [
        ("a.pdf", b"%PDF-1.7", "a PDF"),
        ("a", b"\x89PNG", "an image"),
        ("a.docx", zipped({"[Content_Types].xml": b"<x/>"}), "a document of an office program"),
        ("a.npy", b"\x93NUMPY\1\0", "an array of numbers"),
        ("a.exe", b"MZ\0\0", "a binary file"),
    ]:
        with pytest.raises(UserError, match=f"{name}: {what} holds no text that is read"):
            texts(write(tmp_path / name, data))


def test_a_page_is_read_for_its_text(tmp_path):
    pytest.importorskip("trafilatura", reason="trafilatura is not installed")
    said = "A sentence that is long enough to be taken for the text of a page. " * 5
    page = f"<!DOCTYPE html><html><body><nav>menu</nav><article><p>{said}</p></article></body></html>"
    for name in ("a.html", "b.txt"):
        assert texts(write(tmp_path / name, page)) == [said.strip()]
    mentions = "A text that says <p> once, and <html> too, is no page."
    assert texts(write(tmp_path / "c.txt", mentions)) == [mentions]


def test_a_folder_is_read_without_regard_to_case_and_the_rest_is_counted(tmp_path):
    for name, data in {
        "a.TXT": b"A", "b.md": b"B", "c.py": b"C", "d.csv": b"text\nD\n", "e.json": b'{"x": 1}',
        "f.json": b'[{"text": "F"}]',
        ".DS_Store": b"\0", "g.png": b"\x89PNG", "LICENSE": b"words",
    }.items():  # fmt: skip
        write(tmp_path / "in" / name, data)
    counts: Counter[str] = Counter()
    found = find(str(tmp_path / "in"), left_out=counts)
    assert [Path(path).name for path in found] == ["a.TXT", "d.csv", "f.json"]
    assert counts == {
        ".md files": 1, ".py files": 1, '.json files without "text"': 1, "hidden files": 1, ".png files": 1,
        "files without an ending": 1,
    }  # fmt: skip
    counts.clear()
    found = find(str(tmp_path / "in" / "*"), left_out=counts)
    assert [Path(path).name for path in found] == ["LICENSE", "a.TXT", "b.md", "c.py", "d.csv", "e.json", "f.json"]
    assert counts == {".png (an image)": 1}
    write(tmp_path / "notes" / "b.md", "B")
    with pytest.raises(UserError, match=r'left out: 1 \.md file; name them by a pattern.*notes/\*\*/\*\.md"'):
        find(str(tmp_path / "notes"))
    write(tmp_path / "notes" / "a.jpg", b"\xff\xd8\xff")
    with pytest.raises(UserError, match=r'left out: 1 \.jpg file, 1 \.md file; name them by.*notes/\*\*/\*\.md"'):
        find(str(tmp_path / "notes"))


def test_pipes_and_broken_links_in_a_folder_are_left_out_and_counted(tmp_path):
    """Opening a named pipe would block until another process writes to it."""
    write(tmp_path / "a.txt", "A")
    os.mkfifo(tmp_path / "b.txt")
    (tmp_path / "c.txt").symlink_to("nowhere.txt")
    counts: Counter[str] = Counter()
    assert [Path(path).name for path in find(str(tmp_path), left_out=counts)] == ["a.txt"]
    assert counts == {file_search.NO_FILES: 2}


def test_a_path_that_is_misspelled_gets_the_one_that_exists(tmp_path):
    write(tmp_path / "texts" / "a.txt", "A")
    for spelling in ("text", "texts ", "texts'"):
        with pytest.raises(UserError, match=r"no such file or folder; did you mean .*/texts\?"):
            find(f"{tmp_path}/{spelling}")


def test_paths_with_a_comma_between_are_shown_as_a_list(tmp_path):
    paths = [str(write(tmp_path / name, "text")) for name in ("a.txt", "b.txt")]
    with pytest.raises(UserError, match=rf"; for several, write a list: {re.escape(json.dumps(paths))}$"):
        file_search.find(", ".join(paths))
    with pytest.raises(UserError, match="check the spelling of the path"):
        file_search.find(f"{paths[0]},none.txt")


def test_a_pointer_of_git_lfs_is_no_text(tmp_path):
    pointer = f"{lfs.POINTER.decode()}\noid sha256:4d7a\nsize 12345\n"
    for name in ("a.txt", "b.jsonl", "c.csv", "d.parquet"):
        with pytest.raises(UserError, match=f"{name}: a pointer of Git LFS .run `git lfs pull`."):
            texts(write(tmp_path / name, pointer))
    for name, read in (
        ("model.safetensors", lambda path: safetensors_io.SafeTensors([Path(path)])),
        ("pytorch_model.bin", torch_pickle.read),
        ("tokenizer.json", lambda path: json_files.read_object(Path(path), expected="x")),
    ):
        with pytest.raises(UserError, match=f"{name} is a pointer of Git LFS, not the file itself; run `git lfs pull`"):
            read(write(tmp_path / name, pointer))


def test_shards_are_no_text_and_the_input_for_them_is_named(tmp_path):
    write(tmp_path / "text_0.tfrecords", "x")
    with pytest.raises(UserError, match='it holds shards; train on them with "input": "packed"'):
        find(str(tmp_path))


def test_keys_are_paths_and_several_are_joined(tmp_path):
    nested = write(tmp_path / "a.jsonl", '{"data": {"text": ["x", "deep"]}, "a.b": "dotted"}')
    assert texts(nested, text_key=("data.text.1",)) == ["deep"]
    assert texts(nested, text_key=("a.b",)) == ["dotted"]
    joined = write(tmp_path / "b.jsonl", '{"title": "T", "text": "B"}\n{"title": null, "text": "C"}\n{"text": "D"}')
    assert texts(joined, text_key=("title", "text")) == ["T\n\nB", "C", "D"]


def test_a_path_without_an_index_goes_through_lists_and_is_advised(tmp_path):
    """As in SQuAD, where the texts are in nested lists."""
    paragraphs = [{"context": "One.", "qas": [{"question": "Q?"}]}, {"context": "Two."}]
    path = write(tmp_path / "a.json", json.dumps({"version": "1", "data": [{"title": "T", "paragraphs": paragraphs}]}))
    with pytest.raises(UserError, match=r'no key "text".*"text_key": "paragraphs\.context"'):
        texts(path)
    assert texts(path, text_key=("paragraphs.context",)) == ["One.\n\nTwo."]
    assert texts(path, text_key=("paragraphs.1.context",)) == ["Two."]
    assert texts(path, text_key=("paragraphs.qas.question",)) == ["Q?"]
    null = write(tmp_path / "b.jsonl", '{"a": [{"b": "x"}, {"b": null}]}')
    with pytest.raises(UserError, match=r'the value of "a\.b" is not text, but null'):
        texts(null, text_key=("a.b",))


@pytest.mark.parametrize(("flags", "skip", "key"), [
    ("", '"on_error": "skip"', '"text_key": "body"'), ("--", "--on_error skip", "--text_key body"),
])  # fmt: skip
def test_messages_name_the_way_out_as_the_program_spells_it(flags, skip, key, tmp_path):
    null = write(tmp_path / "a.jsonl", '{"text": "x"}\n{"text": null}\n')
    with pytest.raises(UserError, match=f'a.jsonl, line 2: the value of "text" is not text, but null.* {skip}'):
        texts(null, flags=flags)
    with pytest.raises(UserError, match=f'b.json, record 1: no key "text"; .*: {key}.* body'):
        texts(write(tmp_path / "b.json", '[{"body": "x"}]'), flags=flags)


MESSAGES = [{"role": "user", "content": "How are you?"}, {"role": "assistant", "content": "Well."}]


@pytest.mark.parametrize("record", [
    {"messages": MESSAGES}, {"conversations": [{"from": "human", "value": "Hi"}]}, {"instruction": "a", "output": "b"},
    MESSAGES, MESSAGES[0],
], ids=lambda record: next(iter(record)) if isinstance(record, dict) else "list")  # fmt: skip
@pytest.mark.parametrize(
    ("flags", "how"), [("", 'is read with "input": "chat", as data_path or eval_split'), ("--", "--chat other")]
)
def test_conversations_read_as_text_are_told_the_input_for_chats_first(record, flags, how, tmp_path):
    path = write(tmp_path / "a.jsonl", f"{json.dumps(record)}\n" * 2)
    with pytest.raises(UserError, match=rf"line 1: no[^;]*, but a conversation, which [^;]*{re.escape(how)}; (or|exp)"):
        texts(path, flags=flags)


@pytest.mark.parametrize("record", [{"body": "x"}, [], ["x"], {"name": "x", "role": "head"}])
def test_other_records_are_not_called_conversations(record, tmp_path):
    with pytest.raises(UserError) as error:
        texts(write(tmp_path / "a.jsonl", f"{json.dumps(record)}\n" * 2))
    assert "conversation" not in str(error.value)


@pytest.mark.parametrize("mark", ["<|startoftext|>", "<s>", "</s>"])
def test_marks_of_other_programs_are_counted_unless_they_are_read_as_tokens(mark, tmp_path):
    path = write(tmp_path / "a.txt", f"{mark}one<|endoftext|>{mark}two<|endoftext|>three < four")

    def counts(**options) -> Counter[str]:
        found: Counter[str] = Counter()
        list(documents_of(Part(path), reading=Reading(**options), on_fault=lambda reason, _: found.update([reason])))
        return found

    reason = documents.SPELLED[mark]
    assert counts()[reason] == 2
    assert "the key special" in reason
    assert documents.is_noted(reason)
    assert reason not in counts(special=(mark,))
    assert reason not in counts(separator=mark)


def test_text_is_divided_at_end_of_text_marks_unless_it_is_not_to_be(tmp_path):
    path = write(tmp_path / "a.txt", "one\n<|endoftext|>\ntwo<|endoftext|>three\n<|endoftext|>\n")
    counts: Counter[str] = Counter()
    found = list(documents_of(Part(path), on_fault=lambda reason, error: counts.update([reason])))
    assert [document.text for document in found] == ["one", "two", "three"]
    assert counts == {documents.DIVIDED: 3}
    assert texts(path, separator="") == [Path(path).read_text()]
    assert texts(path, separator="two") == ["one\n<|endoftext|>", "<|endoftext|>three\n<|endoftext|>"]
    record = write(tmp_path / "b.jsonl", json.dumps({"text": "one<|endoftext|>two"}))
    assert texts(record, separator="<|endoftext|>") == ["one", "two"]
    counts.clear()
    found = list(documents_of(Part(record), on_fault=lambda reason, error: counts.update([reason])))
    assert [document.text for document in found] == ["one<|endoftext|>two"]
    assert counts == {documents.WRITTEN: 1}


def test_text_is_divided_at_lines_blank_lines_and_titles(tmp_path):
    path = write(tmp_path / "a.txt", "a\r\nb\n\n \nc\n")
    assert texts(path, division="line") == ["a", "b", "c"]
    assert texts(path, division="blank_line") == ["a\r\nb", "c"]
    wiki = " \n = Valkyria = \n \n Text = one = . \n \n = = Plot = = \n \n More . \n \n = Du Fu = \n \n Text two . \n"
    found = texts(write(tmp_path / "wiki.train.tokens", wiki), division="title")
    assert [text.strip().split("\n")[0].strip() for text in found] == ["= Valkyria =", "= Du Fu ="]
    assert "= = Plot = =" in found[0]


@pytest.mark.parametrize("division", ["file", "line", "blank_line"])
def test_the_division_does_not_depend_on_blocks_or_on_long_documents(division, tmp_path, monkeypatch):
    lines = [f"line {i} " + "z" * (i * 37 % 900) for i in range(100)]
    joined = {"file": "\n<|endoftext|>\n", "line": "\n", "blank_line": "\n\n"}[division].join(lines)
    path = write(tmp_path / "a.txt", joined)
    monkeypatch.setattr(documents, "MAX_DOCUMENT_CHARS", 5000)
    for size in (7, 1000, 1 << 19):
        monkeypatch.setattr(readers, "BLOCK_BYTES", size)
        assert texts(path, division=division) == lines
    long = write(tmp_path / "b.txt", joined.replace("z", "y" * 20))
    assert "".join(texts(long, division=division)) == "".join(lines).replace("z", "y" * 20)


def test_encodings_are_named_and_read(tmp_path):
    for encoding, message in [("utf-16", r'looks like UTF-16: set "text_encoding": "utf-16"'), ("cp1252", "at byte 2")]:
        path = write(tmp_path / "a.txt", "na\u00efve caf\u00e9".encode(encoding))
        with pytest.raises(UserError, match=message):
            texts(path)
        assert texts(path, encoding=encoding) == ["na\u00efve caf\u00e9"]
        records = write(tmp_path / "a.jsonl", '{"text": "caf\u00e9"}\n'.encode(encoding))
        assert texts(records, encoding=encoding) == ["caf\u00e9"]
    with pytest.raises(UserError, match="not utf-16 text near byte"):
        texts(write(tmp_path / "b.txt", b"abc"), encoding="utf-16")


def test_values_are_read_however_the_text_arrives(tmp_path, monkeypatch):
    values = [{"text": "x" * n, "n": -1.5e10, "l": [[], {}, None, True, '\u2028 \\ "']} for n in (0, 1, 300, 5000)]
    for data in (json.dumps(values), json.dumps(values, indent=1), "\n\n".join(map(json.dumps, values))):
        path = write(tmp_path / "a.json", "\n" + data)
        for size in (1, 100, 1 << 19):
            monkeypatch.setattr(readers, "BLOCK_BYTES", size)
            assert [record.value for record in readers.records(Part(path))] == values
    for data, message in [
        ('[{"text": "a"}, {"text" 1}]', "line 1, column 25: not valid JSON"),
        ('[{"text": "a"},\n {"text": "b"}', "line 2, column 15: not valid JSON .it ends within a list"),
        ("[" * 100_000, "too deep"),
    ]:
        with pytest.raises(UserError, match=message):
            list(readers.records(Part(write(tmp_path / "b.json", data))))
    monkeypatch.setattr(json_values, "MAX_RECORD", 1000)
    with pytest.raises(UserError, match="a value of more than"):
        list(readers.records(Part(write(tmp_path / "b.json", '["' + "x" * 5_000_000))))


def test_all_endings_that_a_folder_is_searched_for_have_a_type():
    assert {file_types.ending(containers.plain_name(f"A{end.upper()}.GZ")) for end in file_types.IN_FOLDERS} == set(
        file_types.IN_FOLDERS
    )


def test_wrong_json_says_how_to_go_on_where_there_is_an_option(tmp_path):
    for name, text in (("a.jsonl", '{"text": "a"}\n{"text" 1}\n'), ("a.json", '[{"text" 1}]')):
        (tmp_path / name).write_text(text)
        part = Part(str(tmp_path / name))
        for flags, fix in (("", '"on_error": "skip"'), ("--", "--on_error skip")):
            for read in (readers.texts, readers.records):
                with pytest.raises(UserError, match=rf"not valid JSON \(.*\); correct it, or set {fix} to leave it"):
                    list(read(part, reading=Reading(flags=flags)))
        with pytest.raises(UserError, match=r"not valid JSON \(.*\)$"):  # of the items of a task, none may be missing
            list(readers.records(part))
