"""Evaluation tasks: metrics match examples computed by hand, and published items become the right requests."""

import errno
import itertools
import json
import math
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import random_gpt2
from helpers.random_gpt2 import N_CTX
from helpers.tiny_gpt2 import tiny

import evaluate
from estimator.commands import evaluate_tasks, evaluation_log
from estimator.errors import UserError
from estimator.evaluation import requests as scored
from estimator.evaluation.arguments import DETOKENIZERS, TASK_NAMES
from estimator.evaluation.detokenizers import CONVENTIONS
from estimator.evaluation.scorer import Scorer, Scores
from estimator.evaluation.tasks import TASKS, BadItem, item
from estimator.parallel.param_spec import map_specs
from estimator.tokenization.tokenizer import byte_level_tokenizer
from estimator.tokenization.wordpiece import WordPiece
from models.gpt2 import likelihood
from models.gpt2 import model as gpt2

TOKENIZER = byte_level_tokenizer()
LN2 = math.log(2)


class Bigrams:
    """After each letter of "the fox", the next letter has probability 1/2 and each of the 256 other bytes has 1/512."""

    n_ctx = 8

    def __call__(self, windows):
        favored = dict(zip("the fo", "he fox", strict=True))
        for tokens, scored_from, _ in windows:
            assert len(tokens) <= self.n_ctx + 1
            letters = [TOKENIZER.decode([token]) for token in tokens]
            is_favored = [favored.get(a) == b for a, b in itertools.pairwise(letters)][scored_from - 1 :]
            yield Scores(np.where(is_favored, -LN2, -9 * LN2), np.array(is_favored))


def metrics(name: str, *records: dict, scorer=None) -> dict:
    items = [item(TASKS[name], record) for record in records]
    requests = scored.encoded([pair for each in items for pair in each.requests], TOKENIZER)
    found = scored.results(scorer or Bigrams(), requests)
    return scored.of_choices(items, found) if TASKS[name].is_choice else scored.of_targets(found)


def test_lambada_by_hand():
    """Probabilities: " fox" after "the" has 1/2 four times; " fog" after "a" has 1/512, 1/2, 1/2, 1/512."""
    found = metrics("lambada", {"text": "the fox"}, {"text": "a fog"})
    assert found["acc"] == 0.5
    assert found["acc_last_token"] == 0.5
    assert found["perplexity"] == pytest.approx(2**12, rel=1e-12)
    assert found["acc_stderr"] == pytest.approx(0.5)
    assert found["perplexity_stderr"] == pytest.approx(2**12 * 8 * LN2)  # half the difference between 4 and 20 bits
    assert (found["items"], found["truncated"]) == (2, 0)


def test_multiple_choice_by_hand():
    """Bits of " fox", " fog", " f": 4, 12, 2. Per character: 4/3, 4, 2. Per token: 1, 3, 1; the first wins ties."""
    record = {"context": "the", "choices": ["fox", "fog", "f"], "label": 0}
    found = metrics("choice", record, record | {"label": 2})
    assert [found[name] for name in ("acc", "acc_norm", "acc_bytes", "acc_tokens")] == [0.5, 0.5, 0.5, 0.5]
    assert metrics("choice", record)["acc"] == 0
    assert metrics("choice", record)["acc_norm"] == 1
    assert metrics("choice", record)["acc_tokens"] == 1
    assert metrics("choice", record | {"label": "fog"})["acc_norm"] == 0
    assert metrics("choice", record | {"label": "C"})["acc"] == 1
    assert metrics("choice", record | {"label": 2.0, "answer": "f", "gold": None})["acc"] == 1


@pytest.mark.parametrize("label", [{"label": 0}, {"label": 2}, {"answer": "fox"}, {"answer": "fox", "label": 2}])
def test_each_choice_with_the_text_of_the_right_one_is_right(label):
    """Bits of " fox", " fog", " fox": 4, 12, 4; the first of equal ones wins."""
    record = {"context": "the", "choices": ["fox", "fog", "fox"]}
    assert metrics("choice", record | label)["acc"] == 1
    assert metrics("choice", record | {"answer": "fog"})["acc"] == 0
    found = item(TASKS["choice"], record | label)
    assert {found.gold, *found.also_gold} == {0, 2}


