"""Columns of CSV and Parquet files: names that are repeated, and values that Python has no type for."""

from pathlib import Path

import pytest
from helpers.chats import FORMS

from estimator.corpus import chat_files, documents
from estimator.corpus.parts import Part, Reading
from estimator.errors import UserError


def written(path: Path, columns: list[tuple[str, object]]) -> str:
    """Writes columns, which may have the same name, as Parquet or CSV."""
    if path.suffix == ".parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        arrays = [arrow.array(values) if isinstance(values, list) else values for _, values in columns]
        parquet.write_table(arrow.Table.from_arrays(arrays, names=[name for name, _ in columns]), path)
    else:
        rows = zip(*(values for _, values in columns), strict=True)
        lines = [[name for name, _ in columns], *rows]
        path.write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    return str(path)


def texts(path: str, **reading) -> list[str]:
    return [document.text for document in documents.documents(path, reading=Reading(**reading))]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_repeated_column_is_refused_if_it_is_read(ending, tmp_path):
    one, two, more = ["one", "two"], ["three", "four"], ["x", "y"]
    path = written(tmp_path / f"a.{ending}", [("text", one), ("label", more), ("text", two)])
    with pytest.raises(UserError, match=rf'a\.{ending}.*: 2 columns are called "text"; rename or remove all but one'):
        texts(path)
    assert texts(path, text_key=("label",)) == more
    path = written(tmp_path / f"b.{ending}", [("text", one), ("id", more), ("id", two)])
    with pytest.raises(UserError, match='2 columns are called "id"'):
        texts(path)
    path = written(tmp_path / f"c.{ending}", [("text", one), ("n", more), ("n", two), ("", more), ("", two)])
    assert texts(path) == one
    with pytest.raises(UserError, match=r'no key "body".* text, n'):
        texts(path, text_key=("body",))
    path = written(tmp_path / f"d.{ending}", [("prompt", one), ("completion", two), ("n", more), ("n", two)])
    assert len(list(chat_files.documents_of(Part(path), voice="other"))) == 2
    path = written(tmp_path / f"e.{ending}", [("prompt", one), ("completion", two), ("prompt", two)])
    with pytest.raises(UserError, match='2 columns are called "prompt"'):
        list(chat_files.documents_of(Part(path), voice="other"))


def times(count: int) -> list[tuple[str, object]]:
    """Returns columns whose values Python has no type for: years beyond 9999, and times between microseconds."""
    arrow = pytest.importorskip("pyarrow")
    return [
        ("far", arrow.array([2**62] * count, arrow.timestamp("us"))),
        ("between", arrow.array([1] * count, arrow.timestamp("ns"))),
        ("long", arrow.array([1] * count, arrow.duration("ns"))),
    ]


@pytest.mark.parametrize("form", sorted(FORMS.keys() - {"nanochat", "parts"}))
def test_chats_are_read_with_other_columns_of_any_type(form, tmp_path):
    columns = [(name, [value]) for name, value in FORMS[form].items()]
    expected = ["\ufdd1Hi\ufdd3\ufdd2Ho\ufdd3"]
    for others in ([], times(1)):
        path = written(tmp_path / "c.parquet", [*others, *columns])
        assert [each.text for each in chat_files.documents_of(Part(path), voice="other")] == expected


def test_values_that_cannot_be_read_are_named_by_row_and_are_no_damage(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    path = written(tmp_path / "a.parquet", [("text", ["one", "two"]), *times(2), ("id", times(2)[0][1])])
    assert texts(path) == ["one", "two"]
    with pytest.raises(UserError, match=r'a\.parquet, row 1: the value of "far", a timestamp\[us\], cannot be read; w'):
        texts(path, text_key=("far",))
    with pytest.raises(UserError, match=r'a\.parquet, row 1: no key "body".* text, far, between, long, id'):
        texts(path, text_key=("body",))
    path = written(tmp_path / "b.parquet", times(2))
    with pytest.raises(UserError, match=r"b\.parquet, row 1: no list of messages in it, but far, between, long; exp"):
        list(chat_files.documents_of(Part(path), voice="other"))
    latin = arrow.array([b"good", b"na\xefve", b"fine"]).view(arrow.string())
    path = written(tmp_path / "c.parquet", [("text", latin)])
    counted: list[str] = []
    read = documents.documents_of(Part(path), on_fault=lambda why, _: counted.append(why))
    assert ([each.text for each in read], counted) == (["good", "fine"], ["not text"])


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_line_that_names_the_delimiter_for_excel_is_no_header(tmp_path, delimiter):
    path = tmp_path / "a.csv"
    lines = [f"sep={delimiter}", f"id{delimiter}text", f'1{delimiter}"a,b;c\td, e; f"']
    path.write_bytes("\r\n".join([*lines, ""]).encode("utf-8-sig"))
    assert texts(str(path)) == ["a,b;c\td, e; f"]
    path.write_text("\n".join([*lines, "2"]))
    with pytest.raises(UserError, match=r"a\.csv, line 4: 1 columns, but 2 in the first line"):
        texts(str(path))


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("data-00000-of-00001.arrow", r"write each \.arrow file as Parquet: pyarrow"),
        ("train.bin", 'token ids, as in train.bin, are trained on with "input": "packed"'),
        ("a.npy", 'token ids, as in train.bin, are trained on with "input": "packed"'),
    ],
)
def test_data_of_other_programs_are_refused_with_what_to_do(tmp_path, name, fix):
    """What Dataset.save_to_disk writes, and arrays of tokens, where text is expected."""
    path = tmp_path / "saved" / "train" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\xff\xff\xff\x88\0\0\0")
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    for entry in (tmp_path / "saved", path):
        with pytest.raises(UserError, match=fix):
            texts(str(entry))


def test_a_dataset_that_was_saved_to_disk_is_read_once_it_is_written_as_the_message_says(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    monkeypatch.chdir(tmp_path)
    table = pyarrow.table({"text": ["one", "two"]})
    with pyarrow.ipc.new_stream("X.arrow", table.schema) as file:
        file.write_table(table)
    with pytest.raises(UserError) as refused:
        texts(str(tmp_path))
    eval(str(refused.value).partition("as Parquet: ")[2], {"pyarrow": pyarrow})
    assert texts(str(tmp_path)) == ["one", "two"]
