"""Conversations: weights, ranks, questions next to the messages, and values of wrong types in every form."""

import copy
import csv
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from helpers.chats import FORMS, HI, SHAREGPT

from estimator.corpus import chat_files
from estimator.corpus.conversations import learned_parts, turns_of
from estimator.corpus.parts import Part
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
        (("u Q", "a A1 0", "a A2 1"), []),  # without the first, the second would answer nothing
        (
            ("s S", "u Q1", "a A1", "a A2 0", "a A3", "a A4", "u Q2", "a A5"),
            [["s: S", "u: Q1", "a: A1"], ["s: S", "u: Q2", "a: A5"]],
        ),
        (("a A1", "u Q", "a A2 0", "s S", "a A3"), [["a: A1"], ["s: S", "a: A3"]]),
        (("u Q", "a A 0"), []),
    ],
)
def test_a_weight_of_0_leaves_out_that_reply_and_its_question_only(turns, learned):
    assert said(messages(*turns)) == learned


@pytest.mark.parametrize("weight", ["0", [], {}, 0.5, -1, 2, 1e-9])
def test_a_weight_that_is_neither_0_nor_1_is_refused(weight):
    value = messages("u Q", "a A")
    value["messages"][1]["weight"] = weight
    with pytest.raises(UserError, match=r"message 2: the weight is .*; write 0 for a reply not to learn, or 1"):
        turns_of(value)
    value["messages"][1]["weight"] = None  # as tables have it where it is missing
    assert said(value) == [["u: Q", "a: A"]]


@pytest.mark.parametrize("key", ["train", "trainable", "loss"])
@pytest.mark.parametrize(
    ("names", "roles"), [(("role", "content"), ("user", "assistant")), (("from", "value"), ("human", "gpt"))]
)
def test_what_other_programs_mark_as_not_to_learn_is_not_learned(key, names, roles):
    def learned(*values: object) -> list[list[str]]:
        said_so = [
            {names[0]: roles[i % 2], names[1]: f"{i}"} | ({} if value == "absent" else {key: value})
            for i, value in enumerate(values)
        ]
        return said({"messages": said_so})

    every = ["u: 0", "a: 1", "u: 2", "a: 3"]
    assert learned(False, True, False, True) == learned(False, "absent", None, None) == [every]
    assert learned(False, False, False, True) == learned(True, False, True, True) == [every[2:]]
    assert learned(False, True, False, False) == [every[:2]]
    assert learned(False, float("nan"), False, True) == [every]  # as tables have it where it is missing
    if key == "loss":
        assert learned(0, 0.25, 0, 2.5) == [every]  # a measured one
    else:
        assert learned(True, 0, True, 1.0) == [every[2:]]
        with pytest.raises(UserError, match=rf'message 4: the value of "{key}" is "no"; write false for a reply not'):
            learned(False, True, False, "no")


def test_parts_of_replies_that_are_not_to_be_learned_are_refused():
    value = messages("u Q", "a A")
    value["messages"][1]["train_detail"] = [{"begin_offset": 0, "end_offset": 1, "train": False}]
    with pytest.raises(UserError, match=r"message 2: a part of a reply cannot be marked .* train_detail"):
        turns_of(value)


@pytest.mark.parametrize("keys", list(itertools.permutations(["system", "human", "assistant"])))
def test_a_pair_is_read_in_the_order_of_a_conversation_whatever_that_of_its_keys(keys):
    pairs = [{"system": "S", "human": "Q", "assistant": "A"}, {"human": "Q2", "assistant": "A2"}]
    ordered = [{key: pair[key] for key in keys if key in pair} for pair in pairs]
    assert said({"conversation": ordered}) == [["s: S", "u: Q", "a: A", "u: Q2", "a: A2"]]
    assert said({"conversation": [ordered[0] | {"weight": 0}, ordered[1]]}) == [["s: S", "u: Q2", "a: A2"]]