def test_the_file_of_items_names_all_right_choices():
    items = [
        item(TASKS["choice"], {"context": "a", "choices": choices, "label": 0})
        for choices in (["b", "c", "b"], ["b", "c"])
    ]
    result = scored.Result(-1.0, False, False, 1, False)
    lines = map(json.loads, evaluate_tasks._item_lines("choice", items, [result] * 5))
    assert [[line["gold"], *line.get("also_gold", [])] for line in lines] == [[0, 2], [0]]


def test_an_answer_is_the_text_of_a_choice_before_its_tokenization_is_undone():
    record = {"context": "He", "choices": ["did n't .", "did ."], "answer": "did n't ."}
    assert item(TASKS["choice"], record, "cbt").gold == 0
    assert item(TASKS["choice"], record | {"answer": "did."}, "cbt").gold == 1


def test_bytes_and_characters_are_told_apart():
    """Bits of "ééé" and " abcd": 63 and 45, which is 21 and 11.25 per character, and 10.5 and 11.25 per byte."""
    found = metrics("choice", {"context": "the", "choices": ["\u00e9\u00e9\u00e9", "abcd"], "label": 1})
    assert (found["acc_norm"], found["acc_bytes"]) == (1, 0)


def test_long_contexts_are_cut_from_the_left_and_counted():
    found = metrics("lambada", {"text": "yyyyyyyyythe fox"}, {"text": "the fox"}, {"text": "a the_the_the_the"})
    assert found["truncated"] == 2
    assert found["acc"] == pytest.approx(2 / 3)


def test_tokens_are_those_of_the_whole_text():
    def pieces(context: str, rest: str) -> tuple[str, str]:
        (request,) = scored.encoded([(context, rest)], TOKENIZER)
        parts = request.tokens[: request.first], request.tokens[request.first :]
        return tuple(TOKENIZER.decode(part) for part in parts)

    assert pieces("abc  ", "d") == ("abc", "  d")
    assert pieces("", "xy") == ("<|endoftext|>", "xy")
    assert pieces("a\n", " b") == ("a", "\n b")


def test_a_model_without_weights_gives_each_token_the_same_probability_and_prefers_the_first_id():
    config = tiny()
    params = map_specs(lambda spec: np.zeros(spec.shape, np.float32), gpt2.parameters(config))
    batch = {"tokens": np.zeros((1, 8), np.int32), "first": np.array([3], np.int32)}
    targets = np.array([[0, 1, 99, 0]], np.int32)
    logprobs, is_greedy = likelihood.score(params, batch | {"targets": targets}, config=config)
    np.testing.assert_allclose(logprobs, -math.log(100), rtol=1e-6)
    assert is_greedy.tolist() == [[True, False, False, True]]


