"""Archives with members that names would hold out: notes on these, and none on other archives."""

import tarfile
import zipfile
from pathlib import Path

import pytest

from estimator.corpus import archive_names, documents, formats
from estimator.corpus.parts import Part

SPLIT = ("wiki/train/a.txt", "wiki/train/b.txt", "wiki/valid/c.txt", "wiki/test/d.txt")
ENDINGS = ("zip", "tar", "tar.gz", "tar.xz", "tgz")


def archive(path: Path, names) -> Path:
    for name in names:
        (path.parent / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "files" / name).write_text(f"the text of {name}\n")
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as packed:
            for name in names:
                packed.write(path.parent / "files" / name, name)
        return path
    mode = {".tar": "w", ".xz": "w:xz"}.get(path.suffix, "w:gz")
    with tarfile.open(path, mode) as packed:
        for name in names:
            packed.add(path.parent / "files" / name, name)
    return path


def read(path: Path) -> list[str]:
    """The notes that are made while the archive is read."""
    reasons: list[str] = []
    list(documents.documents_of(Part(str(path)), on_fault=lambda reason, _: reasons.append(reason)))
    assert all(map(documents.is_noted, reasons))
    return archive_names.notes(reasons)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("names", "held_out"),
    [
        (SPLIT, "valid/, test/"),
        (("train.jsonl.txt", "valid.jsonl.txt"), "valid.jsonl.txt"),
        (("train.txt", "notes.txt", "test.txt"), "test.txt"),
        (("./train/a.txt", "./test/a.txt"), "test/"),
    ],
)
def test_members_that_names_would_hold_out_are_noted(ending, names, held_out, tmp_path):
    path = archive(tmp_path / f"wiki.{ending}", names)
    assert read(path) == archive_names.look([str(path)]) == [f"{archive_names.UNDIVIDED}{path}: {held_out}"]
    (line,) = archive_names.warnings(read(path))
    assert line.startswith(f"warning: {path} is trained on as a whole, also {held_out}, ")
    assert "wiki_texts" in line
    assert ("unzip" in line) == (ending == "zip")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("names", [("a.txt", "b.txt"), ("test.txt", "a.txt"), ("train/a.txt", "train/b.txt")])
def test_other_archives_are_not_noted(ending, names, tmp_path):
    path = archive(tmp_path / f"wiki.{ending}", names)
    assert read(path) == archive_names.look([str(path)]) == []


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("tokens", "some words\n"),
        ("chat-other", "1|mom|Hi <EOM>\n0|mom|Hello <EOM>\n\n"),
        ("chat-other", '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}\n'),
    ],
)
def test_archives_of_every_kind_of_text_are_noted(kind, text, tmp_path):
    path = tmp_path / "chats.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for name in ("train", "valid"):
            packed.writestr(f"{name}.{'jsonl' if text.startswith('{') else 'txt'}", text)
    reasons: list[str] = []
    list(formats.KINDS[kind].documents_of(Part(str(path)), on_fault=lambda reason, _: reasons.append(reason)))
    assert len(archive_names.notes(reasons)) == 1


def test_the_folder_of_an_archive_says_nothing_of_its_members(tmp_path):
    for name in ("train", "valid"):
        (tmp_path / name).mkdir()
        path = archive(tmp_path / name / "wiki.zip", ["a.txt", "b.txt"])
        assert read(path) == archive_names.look([str(path)]) == []


def test_of_many_members_a_few_names_are_kept():
    members = archive_names.Members("a.zip")
    for split in ("train", "valid"):
        for i in range(10_000):
            members.add(f"a.zip/{split}/{i}.txt")
    assert len(members._names) == 2
    assert members.note() == f"{archive_names.UNDIVIDED}a.zip: valid/"


def test_of_many_archives_the_first_are_listed():
    noted = [f"{archive_names.UNDIVIDED}{i}.zip: valid/" for i in range(5)]
    assert len(archive_names.warnings(noted)) == archive_names.LINES + 1
    assert "2 more" in archive_names.warnings(noted)[-1]


@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz"])
def test_what_is_damaged_is_left_to_its_reading(ending, tmp_path):
    path = archive(tmp_path / f"wiki.{ending}", SPLIT)
    path.write_bytes(path.read_bytes()[:60])
    archive_names.look([str(path)])
