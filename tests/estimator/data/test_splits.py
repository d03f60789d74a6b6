"""Evaluation splits: the right fraction of the tokens for any document sizes, and no overlap with the training data."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import inputs
from estimator.corpus import archive_names
from estimator.data import split_folders, text_input
from estimator.data.config import InputConfig
from estimator.errors import UserError
from estimator.format_version import NEWEST_SPLIT, SplitRules
from estimator.shards.shard import decode
from estimator.tokenization import tokenizer as tokenizers

N_VOCAB, N_CTX = 300, 16


def text(count: int, *, seed: int) -> str:
    """Returns `count` numbered words, so that every piece of the text is unique."""
    return " ".join(f"{seed}:{i}" for i in range(count))


def opened(folder, *, vocabulary: Path | None = None, rules: SplitRules = NEWEST_SPLIT, **options) -> inputs.Data:
    """vocabulary: of a run that has begun. rules: of an earlier version."""
    config = InputConfig(**({"input": "text", "data_path": str(folder)} | options))
    run = {"vocabulary": vocabulary, "rules": rules}
    return inputs.open_data(config, n_ctx=N_CTX, n_vocab=N_VOCAB, cache=folder.parent / "cache", **run)


def split_of(data: inputs.Data) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns the token ids of the training documents and of the evaluation documents."""

    def ids(documents):
        return [decode([documents.span(i, 0, 10**9)])[0] for i in range(len(documents))]

    return ids(data.train._streams.documents), ids(data.evaluation._stream._documents)


def share(data: inputs.Data) -> float:
    training, evaluation = (sum(map(len, part)) for part in split_of(data))
    return evaluation / (training + evaluation)


CORPORA = {
    "one small text": [4000],
    "one book": [40_000],
    "two books": [40_000, 30_000],
    "a book and notes": [40_000, *[30] * 40],
    "twenty texts": [1500] * 20,
    "thirty texts": [180] * 30,
    "many texts": [60] * 800,
}


@pytest.mark.parametrize("fraction", [None, 0.05, 0.2])
@pytest.mark.parametrize("name", CORPORA)
def test_the_share_of_the_tokens_is_near_the_fraction(name, fraction, tmp_path):
    (tmp_path / "texts").mkdir()
    for i, count in enumerate(CORPORA[name]):
        (tmp_path / "texts" / f"{i}.txt").write_text(text(count, seed=i))
    data = opened(tmp_path / "texts", eval_split=fraction)
    wanted = fraction or 0.05
    assert wanted / 1.5 <= share(data) <= wanted * 1.5
    training, evaluation = split_of(data)
    # Every token is in exactly one of the splits.
    whole = sum(map(len, training)) + sum(map(len, evaluation))
    tokens = {tuple(each) for each in training}
    assert all(tuple(each) not in tokens for each in evaluation)
    assert whole == sum(map(len, split_of(opened(tmp_path / "texts", eval_split=0))[0]))


def test_chats_are_trained_on_without_an_evaluation(tmp_path):
    (tmp_path / "chats").mkdir()
    line = "1|mom|Hi {0} <EOM>\n0|mom|Hello {0} <EOM>\n\n"
    (tmp_path / "chats" / "c.txt").write_text("".join(map(line.format, range(60))))
    data = opened(tmp_path / "chats", input="chat", eval_split=0)
    assert len(data.evaluation) == 0
    assert data.train.windows_per_epoch > 0


def test_folders_of_shards_of_chats_divide_them_as_their_files_do(tmp_path):
    line, made = "1|mom|Hi {0} <EOM>\n0|mom|Hello {0} <EOM>\n\n", {}
    for name, numbers in (("train", range(60)), ("valid", range(60, 70))):
        (tmp_path / f"{name}.txt").write_text("".join(map(line.format, numbers)))
    files = opened(tmp_path / "train.txt", input="chat", eval_split=str(tmp_path / "valid.txt"))
    for name, data in (("train", files.train), ("valid", files.evaluation)):
        made = {shard.path for shard in data._pieces._documents.shards}
        (tmp_path / "shards" / name).mkdir(parents=True)
        for shard in made:
            shutil.copy(shard, tmp_path / "shards" / name)
    encoder = next(Path(shard).parents[1] for shard in made) / "encoder"
    data = opened(tmp_path / "shards", input="chat", encoder_path=str(encoder))
    assert any("shards: by their names, train is trained on and valid is evaluated on" in note for note in data.notes)
    for ours, theirs in ((data.train, files.train), (data.evaluation, files.evaluation)):
        every = range(len(theirs))
        np.testing.assert_array_equal(ours.batch(every)["tokens"], theirs.batch(every)["tokens"])