HELLASWAG = {
    "activity_label": "Fixing a tap", "ctx_a": "[header] How to [title] turn  it.", "ctx_b": "the MAN",
    "endings": ["runs [step] off.", "sits  down."], "label": "1",
}  # fmt: skip
ARC = {"question": "Why?", "choices": {"text": ["so", "not"], "label": ["A", "B"]}, "answerKey": "B"}
ARC_FILE = {
    "question": {"stem": "Why?", "choices": [{"text": "so", "label": "1"}, {"text": "not", "label": "2"}]},
    "answerKey": "1",
}
CBT = {
    "sentences": ["He did n't go .", "`` Yes , '' she said ."], "question": "The XXXXX 's tail is long .",
    "options": ["fox", "dog"], "answer": "dog",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "record", "requests", "gold"),
    [
        ("hellaswag", HELLASWAG, [
            ("Fixing a tap: How to. turn it. The man", " runs off."),
            ("Fixing a tap: How to. turn it. The man", " sits down."),
        ], 1),
        ("arc", ARC, [("Question: Why?\nAnswer:", " so"), ("Question: Why?\nAnswer:", " not")], 1),
        ("arc", ARC_FILE, [("Question: Why?\nAnswer:", " so"), ("Question: Why?\nAnswer:", " not")], 0),
        ("piqa", {"goal": "Cut it.", "sol1": "Knife", "sol2": "Spoon", "label": 0}, [
            ("Question: Cut it.\nAnswer:", " Knife"), ("Question: Cut it.\nAnswer:", " Spoon"),
        ], 0),
        ("winogrande", {"sentence": "A saw B as _ ran away.", "option1": "A", "option2": "B", "answer": "2"}, [
            ("A saw B as A", " ran away."), ("A saw B as B", " ran away."),
        ], 1),
        ("blimp", {"sentence_good": "He runs.", "sentence_bad": "He run."}, [("", " He runs."), ("", " He run.")], 0),
        ("cbt", CBT, [
            ("He didn't go. \"Yes,\" she said. The ", "fox's tail is long."),
            ("He didn't go. \"Yes,\" she said. The ", "dog's tail is long."),
        ], 1),
        ("lambada", {"text": "He said \"no\" to  her"}, [("He said \"no\" to ", " her")], 0),
        ("target", {"prompt": "Q:", "completion": "A"}, [("Q:", " A")], 0),
        ("choice", {"query": "Q:\n", "options": ["A", "B"], "answer": "B"}, [("Q:\n", "A"), ("Q:\n", "B")], 1),
    ],
)  # fmt: skip
def test_items_become_the_requests_of_lm_evaluation_harness(name, record, requests, gold):
    found = item(TASKS[name], record)
    assert list(found.requests) == requests
    assert found.gold == gold