def test_a_pair_with_two_replies_is_refused_whatever_the_order_of_its_keys():
    for keys in (("human", "assistant", "model"), ("model", "assistant", "human")):
        with pytest.raises(UserError, match=r"message 1: .*model.* are both the assistant's; leave one of them out"):
            turns_of({"conversation": [dict.fromkeys(keys, "x")]})


@pytest.mark.parametrize("text", ["content", "text", "value"])
def test_the_text_of_a_message_has_the_key_that_the_messages_have(text):
    turns = [{"role": "user", text: "Hi"}, {"role": "assistant", text: "Ho"}]
    assert said(turns) == said({"messages": turns}) == [["u: Hi", "a: Ho"]]
    with pytest.raises(UserError, match="message 2: calls of tools are not learned here"):
        turns_of([turns[0], {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}, turns[1]])
    with pytest.raises(UserError, match=rf'message 2: expected {{"role": "user", "{text}": "..."}}, both strings'):
        turns_of([turns[0], {"role": "assistant"}])


@pytest.mark.parametrize("form", ["alpaca", "dolly", "completion"])
@pytest.mark.parametrize(
    "history",
    [
        [["Q1", "A1"], ["Q2", "A2"]],
        [
            {"role": role, "content": text}
            for role, text in zip(["user", "assistant"] * 2, ["Q1", "A1", "Q2", "A2"], strict=True)
        ],
        [{"assistant": "A1", "user": "Q1"}, {"assistant": "A2", "user": "Q2"}],
    ],
)
def test_the_history_next_to_a_question_is_the_turns_before_it(form, history):
    value = FORMS[form] | {"history": history}
    assert said(value) == [["u: Q1", "a: A1", "u: Q2", "a: A2", "u: Hi", "a: Ho"]]
    assert said(value | {"system": "S"}) == [["s: S", "u: Q1", "a: A1", "u: Q2", "a: A2", "u: Hi", "a: Ho"]]


@pytest.mark.parametrize("history", [None, [], ""])
def test_an_empty_history_is_none(history):
    assert said(FORMS["alpaca"] | {"history": history}) == [["u: Hi", "a: Ho"]]


@pytest.mark.parametrize("empty", [None, []])
@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"prompt": HI[:1]}, "completion"),
        ({"prompt": []}, "completion"),
        ({"prompt": HI[:1], "rejected": HI[1:]}, "chosen"),
        ({"prompt": "Hi"}, "completion"),
        ({"prompt": "Hi"}, "response"),
        ({"prompt": "Hi", "rejected": "Ho"}, "chosen"),
        ({"instruction": "Hi", "input": ""}, "output"),
        ({"question": "Hi"}, "answer"),
        ({}, "messages"),
        ({"system": "S"}, "conversations"),
    ],
)
def test_a_question_with_nothing_in_the_place_of_the_answer_is_counted_as_unanswered(value, key, empty, tmp_path):
    assert turns_of(value | {key: empty}) == []
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in (value | {key: empty}, FORMS["openai"])))
    counted: list[tuple[str, UserError | None]] = []
    read = chat_files.documents_of(Part(str(path)), voice="other", on_fault=lambda *fault: counted.append(fault))
    assert len(list(read)) == 1
    assert counted == [(chat_files.UNANSWERED, None)]


def test_an_empty_list_of_messages_does_not_hide_the_answer_next_to_it():
    assert said(FORMS["completion"] | {"messages": []}) == [["u: Hi", "a: Ho"]]