def test_the_end_of_one_text_is_evaluated_on(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "book.txt").write_text(text(4000, seed=1))
    training, evaluation = split_of(opened(tmp_path / "texts"))
    (whole,), nothing = split_of(opened(tmp_path / "texts", eval_split=0))
    assert nothing == []
    np.testing.assert_array_equal(np.concatenate([*training, *evaluation]), whole)
    note = (
        "1 document is cut and counted on both sides, as whole ones cannot make up eval_split (default 0.05) of the "
        "tokens: the end is evaluated on, the rest is trained on"
    )
    assert note in opened(tmp_path / "texts").notes
    assert note not in opened(tmp_path / "texts", eval_split=0).notes


def test_copies_of_a_text_are_cut_at_the_same_place(tmp_path):
    (tmp_path / "texts").mkdir()
    for i in range(3):
        (tmp_path / "texts" / f"{i}.txt").write_text(text(4000, seed=1))
    training, evaluation = split_of(opened(tmp_path / "texts"))
    assert len({tuple(each) for each in training}) == len({tuple(each) for each in evaluation}) == 1


def test_a_fraction_of_nearly_everything_leaves_a_document_to_train_on(tmp_path):
    (tmp_path / "texts").mkdir()
    for i in range(30):
        (tmp_path / "texts" / f"{i}.txt").write_text(text(600, seed=i))
    for fraction in (0.999, 0.9999999):
        assert 0.95 < share(opened(tmp_path / "texts", eval_split=fraction)) < 1


def write(folder, names):
    folder.mkdir()
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text(600, seed=i))


@pytest.mark.parametrize("ending", ["zip", "gztar"])
def test_names_divide_the_members_of_an_archive_as_they_do_files(ending, tmp_path):
    write(tmp_path / "texts", ["train/a.txt", "train/b.txt", "notes.txt", "valid/c.txt", "test/d.txt"])
    path = Path(shutil.make_archive(str(tmp_path / "wiki"), ending, tmp_path / "texts"))

    def texts(data: inputs.Data) -> list[list[str]]:
        tokenizer = tokenizers.load(str(data.encoder))
        return [sorted(tokenizer.decode(ids) for ids in part) for part in split_of(data)]

    unpacked = texts(opened(tmp_path / "texts"))
    assert [[len(part) for part in unpacked]] == [[3, 1]]
    for _ in range(2):  # from the cache, too
        data = opened(path)
        assert texts(data) == unpacked
        said = "valid in {0}: not trained on, but evaluated on; test in {0}: not used"
        assert data.notes[-1] == f"by their names, {said.format(path.name)}"
    assert list(map(len, texts(opened(path, vocabulary=Path(data.encoder))))) == [3, 1]
    assert len(list((tmp_path / "cache").iterdir())) == 2  # one for the folder
    assert text_input.warnings(InputConfig(input="text", data_path=str(path))) == []
    training, evaluation = split_of(opened(path, eval_split=0.2))
    assert sum(map(len, training)) < sum(map(len, split_of(data)[0]))
    assert len(evaluation)
    training, _ = split_of(opened(path, eval_split=str(tmp_path / "texts" / "test")))
    assert len(training) == 4  # all but the named file


@pytest.mark.parametrize(
    ("training", "evaluation", "documents"),
    [
        (["{}"], "{}::valid", [4, 1]),  # all but those that are evaluated on
        (["{}::train"], "{}::valid", [3, 1]),
        (["{}::train", "{}"], "{}::test", [4, 1]),
    ],
)
def test_a_part_of_an_archive_that_is_evaluated_on_is_not_trained_on(training, evaluation, documents, tmp_path):
    write(tmp_path / "texts", ["train/a.txt", "train/b.txt", "notes.txt", "valid/c.txt", "test/d.txt"])
    path = Path(shutil.make_archive(str(tmp_path / "wiki"), "zip", tmp_path / "texts"))
    options = {"data_path": [each.format(path) for each in training], "eval_split": evaluation.format(path)}
    assert list(map(len, split_of(opened(path, **options)))) == documents
    with pytest.raises(UserError, match="takes all files of data_path"):
        opened(path, data_path=options["data_path"][0], eval_split=str(path))


