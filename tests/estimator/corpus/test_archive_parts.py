"""Parts of archives: the members that names give them are those of the unpacked files, whatever the archive is."""

import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from estimator.corpus import archive_parts, documents, file_search, split_names
from estimator.corpus.parts import Part

NAMES = ("wiki/train/a.txt", "wiki/train/x/b.txt", "wiki/notes.txt", "wiki/valid/c.txt", "wiki/test/d.txt")
ENDINGS = ("zip", "tar", "tar.gz", "tar.xz", "tgz")


def archive(path: Path, names) -> str:
    for name in names:
        file = path.parent / "files" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_text(name)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as packed:
            for name in names:
                packed.write(path.parent / "files" / name, name)
        return str(path)
    with tarfile.open(path, {".tar": "w", ".xz": "w:xz"}.get(path.suffix, "w:gz")) as packed:
        for name in names:
            packed.add(path.parent / "files" / name, name)
    return str(path)


def read(path: str) -> list[str]:
    return [each.text for each in documents.documents_of(Part(path))]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    "names",
    [
        NAMES,
        ("train.jsonl.txt", "valid.jsonl.txt"),
        ("./train/a.txt", "./Test/a.txt"),
        ("train/test/a.txt", "valid/train/b.txt"),
        ("en/train.txt", "en/dev.txt", "de/train.txt"),
    ],
)
def test_members_are_divided_as_files_are(ending, names, tmp_path):
    path = archive(tmp_path / f"wiki.{ending}", names)
    expected = split_names.by_name([f"/{name.removeprefix('./')}" for name in names])
    found = archive_parts.by_name([path])
    texts = [sorted(f"/{text.removeprefix('./')}" for part in parts for text in read(part)) for parts in found]
    assert texts == [sorted(expected.training + expected.others), *map(sorted, expected[1:3]), []]
    assert file_search.find(found.training) == found.training


@pytest.mark.parametrize("ending", ENDINGS)
def test_archives_within_an_archive_are_divided_too(ending, tmp_path):
    (tmp_path / "files" / "wiki").mkdir(parents=True)
    archive(tmp_path / "files" / "wiki" / "inner.zip", ("train/a.txt", "valid/b.txt"))
    path = archive(tmp_path / f"wiki.{ending}", ("wiki/inner.zip", "wiki/more/c.txt", "wiki/.hidden.txt"))
    found, counts = archive_parts.by_name([path]), Counter[str]()
    assert found == ([f"{path}::train"], [f"{path}::valid"], [], [])

    def noted(part: str) -> list[str]:
        told = documents.documents_of(Part(part), on_fault=lambda reason, _: counts.update([reason]))
        return [each.text for each in told]

    assert sorted(noted(found.training[0])) == ["train/a.txt", "wiki/more/c.txt"]
    assert noted(found.evaluation[0]) == ["valid/b.txt"]
    assert counts == {"hidden files": 1}  # not once for each part


def test_many_folders_are_divided_each(tmp_path):
    path = str(tmp_path / "wiki.zip")
    with zipfile.ZipFile(path, "w") as packed:
        for split in ("train", "valid"):
            for i in range(3000):
                packed.writestr(f"speaker {i:04}x/{split}/a.txt", split)
    found = archive_parts.by_name([path])
    assert [set(map(str, read(part))) for parts in found[:2] for part in parts] == [{"train"}, {"valid"}]


def test_a_damaged_archive_within_an_archive_changes_nothing_for_other_members(tmp_path):
    (tmp_path / "files" / "wiki").mkdir(parents=True)
    (tmp_path / "files" / "wiki" / "inner.zip").write_bytes(b"PK\x03\x04 and no more")
    path = archive(tmp_path / "wiki.zip", NAMES)
    with zipfile.ZipFile(path, "a") as packed:
        packed.write(tmp_path / "files" / "wiki" / "inner.zip", "wiki/inner.zip")
    assert archive_parts.by_name([path]).evaluation == [f"{path}::valid"]


@pytest.mark.parametrize("names", [("a.txt", "b.txt"), ("test.txt", "a.txt"), ("train/a.txt", "train/b.txt")])
def test_an_archive_without_such_names_stays_whole(names, tmp_path):
    path = archive(tmp_path / "wiki.zip", names)
    assert archive_parts.by_name([path]) == ([], [], [], [path])


def test_the_name_of_the_archive_goes_before_those_in_it(tmp_path):
    (tmp_path / "valid").mkdir()
    paths = [archive(tmp_path / f"{name}.zip", NAMES) for name in ("train", "valid")]
    assert archive_parts.by_name(paths) == ([paths[0]], [paths[1]], [], [])


def test_a_damaged_archive_is_left_to_its_reading(tmp_path):
    path = Path(archive(tmp_path / "wiki.zip", NAMES))
    path.write_bytes(path.read_bytes()[:60])
    assert archive_parts.by_name([str(path)]) == ([], [], [], [str(path)])


def test_how_a_large_compressed_archive_is_divided_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("GPT2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(archive_parts, "LONG", 0)
    path = archive(tmp_path / "wiki.tar.gz", NAMES)
    found = archive_parts.by_name([path])
    assert found.evaluation == [f"{path}::valid"]
    archive_parts._division.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(archive_parts, "listed", lambda path: pytest.fail("it is read again"))
        assert archive_parts.by_name([path]) == found
        assert read(found.evaluation[0]) == ["wiki/valid/c.txt"]
    (record,) = (tmp_path / "cache" / "archives").iterdir()
    record.write_text("{")
    archive_parts._division.cache_clear()
    assert archive_parts.by_name([path]) == found


def test_a_file_whose_name_looks_like_a_part_is_a_file(tmp_path):
    path = archive(tmp_path / "wiki.zip", NAMES)
    file = tmp_path / "wiki.zip::train"
    file.write_text("its own text")
    assert archive_parts.archive_of(str(file)) is None
    assert read(str(file)) == ["its own text"]
    assert archive_parts.archive_of(f"{path}::valid") == path
    assert archive_parts.archive_of(f"{path}::other") is None