@pytest.mark.parametrize(
    ("name", "record", "fault"),
    [
        ("lambada", {"text": "word"}, "no last word"),
        ("lambada", ["text"], "not an object"),
        ("hellaswag", HELLASWAG | {"label": ""}, "the label '' is not a choice from 0 to 1"),
        ("piqa", {"goal": "a", "sol1": "b", "sol2": "c", "label": -1}, "take a labeled split"),
        ("arc", ARC | {"answerKey": "E"}, "\"answerKey\" 'E' is not the label of a choice"),
        ("arc", {"question": {"stem": "a", "choices": [{"text": "b"}, {"text": "c"}]}}, "is not the label of a choice"),
        ("arc", ARC | {"choices": {"text": ["so", "not"], "label": [None, "B"]}, "answerKey": None}, "take a labeled"),
        ("arc", ARC | {"choices": {"text": ["so", "not"], "label": ["B", "B"]}}, "the label of several choices"),
        ("choice", {"context": "a", "choices": [1]}, 'no list of texts "choices"'),
        ("choice", {"context": "a", "choices": ["b", "c"], "answer": "E"}, "the label 'E' is not a choice from 0 to 1"),
        ("choice", {"context": "a", "choices": ["b", "c"], "answer": "AB"}, "the label 'AB' is not a choice"),
        ("choice", {"context": "a", "choices": ["b", "c"], "answer": ""}, "the label '' is not a choice"),
        ("choice", {"context": "a", "choices": ["b", "c"]}, "no label; take a labeled split, or write which"),
        ("cbt", CBT | {"question": "The tail"}, "no blank XXXXX"),
        ("choice", {"context": "", "choices": ["a", ""], "label": 0}, "nothing to score"),
        (
            "choice",
            {"context": "a", "question": "b", "choices": ["c", "d"], "label": 0},
            'both "context" and "question"',
        ),
        (
            "choice",
            {"context": "a", "choices": ["c", "d"], "options": ["e"], "label": 0},
            'both "choices" and "options"',
        ),
        ("choice", {"context": "a", "choices": ["c", "d"], "label": 0, "answer": "d"}, "answer 'd' are not the same"),
        ("choice", {"context": "a", "choices": ["c", "d"], "label": 0.5}, "the label 0.5 is not a choice"),
        ("target", {"prompt": "a", "target": "b", "completion": "c"}, 'both "target" and "completion"'),
        ("target", {"context": "", "target": ""}, "nothing to score"),
        ("target", {"context": " ", "target": "\n"}, "nothing to score"),
        ("target", {"context": "a", "target": ""}, "an empty target has nothing to score"),
        ("target", {"context": "a ", "completion": ""}, "nothing to score"),
        ("choice", {"context": "a", "choices": ["", "", ""], "label": 0}, "all choices are empty"),
        ("choice", {"context": "a", "choices": ["", ""], "answer": ""}, "all choices are empty"),
        ("hellaswag", HELLASWAG | {"endings": ["[step]", "[title]"]}, "all choices are empty"),
        ("piqa", {"goal": "a", "sol1": "", "sol2": "", "label": 0}, "all choices are empty"),
        ("arc", ARC | {"choices": {"text": ["", ""], "label": ["A", "B"]}}, "all choices are empty"),
        ("winogrande", {"sentence": "_ b", "option1": "", "option2": "", "answer": "1"}, "all choices are empty"),
        ("winogrande", {"sentence": "a _ ", "option1": "b", "option2": "c", "answer": "1"}, "nothing to score after"),
        ("cbt", CBT | {"options": ["", ""], "answer": ""}, "all choices are empty"),
        ("choice", {"context": "a", "choices": ["b", "b"], "label": 0}, "all choices are the same text"),
        ("cbt", CBT | {"options": ["dog", "dog"]}, "all choices are the same text"),
        ("blimp", {"sentence_good": "He runs.", "sentence_bad": ""}, "nothing to score"),
        ("blimp", {"sentence_good": " ", "sentence_bad": "He run."}, "nothing to score"),
        ("choice", {"context": "a", "choices": ["b"], "label": 0}, "one choice alone is always the right one"),
        ("hellaswag", HELLASWAG | {"endings": ["runs."], "label": 0}, "one choice alone"),
        ("arc", {"question": "a", "choices": {"text": ["b"], "label": ["A"]}, "answerKey": "A"}, "one choice alone"),
        ("cbt", CBT | {"options": ["dog"]}, "one choice alone"),
        (
            "choice",
            {"context": "a", "choices": ["2", "3", "5", "7"], "answer": "3"},
            r"answer '3' may mean the choice 1 \('3'\) or the choice 3 \('7'\), .*; write the right number without",
        ),
        ("choice", {"context": "a", "choices": ["B", "A"], "answer": "A"}, r"the choice 0 \('B'\) or the choice 1"),
    ],
)
def test_items_that_are_none_are_explained(name, record, fault):
    with pytest.raises(BadItem, match=fault):
        item(TASKS[name], record)


@pytest.mark.parametrize(
    ("choices", "labels", "gold"),
    [
        (["2", "3", "5", "7"], {"answer": 3}, 3),
        (["2", "3", "5", "7"], {"answer": "7"}, 3),
        (["2", "3", "5", "7"], {"answer": "3", "label": 1}, 1),
        (["2", "3", "5", "7"], {"answer": "3", "label": "D"}, 3),
        (["0", "1"], {"label": "1"}, 1),
        (["A", "B"], {"label": "B"}, 1),
        (["b", "c"], {"label": "1"}, 1),
        (["a", "a", "b"], {"label": 1, "answer": "a"}, 1),
        (["a", "a", "b"], {"label": "B", "answer": "a"}, 1),
        (["a", "a", "b"], {"answer": "a"}, 0),
        (["1", "1", "b"], {"answer": "1"}, 0),
        (["", "b"], {"answer": ""}, 0),
    ],
)
def test_a_label_is_a_text_a_letter_or_a_number(choices, labels, gold):
    assert item(TASKS["choice"], {"context": "a", "choices": choices} | labels).gold == gold


