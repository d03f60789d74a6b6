"""Conversations: weights, ranks, questions next to the messages, and values of wrong types in every form."""

import pytest

from estimator.corpus.conversations import learned_parts, turns_of
from estimator.errors import UserError


def said(value: object) -> list[list[str]]:
    """Returns the conversations that are learned from a value, each message as the letter of its role and its text."""
    return [[f"{turn.role[0]}: {turn.text}" for turn in part] for part in learned_parts(turns_of(value))]


def messages(*turns: str) -> dict[str, list]:
    """Returns a conversation of messages such as "u Hi" and, with a weight, "a Ho 0"."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    found = []
    for turn in turns:
        letter, text, *weight = turn.split()
        found.append({"role": roles[letter], "content": text} | ({"weight": int(weight[0])} if weight else {}))
    return {"messages": found}


@pytest.mark.parametrize(
    ("turns", "learned"),
    [
        # OpenAI's API accepts a weight on any message and looks at those of the assistant.
        (("u Q 0", "a A 1"), [["u: Q", "a: A"]]),
        (("s S 0", "u Q 0", "a A"), [["s: S", "u: Q", "a: A"]]),
        (
            ("s S", "u Q1 0", "a A1 1", "u Q2 0", "a A2 1"),
            [["s: S", "u: Q1", "a: A1", "u: Q2", "a: A2"]],
        ),
        (("s S", "u Q1", "a A1 0", "u Q2", "a A2 1"), [["s: S", "u: Q2", "a: A2"]]),
        (
            ("s S", "u Q1", "a A1 1", "u Q2", "a A2 0", "u Q3", "a A3 1"),
            [["s: S", "u: Q1", "a: A1"], ["s: S", "u: Q3", "a: A3"]],
        ),
        (("u Q", "a A1 0", "a A2 1"), [["a: A2"]]),
        (("u Q", "a A 0"), []),
    ],
)
def test_a_weight_of_0_leaves_out_that_reply_and_its_question_only(turns, learned):
    assert said(messages(*turns)) == learned


@pytest.mark.parametrize("weight", ["0", [], {}])
def test_a_weight_that_is_no_number_is_refused(weight):
    value = messages("u Q", "a A")
    value["messages"][1]["weight"] = weight
    with pytest.raises(UserError, match=r"message 2: the weight is .*; write 0 for a reply not to learn, or 1"):
        turns_of(value)
    value["messages"][1]["weight"] = None  # as tables have it where it is missing
    assert said(value) == [["u: Q", "a: A"]]


def tree(*ranks: object) -> dict:
    """Returns a question with a reply for each rank, "absent" for none, the text of which is its number."""
    replies = [
        {"role": "assistant", "text": str(i)} | ({} if rank == "absent" else {"rank": rank})
        for i, rank in enumerate(ranks)
    ]
    return {"prompt": {"role": "prompter", "text": "Q", "replies": replies}}


@pytest.mark.parametrize(
    ("ranks", "best"),
    [
        ((1, 0), 1),
        ((1.0, 0.0), 1),
        ((2.0, 1, 0.5), 2),
        ((None, 0), 1),
        ((None, 3.0), 1),
        (("absent", 3), 1),
        ((float("nan"), 5.0), 1),
        ((5, float("nan"), None, 4), 3),
        ((0, 0.0), 0),
        ((None, "absent", float("nan")), 0),
        ((0, -1), 1),
    ],
)
def test_the_reply_of_the_lowest_rank_is_learned_however_tables_write_it(ranks, best):
    assert said(tree(*ranks)) == [["u: Q", f"a: {best}"]]


@pytest.mark.parametrize("rank", ["0", True, [0], {}])
def test_a_rank_that_is_no_number_is_refused(rank):
    with pytest.raises(UserError, match=r"replies to message 1: the rank is .*; write a number, 0 for the best"):
        turns_of(tree(1, rank))
