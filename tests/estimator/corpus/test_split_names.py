"""Names that say which part of the data a file is, and words in other names."""

import pytest

from estimator.corpus import split_names


@pytest.mark.parametrize(
    ("names", "training", "evaluation", "test"),
    [
        (["train.txt", "valid.txt", "test.txt"], [0], [1], [2]),
        (["X-train.txt", "X-dev.txt"], [0], [1], []),
        (["wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"], [0], [1], [2]),
        (["data_train.json.gz", "data_validation.json.gz", "data_test.json.gz"], [0], [1], [2]),
        (
            ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"],
            [0, 1],
            [],
            [2],
        ),
        (["train.jsonl", "eval.json"], [0], [1], []),
        (["training.txt", "testing.txt"], [0], [], [1]),
        (["training_data_1.csv", "testing_data_1.csv"], [0], [], [1]),
        (
            ["train-00000-of-00001-a09b74b3ef9c3b56.parquet", "validation-00000-of-00001-0130b43b1ff9e4a2.parquet"],
            [0],
            [1],
            [],
        ),
        (["train1.txt", "train2.txt", "valid1.txt", "test2.txt"], [0, 1], [2], [3]),
        (["X_trainset.csv", "X_testset.csv"], [0], [], [1]),
        (["train.jsonl.bz2", "held_out.tar", "test.tgz"], [0], [1], [2]),
        (["x-train.txt", "x-held-out.txt"], [0], [1], []),
    ],
)
def test_names_of_files_say_what_they_are_for(names, training, evaluation, test):
    parts = split_names.by_name(names)
    assert parts == ([names[i] for i in training], [names[i] for i in evaluation], [names[i] for i in test], [])


@pytest.mark.parametrize(
    "names",
    [
        ["training_manual.txt", "testimony.txt", "latest-test-drive.txt"],
        ["training_manual.txt", "testing_manual.txt"],
        ["a-training-plan.txt", "a-evaluation-plan.txt"],
        ["test.txt", "notes.txt"],
        ["valid.txt"],
        ["train.txt", "other-test.txt"],
        ["train.txt", "contest.txt", "validity.txt"],
        ["train1st.txt", "test1st.txt"],
        ["trainer.txt", "tester.txt", "training_day1.txt", "testing_day1.txt"],
        ["training1_day.txt", "testing1_day.txt"],
    ],
)
def test_words_in_other_names_mean_nothing(names):
    assert split_names.by_name(names) == ([], [], [], names)


@pytest.mark.parametrize(
    ("paths", "training", "evaluation", "test"),
    [
        (["train/a.txt", "test/b.txt"], [0], [], [1]),
        (["wiki/train/a.txt", "wiki/valid/b.txt", "web/c.txt"], [0], [1], []),
        (["Train/a.txt", "TEST/b.txt", "Heldout/c.txt"], [0], [2], [1]),
        (["training/a.txt", "validation/b.txt"], [0], [1], []),
        (["train_data/a.txt", "valid_data/b.txt", "test-set/c.txt"], [0], [1], [2]),
        (["train/valid.txt", "train/train.txt", "dev/train.txt"], [0, 1], [2], []),
        (["train/valid.txt", "train/train.txt"], [1], [0], []),
        (["x/train/test/a.txt", "x/train/train/b.txt", "x/test/train/c.txt"], [0, 1], [], [2]),
        (["train/a.txt", "test/b.txt", "more/train.txt", "more/valid.txt"], [0, 2], [3], [1]),
    ],
)
@pytest.mark.parametrize("folder", ["", "/data/test/", "gs://bucket/test/"])
def test_folders_say_what_their_files_are_for(paths, training, evaluation, test, folder):
    parts = split_names.by_name([folder + path for path in paths])
    assert list(parts[:3]) == [[folder + paths[i] for i in numbers] for numbers in (training, evaluation, test)]
    assert sum(map(len, parts)) == len(paths)


@pytest.mark.parametrize(
    "paths",
    [
        ["test/a.txt", "notes/b.txt"],
        ["train/a.txt", "notes/b.txt"],
        ["a/train/x.txt", "b/test/y.txt"],
        ["training manual/a.txt", "testing manual/b.txt"],
    ],
)
def test_folders_without_a_counterpart_mean_nothing(paths):
    assert split_names.by_name(paths) == ([], [], [], paths)


def test_files_are_listed_by_what_says_what_they_are_for():
    assert split_names.listed(["/a/test/b.txt", "/a/test/x/c.txt", "/x/valid.txt"]) == "test/, valid.txt"
    assert split_names.listed([f"/a/{i}-test.txt" for i in range(5)]) == "0-test.txt, 1-test.txt, 2-test.txt and 2 more"