def test_a_context_or_a_continuation_without_tokens_is_refused():
    words = WordPiece("<unk> a b", source="vocab.txt")
    with pytest.raises(UserError, match="after 'a' the text ' ' has no tokens in this vocabulary"):
        scored.encoded([("a", " b"), ("a", " ")], words)
    words.end_of_text = None
    for context in ("", " ", "\x01"):
        with pytest.raises(UserError, match="no context, and the vocabulary has no end-of-text"):
            scored.encoded([(context, " b")], words)


def test_half_of_a_surrogate_pair_is_scored_as_the_replacement_character():
    broken, marked = (
        metrics("choice", {"context": "a", "choices": [x, "b"], "label": 0}) for x in ("\ud800", "\ufffd")
    )
    assert broken == marked


def test_probabilities_that_are_no_numbers_are_refused():
    scorer = Scorer.__new__(Scorer)
    scorer.n_ctx, scorer._progress, scorer._rows = 8, lambda count: None, lambda length: 4
    scorer._dispatch = lambda windows, length: (np.full((4, length), np.nan), np.zeros((4, length), bool))
    with pytest.raises(UserError, match="its weights have diverged"):
        metrics("target", {"context": "a", "target": "b"}, scorer=scorer)


def test_the_error_of_an_enormous_perplexity_is_finite():
    results = [scored.Result(logprob, False, False, 1, False) for logprob in (-600.0, -1e6)]
    json.dumps(scored.of_targets(results), allow_nan=False)


@pytest.mark.parametrize(
    ("labels", "fault"),
    [(b"1\n0\n1\n", r"labels\.lst: 3 labels of 1 items"), (b"\xff\xfe", "take a labeled split")],
)
def test_labels_of_another_file_are_refused(labels, fault, tmp_path):
    path = tmp_path / "valid.jsonl"
    path.write_text(json.dumps({"goal": "a", "sol1": "b", "sol2": "c"}))
    (tmp_path / "valid-labels.lst").write_bytes(labels)
    with pytest.raises(UserError, match=fault):
        evaluate_tasks._items("piqa", str(path), limit=None, detokenizer=None)


def test_names_on_the_command_line_are_those_that_exist():
    assert set(TASK_NAMES) == set(TASKS)
    assert set(DETOKENIZERS) == set(CONVENTIONS)


def test_evaluate_py_gives_the_sums_of_transformers(tmp_path, monkeypatch, capsys):
    model = random_gpt2.make(tmp_path)
    lines = [{"text": text} for text in ("Etaoin shrdlu the era.", "Ten dens end then " * 30 + "here")]
    (tmp_path / "lambada.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "piqa.jsonl").write_text(json.dumps({"goal": "Dine.", "sol1": "Eat it", "sol2": "Leave"}) + "\n")
    (tmp_path / "piqa-labels.lst").write_text("1\n")
    tasks = [word for name in ("lambada", "piqa") for word in ("--task", name, str(tmp_path / f"{name}.jsonl"))]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"model_path": "x", "train_batch_size": 8}))
    arguments = ["--model", str(model.config), *tasks, "--out", str(tmp_path / "items.jsonl")]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments])
    evaluate.main()
    out = capsys.readouterr().out
    assert "step 0, lambada, " in out
    assert "items 2, truncated 1" in out
    items = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    for found, line in zip(items, lines, strict=False):
        context = line["text"].rpartition(" ")[0]
        tokens = np.array(model.tokenizer.encode(line["text"]))
        count = len(tokens) - len(model.tokenizer.encode(context))
        tokens = tokens[-N_CTX - 1 :]
        table = model.logprobs(tokens[None, :-1])[0][-count:]
        assert found["logprobs"][0] == pytest.approx(table[np.arange(count), tokens[-count:]].sum(), abs=1e-5)
        assert found["greedy"] == [bool((table.argmax(axis=-1) == tokens[-count:]).all())]
    records = [json.loads(line) for line in (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()]
    assert [record["task"] for record in records] == ["lambada", "piqa"]
    sums = [found["logprobs"][0] for found in items[:2]]
    assert math.log(records[0]["perplexity"]) == pytest.approx(-sum(sums) / 2)
    assert records[1]["acc"] == float(np.argmax(items[2]["logprobs"]) == 1)

    # Names that the run reads as special tokens are these, as in its text and prompts.
    (tmp_path / "lambada.jsonl").write_text(json.dumps({"text": "Eta<|endoftext|>The era."}) + "\n")
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments, "--set", 'special=["<|endoftext|>"]'])
    evaluate.main()
    found = json.loads((tmp_path / "items.jsonl").read_text().splitlines()[0])
    context, target = (model.tokenizer.encode(part, special=True) for part in ("Eta<|endoftext|>The", " era."))
    table = model.logprobs(np.array([[*context, *target]]))[0][-1 - len(target) : -1]
    assert found["logprobs"][0] == pytest.approx(sum(table[range(len(target)), target]), abs=1e-5)
    (tmp_path / "piqa-labels.lst").unlink()
    with pytest.raises(UserError, match=r"piqa.jsonl, line 1: no label; .* --task piqa cannot use this item"):
        evaluate.main()