def test_a_run_that_was_begun_with_a_whole_archive_keeps_it_and_a_new_one_divides_it(tmp_path):
    write(tmp_path / "texts", ["train/a.txt", "valid/b.txt"])
    path = Path(shutil.make_archive(str(tmp_path / "wiki"), "zip", tmp_path / "texts"))
    before = opened(path, rules=SplitRules.FILES)
    own = shutil.copytree(before.encoder, tmp_path / "own")

    def documents(data: inputs.Data) -> list[list[list[int]]]:
        return [[part.tolist() for part in parts] for parts in split_of(data)]

    whole = documents(before)
    new = opened(path)
    assert list(map(len, documents(new))) == [1, 1]
    for vocabulary in (own, None):
        assert documents(opened(path, vocabulary=vocabulary, rules=SplitRules.FILES)) == whole
    for rules in (SplitRules.FOLDERS, SplitRules.FILES):
        assert documents(opened(path, vocabulary=own, rules=rules)) == whole
    assert documents(opened(path)) == documents(new)


@pytest.mark.parametrize("ending", ["zip", "gztar"])
def test_a_line_says_that_a_run_keeps_the_whole_archive_that_it_was_begun_with(ending, tmp_path, monkeypatch):
    write(tmp_path / "texts", ["train/a.txt", "valid/b.txt"])
    path = Path(shutil.make_archive(str(tmp_path / "wiki"), ending, tmp_path / "texts"))
    config, kept = InputConfig(input="text", data_path=str(path)), {"rules": SplitRules.FILES}
    (line,) = text_input.warnings(config, **kept)
    assert line.startswith(f"warning: {path} is trained on as a whole, also valid/, ")
    monkeypatch.setattr(archive_names, "look", lambda paths: pytest.fail("what the cache knows is not looked at again"))
    for _ in range(2):  # from the cache, too
        assert opened(path, **kept).notes.count(line) == 1
    assert line not in opened(path, eval_split=str(tmp_path / "texts" / "valid")).notes
    monkeypatch.undo()
    record = next(tmp_path.glob("cache/*/prepared.json"))
    found = {key: value for key, value in json.loads(record.read_text()).items() if key != "undivided"}
    record.write_text(json.dumps(found))  # as earlier versions wrote it
    before = record.stat().st_mtime_ns
    assert opened(path, **kept).notes.count(line) == 1
    assert record.stat().st_mtime_ns == before


def same(folder, names):
    write(folder, names)
    for name in names:
        (folder / name).write_text(text(600, seed=int("b." in name)))


@pytest.mark.parametrize(
    ("names", "options", "told"),
    [
        (["train/a.txt", "valid/a.txt"], {}, "{0}/train/ and {0}/valid/ hold"),
        (["train/a.txt", "train/b.txt", "valid/a.txt", "valid/b.txt"], {}, "{0}/train/ and {0}/valid/ hold"),
        (["train.txt", "valid.txt"], {}, "train.txt and valid.txt hold"),
        (["one.txt", "two.txt"], {"eval_split": "{0}/two.txt"}, "one.txt and two.txt hold"),
    ],
)
def test_the_same_texts_to_train_and_evaluate_on_are_named_with_their_files(names, options, told, tmp_path):
    folder = tmp_path / "texts"
    same(folder, names)
    options = {key: value.format(folder) for key, value in options.items()}
    with pytest.raises(UserError, match=re.escape(told.format(folder))) as raised:
        opened(folder, **options)
    assert "the same texts" in str(raised.value)
    assert "tfrecords" not in str(raised.value)
    assert opened(folder, eval_split=0.05).evaluation  # as the error advises


