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
    ],
)
def test_words_in_other_names_mean_nothing(names):
    assert split_names.by_name(names) == ([], [], [], names)
