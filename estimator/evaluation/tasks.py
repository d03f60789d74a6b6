"""Tasks by log-likelihood: the items of published data sets as requests, with the prompts of lm-evaluation-harness.

A request is a context and a continuation, whose tokens are scored given the context. Letters of the sources: LMEH is
EleutherAI/lm-evaluation-harness 0.4.13, lm_eval/tasks.
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from estimator.evaluation import detokenizers

Detokenize = Callable[[str], str]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class BadItem(ValueError):
    """An item that is not one of the task; the text names the missing field."""


class Item(NamedTuple):
    """requests: (context, continuation) of each choice, or of the one target. gold: number of the right choice.
    texts: the choices' texts, by whose lengths scores are normalized. also_gold: numbers of other choices that are
    right, since they have the text of the right one."""

    requests: Sequence[tuple[str, str]]
    gold: int = 0
    texts: Sequence[str] = ()
    also_gold: Sequence[int] = ()


class Task(NamedTuple):
    """parse: the item of a record, its texts changed by a de-tokenizer. is_choice: else the item has one target.
    detokenizer: used unless another is chosen, an entry of `detokenizers.CONVENTIONS`."""

    parse: Callable[[Mapping[str, Any], Detokenize], Item]
    is_choice: bool
    detokenizer: str = "none"


def _text(record: Mapping[str, Any], *names: str) -> str:
    return _only(record, names, "text", lambda value: isinstance(value, str))


def _texts(record: Mapping[str, Any], *names: str) -> list[str]:
    def are_texts(value: Any) -> bool:
        return isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)

    return _only(record, names, "list of texts", are_texts)


def _only(record: Mapping[str, Any], names: Sequence[str], kind: str, is_one: Callable[[Any], bool]) -> Any:
    """The value of the one name that has a value of this kind; of two, either could be meant."""
    found = [name for name in names if is_one(record.get(name))]
    if not found:
        raise BadItem(f'no {kind} "{names[0]}"' + "".join(f' or "{name}"' for name in names[1:]))
    if len(found) > 1:
        raise BadItem(
            f'both "{found[0]}" and "{found[1]}", of which one would be left out; write one, joined if need be'
        )
    return record[found[0]]


def _number(value: Any, count: int, *, first: int = 0) -> int:
    """The number, from 0, of the right one of `count` choices, written from `first` on."""
    if value is None:
        raise BadItem("no label; take a labeled split, or write which choice is right (docs/evaluation.md)")
    text = str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()  # as Parquet has some
    number = int(text) - first if re.fullmatch(r"[+-]?[0-9]{1,9}", text) else None
    if number is None or not 0 <= number < count:
        raise BadItem(f"the label {value!r} is not a choice from {first} to {count - 1 + first}; take a labeled split")
    return number


def _lambada(record: Mapping[str, Any], detokenize: Detokenize) -> Item:
    """All but the last word, divided at a space -> the last word (LMEH lambada_openai, lambada_standard)."""
    context, space, word = detokenize(_text(record, "text")).rpartition(" ")
    if not word or not space:
        raise BadItem('"text" has no last word after a space')
    return Item([(context, f" {word}")])


def _target(record: Mapping[str, Any], detokenize: Detokenize) -> Item:
    context = detokenize(_text(record, "context", "prompt", "query", "question"))
    target = detokenize(_text(record, "target", "continuation", "completion"))
    if not target:
        raise BadItem("an empty target has nothing to score")
    return Item([(context, _continued(context, target))])


def _choice(record: Mapping[str, Any], detokenize: Detokenize) -> Item:
    context = detokenize(_text(record, "context", "prompt", "query", "question", "ctx"))
    written = _texts(record, "choices", "options", "endings", "candidates")
    choices = [detokenize(choice) for choice in written]
    labels = {name: record[name] for name in ("label", "gold", "answer", "answerKey") if record.get(name) is not None}
    texts = [written if label in written else choices for label in labels.values()] or [choices]
    golds = set.intersection(*map(_golds, labels.values() or [None], texts))
    given = ", ".join(f"{name} {label!r}" for name, label in labels.items())
    if not golds:
        raise BadItem(f"{given} are not the same choice")
    if len({choices[gold] for gold in golds}) > 1:
        meanings = " or ".join(f"the choice {gold} ({written[gold]!r})" for gold in sorted(golds))
        raise BadItem(f"{given} may mean {meanings}, by its text or its place; write the right number without quotes")
    gold = min(golds)
    return Item([(context, _continued(context, choice)) for choice in choices], gold, choices, _equal(choices, gold))


def _golds(label: Any, choices: Sequence[str]) -> set[int]:
    """The numbers of the choices that a label may mean: all with its text, and the one in the place that it names."""
    if label not in choices:
        return {LETTERS.index(label) if _is_letter(label, choices) else _number(label, len(choices))}
    golds = {number for number, choice in enumerate(choices) if choice == label}
    if _is_letter(label, choices):
        golds.add(LETTERS.index(label))
    elif re.fullmatch("[0-9]{1,9}", label) and int(label) < len(choices):
        golds.add(int(label))
    return golds


def _equal(choices: Sequence[str], gold: int) -> list[int]:
    """The other choices with the text of the right one."""
    return [number for number, choice in enumerate(choices) if choice == choices[gold] and number != gold]


def _is_letter(label: Any, choices: Sequence[str]) -> bool:
    return isinstance(label, str) and label in tuple(LETTERS[: len(choices)])


def _continued(context: str, text: str) -> str:
    """A choice after one space, unless either side brings white space."""
    return text if not context or context[-1].isspace() or text[:1].isspace() else f" {text}"


def _hellaswag(record: Mapping[str, Any], detokenize: Detokenize) -> Item:
    """LMEH hellaswag/utils.py: the activity before the context, marks of WikiHow removed."""

    def clean(text: str) -> str:
        text = text.strip().replace(" [title]", ". ")
        return detokenize(re.sub(r"\[.*?\]", "", text).replace("  ", " "))

    context = f"{_text(record, 'ctx_a')} {_text(record, 'ctx_b').capitalize()}"
    context = clean(f"{_text(record, 'activity_label')}: {context}")
    endings = [clean(ending) for ending in _texts(record, "endings")]
    return Item([(context, f" {ending}") for ending in endings], _number(record.get("label"), len(endings)), endings)


def _arc(record: Mapping[str, Any], detokenize: Detokenize) -> Item:
    """LMEH arc: of the authors' files, or of the Hub's, whose choices are two lists."""
    question, choices = record.get("question"), record.get("choices")
    if isinstance(question, Mapping):
        choices, question = question.get("choices"), question.get("stem")
    if isinstance(choices, list) and all(isinstance(choice, Mapping) for choice in choices):
        choices = {name: [choice.get(name) for choice in choices] for name in ("text", "label")}
    if not isinstance(choices, Mapping) or not isinstance(question, str):
        raise BadItem('no "question" with "choices" that have a text and a label each')
    texts = [detokenize(text) for text in _texts(choices, "text")]
    given, answer = choices.get("label"), record.get("answerKey")
    labels = [str(label) for label in given] if isinstance(given, list) else []
    if answer is None or str(answer) not in labels or len(labels) != len(texts):
        raise BadItem(f'"answerKey" {answer!r} is not the label of a choice; take a labeled split')
    if labels.count(str(answer)) > 1:
        raise BadItem(f'"answerKey" {answer!r} is the label of several choices')
    return _answered(detokenize(question), texts, labels.index(str(answer)))


def _piqa(record: Mapping[str, Any], detokenize: Detokenize) -> Item:
    """LMEH piqa."""
    solutions = [detokenize(_text(record, name)) for name in ("sol1", "sol2")]
    return _answered(detokenize(_text(record, "goal")), solutions, _number(record.get("label"), 2))


def _answered(question: str, choices: list[str], gold: int) -> Item:
    context = f"Question: {question}\nAnswer:"
    return Item([(context, f" {choice}") for choice in choices], gold, choices)


def _winogrande(record: Mapping[str, Any], detokenize: Detokenize) -> Item:
    """LMEH winogrande: the rest of the sentence after each option (partial scoring, Trinh and Le 2018)."""
    before, blank, rest = _text(record, "sentence").partition("_")
    if not blank:
        raise BadItem('"sentence" has no blank _')
    options = [_text(record, name) for name in ("option1", "option2")]
    rest = " " + detokenize(rest.strip())
    if rest == " ":
        raise BadItem('"sentence" has nothing to score after its blank _')
    return Item(
        [(detokenize(before + each), rest) for each in options], _number(record.get("answer"), 2, first=1), options
    )


def _blimp(record: Mapping[str, Any], detokenize: Detokenize) -> Item:
    """LMEH blimp: the acceptable sentence against the other, each after end-of-text and a space."""
    sentences = [detokenize(_text(record, name)) for name in ("sentence_good", "sentence_bad")]
    return Item([("", f" {sentence}") for sentence in sentences], 0, sentences)


def _cbt(record: Mapping[str, Any], detokenize: Detokenize) -> Item:
    """Radford et al. 2019, section 3.2: the probability of the candidate and of the rest of the sentence after it."""
    passage, query = " ".join(_texts(record, "sentences")), _text(record, "question")
    before, blank, rest = query.partition("XXXXX")
    if not blank:
        raise BadItem('"question" has no blank XXXXX')
    options, answer = _texts(record, "options"), _text(record, "answer")
    if answer not in options:
        raise BadItem(f'"answer" {answer!r} is not one of "options"')
    wholes = [detokenize(f"{passage} {before}{option}{rest}") for option in options]
    columns = zip(detokenize(f"{passage} {before}"), *wholes, strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))
    requests = [(whole[:shared], whole[shared:]) for whole in wholes]
    gold = options.index(answer)
    return Item(requests, gold, options, _equal(options, gold))


TASKS = {
    "lambada": Task(_lambada, is_choice=False),
    "target": Task(_target, is_choice=False),
    "choice": Task(_choice, is_choice=True),
    "hellaswag": Task(_hellaswag, is_choice=True),
    "arc": Task(_arc, is_choice=True),
    "piqa": Task(_piqa, is_choice=True),
    "winogrande": Task(_winogrande, is_choice=True),
    "blimp": Task(_blimp, is_choice=True),
    "cbt": Task(_cbt, is_choice=True, detokenizer="cbt"),
}


def item(task: Task, record: Any, detokenizer: str | None = None) -> Item:
    """The item of a record of a file. Raises BadItem."""
    if not isinstance(record, Mapping):
        raise BadItem("not an object")
    parsed = task.parse(record, detokenizers.CONVENTIONS[detokenizer or task.detokenizer].detokenize)
    if task.is_choice and not any(parsed.texts):
        raise BadItem("all choices are empty; an empty text has nothing to score")
    if any(
        not (context + rest).strip() or (not rest and context == context.rstrip()) for context, rest in parsed.requests
    ):
        raise BadItem("an empty text has nothing to score")
    if parsed.also_gold and len(parsed.also_gold) == len(parsed.requests) - 1:
        raise BadItem("all choices are the same text, so each is right; leave the item out")
    if task.is_choice and len(parsed.requests) == 1:
        raise BadItem("one choice alone is always the right one; write the others, or take --task target")
    return parsed