def test_shards_with_the_same_texts_are_named_with_their_folders(tmp_path):
    write(tmp_path / "texts", ["a.txt"])
    data = opened(tmp_path / "texts", eval_split=0)
    (shard,) = {shard.path for shard in data.train._streams.documents.shards}
    for name in ("train", "valid"):
        (tmp_path / "shards" / name).mkdir(parents=True)
        shutil.copy(shard, tmp_path / "shards" / name)
    with pytest.raises(UserError, match=r"shards/train/ and .*shards/valid/ hold the same texts"):
        opened(tmp_path / "shards", input="packed", encoder_path=str(shard.parents[1] / "encoder"))


def test_text_of_which_nothing_is_left_is_named_with_its_file(tmp_path):
    (tmp_path / "chat.txt").write_text("1|mom|Hi <EOM>\n0|mom|Hello <EOM>\n")
    with pytest.raises(UserError, match=r"in chat\.txt, which may be a single document.* eval_split to other files"):
        opened(tmp_path / "chat.txt", input="chat")


def test_files_of_tests_are_never_trained_on(tmp_path):
    write(tmp_path / "texts", ["train.txt", "valid.txt", "test.txt", "notes.txt"])
    data = opened(tmp_path / "texts")
    assert any("valid.txt: not trained on, but evaluated on; test.txt: not used" in note for note in data.notes)
    training, evaluation = split_of(data)
    assert (len(training), len(evaluation)) == (2, 1)
    training, evaluation = split_of(opened(tmp_path / "texts", eval_split=0))
    assert (len(training), len(evaluation)) == (2, 0)
    notes = opened(tmp_path / "texts", eval_split=0.1).notes
    assert any(note.endswith("by their names, valid.txt, test.txt: not used") for note in notes)
    assert len(split_of(opened(tmp_path / "texts", eval_split="valid.txt"))[0]) == 3  # the explicit split is used


def test_without_a_file_for_validation_that_for_tests_is_evaluated_on(tmp_path):
    write(tmp_path / "texts", ["train.txt", "test.txt"])
    training, evaluation = split_of(opened(tmp_path / "texts"))
    assert (len(training), len(evaluation)) == (1, 1)


@pytest.mark.parametrize(("options", "key"), [({}, "data_path"), ({"eval_split": "valid.txt"}, "eval_split")])
def test_a_file_to_evaluate_on_without_text_is_named_with_the_key_that_it_is_from(options, key, tmp_path):
    write(tmp_path / "texts", ["train.txt", "valid.txt"])
    (tmp_path / "texts" / "valid.txt").write_text("\n")
    with pytest.raises(UserError, match=rf"^{key}: no text in .*valid\.txt"):
        opened(tmp_path / "texts", **options)


@pytest.mark.parametrize(
    ("names", "trained", "evaluated", "pattern"),
    [
        (["train/a.txt", "test/b.txt"], 1, 1, "test/: not trained on, but evaluated on"),
        (["wiki/train/a.txt", "wiki/valid/b.txt", "wiki/test/c.txt", "web/d.txt"], 2, 1, "test/: not used"),
        (["Training/a.txt", "Validation/b.txt", "notes.txt"], 2, 1, "Validation/: not trained on"),
    ],
)
def test_folders_of_tests_are_never_trained_on(names, trained, evaluated, pattern, tmp_path):
    write(tmp_path / "texts", names)
    for data in (
        opened(tmp_path / "texts"),
        opened(tmp_path / "texts", data_path=str(tmp_path / "texts" / "**" / "*.txt")),
    ):
        assert list(map(len, split_of(data))) == [trained, evaluated]
        assert any(pattern in note for note in data.notes)