def test_detokenizers_apply_the_published_rules():
    wikitext = CONVENTIONS["wikitext"].detokenize
    assert wikitext(" = = Early life = = \n") == " == Early life ==\n"
    assert wikitext("a @-@ b 1 @,@ 000 2 @.@ 5 , c ; d") == "a-b 1,000 2.5, c; d"
    assert wikitext('the " big " dog \'s ( old ) tail , 9 \u00b0 C') == 'the "big" dog\'s (old) tail, 9\u00b0C'
    assert wikitext("end . \n next") == "end.\nnext"
    assert wikitext("the boys ' dog <unk> .") == "the boys' dog <unk> ."  # no space follows the final punctuation mark
    ptb = CONVENTIONS["ptb"].detokenize
    assert ptb("it was n't $ N billion but it 's \n no <unk>") == "it wasn't $1 billion but it's\nno <unk>"
    assert CONVENTIONS["lambada"].detokenize(" \u201cYes,\u201d he said ") == '\n"Yes," he said'


def test_words_of_wikitext_include_the_line_ends_within():
    text = " \n = Title = \n \n a b . \n \n"
    assert CONVENTIONS["wikitext"].count(text) == 3 + 2 + 3
    assert len(text.strip().split(" ")) == CONVENTIONS["wikitext"].count(text)  # word count as in Megatron-LM
    assert CONVENTIONS["none"].count(" a b \n c ") == 3


def test_items_of_a_run_of_conversations_are_said_to_be_plain_text(capsys):
    def end() -> str:
        raise UserError("stopped here")

    estimator = SimpleNamespace(require_checkpoint=lambda: None)
    for kind, is_told in (("chat", True), ("packed", False)):
        setup = SimpleNamespace(
            estimator=lambda: estimator,
            note_own_vocabulary=print,
            note_other_function=print,
            data=SimpleNamespace(input=kind),
            vocabulary=end,
        )
        with pytest.raises(UserError, match="stopped here"):
            evaluate_tasks.evaluate_tasks(setup, SimpleNamespace())
        assert ("without the roles of a conversation" in capsys.readouterr().err) == is_told


def test_an_evaluation_of_a_run_on_a_read_only_disk_is_not_lost(tmp_path, monkeypatch, capsys):
    (tmp_path / "config.json").write_text('{"model_path": "x", "train_batch_size": 1}')

    def refuse(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(evaluation_log.storage, "append", refuse)
    evaluation_log.append(str(tmp_path), {"step": 1})
    assert "evaluations.jsonl is not written: Read-only file system" in capsys.readouterr().err