@pytest.mark.parametrize("wrap", [list, lambda records: {"data": records}])
def test_records_that_have_a_role_among_their_keys_are_no_messages_of_one_conversation(wrap, tmp_path):
    records = [{"role": "teacher", "question": f"Q{i}", "answer": f"A{i}"} for i in range(3)]
    records.append({"role": "teacher", "instruction": "Q3", "output": "A3"})
    for name, text in (("c.jsonl", "\n".join(map(json.dumps, records))), ("c.json", json.dumps(wrap(records)))):
        (tmp_path / name).write_text(text)
        read = chat_files.documents_of(Part(str(tmp_path / name)), voice="other")
        expected = [[("user", f"Q{i}"), ("assistant", f"A{i}")] for i in range(4)]
        assert [document.text for document in read] == list(map(chat_files.as_text, expected))


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


ANSWER = [{"role": "assistant", "content": "Ho"}]
SYSTEM = [{"role": "system", "content": "S"}]


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": "Hi", "completion": ANSWER},
        {"prompt": "Hi", "chosen": ANSWER, "rejected": ANSWER},
        {"prompt": "Hi", "chosen": HI, "rejected": HI},
        {"prompt": HI[0], "completion": ANSWER},
        {"prompt": "Hi", "messages": ANSWER},
        {"prompt": HI[:1], "messages": ANSWER},
        {"prompt": HI[:1], "messages": HI},
        {"prompt": "Hi", "conversations": SHAREGPT[1:]},
        {"question": "Hi", "chosen": ANSWER},
        {"instruction": "Hi", "messages": ANSWER},
        {"prompt": HI[:1], "completion": "Ho"},
    ],
)
def test_the_question_next_to_the_messages_is_kept(value):
    assert said(value) == [["u: Hi", "a: Ho"]]
    assert said(value | {"system": "S"}) == [["s: S", "u: Hi", "a: Ho"]]


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": SYSTEM + HI[:1], "completion": ANSWER},
        {"prompt": SYSTEM + HI[:1], "chosen": SYSTEM + HI},
        {"prompt": SYSTEM + HI[:1], "chosen": HI},
        {"prompt": HI[:1], "chosen": SYSTEM + HI},
        {"prompt": "Hi", "chosen": SYSTEM + ANSWER},
        {"messages": HI, "system": "", "system_prompt": "S"},
        {"messages": SYSTEM + HI, "system": "another"},
        {"instruction": "Hi", "input": None, "output": "Ho", "system": [{"type": "text", "text": "S"}]},
        FORMS["openassistant"] | {"system": "S"},
        FORMS["hh-rlhf"] | {"system": "S"},
    ],
)
def test_the_system_message_and_the_prompt_are_read_once(value):
    assert said(value) == [["s: S", "u: Hi", "a: Ho"]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"prompt": 5, "completion": ANSWER}, "the prompt is 5; expected text, or a list of messages"),
        ({"prompt": ["Hi"], "completion": ANSWER}, "the prompt is a list; expected text, or a list of messages"),
        ({"conversation": [{"human": "a", "assistant": "b"}, None]}, 'message 2: expected {"user": .* but it is null'),
        ({"conversation": [{"human": "a"}, {"x": "b"}]}, "message 2: expected .* but it is an object"),
        ({"prompt": {"role": "prompter", "text": "a", "replies": 5}}, "replies to message 1: expected a list .* is 5"),
        (tree(1) | {"system": 5}, 'the value of "system": content is neither a string'),
        ({"instruction": "a", "input": 5, "output": "b"}, 'the value of "input": content is neither a string'),
        ({"instruction": "a", "output": "b", "history": "c"}, r'the history is "c"; expected .*\[\["question"'),
        ({"instruction": "a", "output": "b", "history": [["c"]]}, r"the history is a list; expected the earlier turns"),
        ({"instruction": "a", "output": "b", "history": [["c", 5]]}, "pair 1 of the history: content is neither"),
    ],
)
def test_values_of_wrong_types_are_named(value, message):
    with pytest.raises(UserError, match=message):
        turns_of(value)