@pytest.mark.parametrize(
    ("names", "trained", "evaluated"),
    [(["train/a.txt", "test/b.txt"], ["."], []), (["train/a.txt", "valid/b.txt", "notes.txt"], ["train"], ["valid"])],
)
def test_a_run_keeps_the_split_of_an_earlier_version_and_a_new_one_goes_by_names(
    names, trained, evaluated, tmp_path, monkeypatch
):
    """Earlier versions trained on all, or left out files next to the two folders."""
    write(tmp_path / "texts", names)
    with monkeypatch.context() as patch:
        split = [str(tmp_path / "texts" / name) for name in trained], [str(tmp_path / "texts" / e) for e in evaluated]
        patch.setattr(text_input, "_named", lambda paths, options, evaluates, rules: (*split, []))
        data = opened(tmp_path / "texts")
    vocabulary = shutil.copytree(data.encoder, tmp_path / "own")

    def documents(data: inputs.Data) -> list[list[list[int]]]:
        return [[part.tolist() for part in parts] for parts in split_of(data)]

    new = opened(tmp_path / "texts")
    assert list(map(len, documents(new))) == [len(names) - 1, 1]
    assert any(evaluated in note for evaluated in ("test/", "valid/") for note in new.notes)
    for own in (vocabulary, None):  # the oldest versions did not keep one in the run
        assert documents(opened(tmp_path / "texts", vocabulary=own, rules=SplitRules.FOLDERS)) == documents(data)
    resumed = opened(tmp_path / "texts", vocabulary=Path(new.encoder))
    assert documents(resumed) == documents(new)


def test_text_that_is_put_next_to_the_folders_is_trained_on_when_a_run_resumes(tmp_path):
    write(tmp_path / "texts", ["train/a.txt", "valid/b.txt"])
    begun = opened(tmp_path / "texts")
    again = opened(tmp_path / "texts", vocabulary=Path(begun.encoder))
    assert list(map(len, split_of(again))) == [1, 1]
    assert again.notes == begun.notes
    assert len(list((tmp_path / "cache").iterdir())) == 1
    (tmp_path / "texts" / "extra.txt").write_text(text(600, seed=9))
    assert list(map(len, split_of(opened(tmp_path / "texts", vocabulary=Path(begun.encoder))))) == [2, 1]


def test_shards_and_arrays_of_tests_are_never_trained_on(tmp_path):
    tokens = np.random.default_rng(0).integers(0, 50_257, (2, 500)).astype(np.uint16)
    for place in ("folder/train", "folder/test"):
        (tmp_path / place).mkdir(parents=True)
    for name, ids in zip(("train", "test"), tokens, strict=True):
        np.save(tmp_path / "folder" / name / "shard.npy", ids)
        np.save(tmp_path / f"{name}.npy", ids)
    for folder in (tmp_path, tmp_path / "folder"):
        config = InputConfig(input="packed", data_path=str(folder))
        data = inputs.open_data(config, n_ctx=N_CTX, n_vocab=50_257, cache=tmp_path / "cache")
        (training,), (evaluation,) = split_of(data)
        np.testing.assert_array_equal(training, tokens[0])
        np.testing.assert_array_equal(evaluation, tokens[1])


@pytest.mark.parametrize(
    ("names", "divides"), [(("train", "test"), False), (("Train", "valid"), False), (("train", "dev"), True)]
)
def test_a_run_of_an_earlier_version_keeps_the_split_of_arrays(names, divides, tmp_path):
    for name, ids in zip(names, np.random.default_rng(0).integers(0, 50_257, (2, 500)).astype(np.uint16), strict=True):
        np.save(tmp_path / f"{name}.npy", ids)
    config = InputConfig(input="packed", data_path=str(tmp_path))
    for rules, expected in ((NEWEST_SPLIT, True), (SplitRules.FOLDERS, divides)):
        kept, notes = split_folders.divided(config, rules=rules)
        assert bool(notes) == expected
        assert (kept.data_path == [str(tmp_path / f"{names[0]}.npy")]) == expected


def test_shards_of_earlier_versions_keep_their_split(tmp_path):
    """Their manifest does not record the unit of the fraction; documents are selected by hash, however few they are."""
    import json

    (tmp_path / "texts").mkdir()
    for i in range(6):
        (tmp_path / "texts" / f"{i}.txt").write_text(text(300 + 400 * i, seed=i))
    now = split_of(opened(tmp_path / "texts"))
    (manifest,) = (tmp_path / "cache").rglob("shards/text.json")
    values = json.loads(manifest.read_bytes())
    assert values.pop("fraction_of") == "tokens"
    del values["checksum"]
    manifest.write_text(json.dumps(values))
    before = split_of(opened(tmp_path / "texts"))
    assert [len(part) for part in before] == [5, 1]
    assert sum(map(len, before[1])) != sum(map(len, now[1]))