@pytest.mark.parametrize("form", [form for form in FORMS if isinstance(FORMS[form], dict) and form != "openassistant"])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_lists_that_a_table_has_as_json_text_are_read(form, delimiter, tmp_path):
    record = FORMS[form] | ({"history": [["A", "B"]]} if form in ("alpaca", "dolly", "completion") else {})
    row = {key: value if isinstance(value, str) else json.dumps(value) for key, value in record.items()}
    with open(tmp_path / "c.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(row), delimiter=delimiter)
        table.writeheader()
        table.writerows([row, row])
    (tmp_path / "c.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(record))
    for name in ("c.csv", "c.jsonl"):
        read = chat_files.documents_of(Part(str(tmp_path / name)), voice="other")
        history = [chat_files.Message("user", "A"), chat_files.Message("assistant", "B")] if "history" in record else []
        turns = [*history, chat_files.Message("user", "Hi"), chat_files.Message("assistant", "Ho")]
        assert [document.text for document in read] == [chat_files.as_text(turns)] * 2


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"messages": str(HI)}, r'but messages \(the value of "messages" is text, not a list; json.dumps'),
        ({"messages": "[" * 100_000}, r'the value of "messages" is text, not a list'),
        ({"Question": "Hi", " answer": "Ho"}, r'but .*\(write "question" for "Question"\) \(write "answer" for " an'),
        (
            {"instruction": "a", "output": "b", "history": "[('c', 'd')]"},
            r"the history is \"\[\('c', 'd'\)\]\"; expected",
        ),
    ],
)
def test_lists_as_text_of_another_kind_and_names_spelled_otherwise_are_named(value, message):
    with pytest.raises(UserError, match=message):
        turns_of(value)


def test_texts_that_begin_as_a_list_stay_texts():
    answers = ('[{"name": "Ann", "role": "CEO"}]', '[{"user": "ann"}, {"user": "bob"}]', '[{"model": "T5"}]')
    for text in ("[INST] Hi", '["a", "b"]', "[1, 2]", "[]", *answers):
        assert said({"prompt": text, "completion": text}) == [[f"u: {text}", f"a: {text}"]]
        assert said({"prompt": text, "chosen": text}) == [[f"u: {text}", f"a: {text}"]]
    assert turns_of({"messages": ""}) == turns_of({"messages": "[]"}) == []


def changed(value: Any) -> Iterator[Any]:
    """Yields copies of a value in which one thing at any place is of another type, missing, or added to a list."""
    yield from (None, 5, 1.5, True, "x", [], {}, [None], [5], ["x"], [[]], [{}], {"x": None}, {"role": "user"})
    places = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for place, inner in places:
        for other in changed(inner):
            result = copy.copy(value)
            result[place] = other
            yield result
        result = copy.copy(value)
        del result[place]
        yield result
    if isinstance(value, list):
        yield from ([*value, extra] for extra in (None, 5, "x", [], {}, {"role": 5}))


WITH_MORE = {
    "weights": {"messages": [HI[0] | {"weight": 0}, HI[1] | {"weight": 1}], "system_prompt": "S"},
    "ranks": tree(1, 0) | {"system": [{"type": "text", "text": "S"}]},
}


@pytest.mark.parametrize("form", [*FORMS, *WITH_MORE])
def test_a_wrong_type_anywhere_is_read_or_refused_and_counted(form, tmp_path):
    values = list(changed((FORMS | WITH_MORE)[form]))
    for value in values:
        try:
            turns = turns_of(value)
        except UserError:
            continue
        assert all(isinstance(turn.text, str) and turn.role in chat_files.BEGINS for turn in turns)

    def outcomes(name: str, text: str) -> int:
        (tmp_path / name).write_text(text)
        counted: list[str] = []
        read = chat_files.documents_of(
            Part(str(tmp_path / name)), voice="other", on_fault=lambda why, _: counted.append(why)
        )
        return len(list(read)) + len(counted)

    lines = list(map(json.dumps, values))
    assert outcomes("c.jsonl", "\n".join(lines)) >= len(values) > 20
    assert all(outcomes("c.json", line) for line in lines)
