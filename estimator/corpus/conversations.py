"""Conversations out of JSON values and rows, in the forms that people have. `FORMS` is the table of docs/chat.md."""

import contextlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from estimator import json_text
from estimator.errors import UserError

Role = Literal["system", "user", "assistant"]
# What others call the roles: ShareGPT, OpenAssistant, newer models.
ROLES: dict[str, Role] = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant", "model": "assistant",
}  # fmt: skip
ORDER: tuple[Role, ...] = ("system", "user", "assistant")  # within a pair
TOOLS = ("tool", "function", "function_call", "observation", "tool_calls")
# What forms look at in a row of a table, and what tells a row of a tree.
KEYS = (
    *("messages", "conversations", "conversation", "dialogue", "prompt", "completion", "response", "chosen"),
    *("instruction", "input", "context", "output", "question", "answer", "system", "system_prompt", "history"),
    *("parent_id", "message_id"),
)
ANSWERS = ("completion", "response", "chosen", "output", "answer")
LISTS = KEYS[:4]  # of messages
MAYBE_LISTS = ("prompt", "completion", "chosen")  # of messages, or a text
NAMES = (("role", "content"), ("from", "value"), ("role", "text"), ("role", "value"))  # of a message's role and text
# What says whether a reply is learned, in the data of OpenAI, axolotl, others, and ms-swift.
LEARNED = {"weight": ("0", "1")} | dict.fromkeys(("train", "trainable", "loss"), ("false", "true"))
MAX_SHOWN = 40  # characters of a wrong value that a message shows
_TURN = re.compile(r"\n\n(Human|Assistant): ?")


class UnlearnedError(UserError):
    """A conversation with something that is not learned here. reason: why it is left out, for counts."""

    def __init__(self, text: str, *, reason: str):
        super().__init__(text)
        self.reason = reason


class Turn(NamedTuple):
    """A message. is_learned: False for a reply of weight 0, or with "train": false."""

    role: Role
    text: str
    is_learned: bool = True


class Form(NamedTuple):
    """name: as people call it. example: one value. read: value -> turns, or None if it is none."""

    name: str
    example: str
    read: Callable[[Any], list[Turn] | None]


def turns_of(value: Any) -> list[Turn]:
    """The turns of one conversation. Raises UserError for a value of another form, naming what it has."""
    value = _unpacked(value)
    for form in FORMS:
        turns = form.read(value)
        if turns is not None:
            return [*_system(value, turns), *turns] if turns else []
    if _is_unanswered(value):
        return []
    if isinstance(value, Mapping) and {"parent_id", "message_id"} <= set(value):
        advice = "take the file of whole trees (OpenAssistant's *.trees.jsonl)"
        raise UnlearnedError(f"a row of a tree of messages; {advice}", reason="rows of a tree of messages")
    has = ""
    if isinstance(value, Mapping):
        has = f", but {', '.join(map(str, value)) or 'nothing'}"
        text = next((key for key in LISTS if isinstance(value.get(key), str)), None)
        has += f' (the value of "{text}" is text, not a list; json.dumps writes one as JSON)' if text else ""
        known = {key: key.strip().lower() for key in value if isinstance(key, str) and key not in KEYS}
        has += "".join(f' (write "{right}" for "{key}")' for key, right in known.items() if right in KEYS)
    raise UserError(
        f'no list of messages in it{has}; expected {{"messages": [{{"role": "user", "content": "..."}}, ...]}}, or '
        "another form of docs/chat.md (text that is no chat is for input text)"
    )


def is_one(value: Any) -> bool:
    """Whether a value is a conversation of some form, be it a faulty one or one without an answer."""
    try:
        value = _unpacked(value)
        return any(form.read(value) is not None for form in FORMS) or _is_unanswered(value)
    except UserError:
        return True


def is_message(value: Any) -> bool:
    """Whether a value is a message, and no record that has a role among its keys, nor a row of a tree."""
    if not isinstance(value, Mapping) or "message_id" in value:
        return False
    return ("role" in value or {"from", "value"} <= set(value)) and not is_one(value)


def learned_parts(turns: list[Turn]) -> list[list[Turn]]:
    """The conversations in which all replies are learned: a reply of weight 0 divides one, and goes with its question.

    A reply that follows it without a question of its own goes too. The system message stays at the head of each.
    """
    head = [turn for turn in turns[:1] if turn.role == "system"]
    parts: list[list[Turn]] = [[]]
    for turn in turns[len(head) :]:
        if turn.is_learned:
            if turn.role != "assistant" or parts[-1] or len(parts) == 1:
                parts[-1].append(turn)
        else:
            while parts[-1] and parts[-1][-1].role != "assistant":
                parts[-1].pop()
            parts.append([])
    return [[*head, *part] for part in parts if part]


def text_of(content: Any, where: str) -> str:
    """A message's text: a string, null, or a list of parts of text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        others = {str(part.get("type")) for part in content} - {"text", "None", "input_text", "output_text"}
        if others:
            raise UnlearnedError(
                f"{where}: content of type {', '.join(sorted(others))}, where only text is learned",
                reason="conversations with content other than text",
            )
        texts = [part.get("text") for part in content]
        if all(text is None or isinstance(text, str) for text in texts):
            return "\n".join(text or "" for text in texts)
    raise UserError(f"{where}: content is neither a string nor a list of parts of text")


def _message(entry: Any, names: tuple[str, str], where: str) -> Turn:
    expected = f'{where}: expected {{"{names[0]}": "user", "{names[1]}": "..."}}, both strings'
    if not isinstance(entry, Mapping) or not isinstance(entry.get(names[0]), str):
        raise UserError(expected)
    role = entry[names[0]].lower()
    if role in TOOLS or entry.get("tool_calls") or entry.get("function_call"):
        raise UnlearnedError(
            f"{where}: calls of tools are not learned here; leave the conversation out (on_error skip)",
            reason="conversations with calls of tools",
        )
    if names[1] not in entry:
        raise UserError(expected)
    if role not in ROLES:
        known = ", ".join(dict.fromkeys(ROLES.values()))
        raise UserError(f'{where}: no role is called "{entry[names[0]]}"; write one of {known}')
    # A weight is about a reply: that of a question says nothing, as none is learned.
    is_learned = ROLES[role] != "assistant" or _is_learned(entry, where)
    return Turn(ROLES[role], text_of(entry[names[1]], where), is_learned)


def _is_learned(entry: Mapping[str, Any], where: str) -> bool:
    """Whether no key of a message says that the reply is not to be learned; tables have null or NaN where one does not.

    A reply is learned or not: the ids in a shard say no more.
    """
    if entry.get("train_detail"):
        raise UserError(f"{where}: a part of a reply cannot be marked as not to learn; leave out train_detail")
    is_learned = True
    for key, (no, yes) in LEARNED.items():
        value = entry.get(key)
        if value is None or value != value or (key == "loss" and not isinstance(value, bool)):  # a loss may be measured
            continue
        if not isinstance(value, int | float) or value not in (0, 1):
            what = "the weight" if key == "weight" else f'the value of "{key}"'
            raise UserError(f"{where}: {what} is {_shown(value)}; write {no} for a reply not to learn, or {yes}")
        is_learned = is_learned and value == 1
    return is_learned


def _shown(value: Any) -> str:
    """A wrong value for a message; of lists and objects, which may be deep, that it is one."""
    if isinstance(value, list | Mapping):
        return "a list" if isinstance(value, list) else "an object"
    return json.dumps(value[:MAX_SHOWN] if isinstance(value, str) else value, default=str)


def _unpacked(value: Any) -> Any:
    """A record whose lists that are JSON text, as in a CSV file, are lists. Of what may be text, only messages are."""
    found: dict[str, Any] = {}
    for key in (*LISTS, "history", *MAYBE_LISTS) if isinstance(value, Mapping) else ():
        if isinstance(value.get(key), str) and value[key].lstrip().startswith("["):
            with contextlib.suppress(ValueError):
                entries = json_text.loads(value[key])
                roles = {_role_of(entry) for entry in entries}
                if key not in MAYBE_LISTS or (roles and roles <= {*ROLES, *TOOLS}):  # other JSON may be an answer
                    found[key] = entries
    return {**value, **found} if found else value


def _role_of(entry: Any) -> str:
    return str(entry.get("role", entry.get("from"))).lower() if isinstance(entry, Mapping) else ""


def _list_of(entries: Any) -> list[Turn] | None:
    """A list of messages, under a pair of names, or of {"user", "assistant"} pairs."""
    if not isinstance(entries, list) or not entries or not isinstance(entries[0], Mapping):
        return None
    names = [names for names in NAMES if names[0] in entries[0]]
    if names:  # the text of some messages may be missing
        used = [each for each in names if any(isinstance(entry, Mapping) and each[1] in entry for entry in entries)]
        return [_message(entry, [*used, *names][0], f"message {i}") for i, entry in enumerate(entries, start=1)]
    if any(key.lower() in ROLES for key in entries[0]):
        return [turn for i, entry in enumerate(entries, start=1) for turn in _pair_of_turns(entry, f"message {i}")]
    return None


def _pair_of_turns(entry: Any, where: str) -> list[Turn]:
    """A question and the reply, after a system message if there is one, whatever the order of the keys."""
    keys = [key for key in entry if key.lower() in ROLES] if isinstance(entry, Mapping) else []
    if not keys:
        raise UserError(f'{where}: expected {{"user": "...", "assistant": "..."}}, but it is {_shown(entry)}')
    by_role: dict[Role, list[str]] = {role: [] for role in ORDER}
    for key in keys:
        by_role[ROLES[key.lower()]].append(key)
    for role, names in by_role.items():
        if len(names) > 1:
            named = " and ".join(f'"{name}"' for name in names)
            raise UserError(f"{where}: {named} are both the {role}'s; leave one of them out, or rename it")
    return [
        Turn(role, text_of(entry[key], where), role != "assistant" or _is_learned(entry, where))
        for role, names in by_role.items()
        for key in names
    ]


def _messages(value: Any) -> list[Turn] | None:
    if not isinstance(value, Mapping):
        return _list_of(value)
    for key in LISTS:
        turns = _list_of(value.get(key))
        if turns is not None:
            return _joined(_prompt(value), turns) if _is_answer(turns) else turns
    return None


def _system(value: Any, turns: Sequence[Turn]) -> list[Turn]:
    """The system message next to the messages, if there is none among them."""
    if not isinstance(value, Mapping) or any(turn.role == "system" for turn in turns):
        return []
    texts = (text_of(value.get(key), f'the value of "{key}"') for key in ("system", "system_prompt"))
    return [Turn("system", text) for text in texts if text.strip()][:1]


def _pair(question: str, answer: str, more: str | None = None) -> Callable[[Any], list[Turn] | None]:
    """Reads {question: "...", answer: "..."}, with what `more` says after the question."""

    def read(value: Any) -> list[Turn] | None:
        if not isinstance(value, Mapping) or not all(isinstance(value.get(key), str) for key in (question, answer)):
            return None
        extra = text_of(value.get(more), f'the value of "{more}"') if more else ""
        asked = value[question] + (f"\n\n{extra}" if extra.strip() else "")
        return [*_history(value.get("history")), Turn("user", asked), Turn("assistant", value[answer])]

    return read


def _history(earlier: Any) -> list[Turn]:
    """The turns before a question: [["question", "answer"], ...], or a list of messages."""
    if earlier is None or earlier in ("", []):
        return []
    turns = _list_of(earlier)
    if turns is not None:
        return turns
    if not isinstance(earlier, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in earlier):
        raise UserError(
            f'the history is {_shown(earlier)}; expected the earlier turns, [["question", "answer"], ...]; correct it, '
            "or rename the key"
        )
    roles: tuple[Role, Role] = ("user", "assistant")
    return [
        Turn(role, text_of(text, f"pair {number} of the history"))
        for number, pair in enumerate(earlier, start=1)
        for role, text in zip(roles, pair, strict=True)
    ]


def _is_unanswered(value: Any) -> bool:
    """Whether a value that no form reads has null, or an empty list, in the place of the messages or of the answer."""
    if not isinstance(value, Mapping):
        return value == []

    def is_empty(key: str) -> bool:
        return key in value and (value[key] is None or value[key] == [])

    if any(is_empty(key) or value.get(key) == "" for key in LISTS):
        return True
    asked = [key for key in ("prompt", "question", "instruction") if isinstance(value.get(key), str)]
    is_asked = bool(asked or value.get("prompt") == [] or _list_of(value.get("prompt")))
    return is_asked and any(map(is_empty, ANSWERS))


def _prompt_messages(value: Any) -> list[Turn] | None:
    """A prompt, and the completion or the chosen answer to it, of which one at least is of messages."""
    if not isinstance(value, Mapping):
        return None
    prompt = _list_of(value.get("prompt")) or []
    for key in ("completion", "chosen"):
        answer = value.get(key)
        if isinstance(answer, list):
            turns = _list_of(answer)
            return turns and _joined(_prompt(value) if _is_answer(turns) else prompt, turns)
        if prompt and isinstance(answer, str):
            return [*prompt, Turn("assistant", answer)]
    return None


def _is_answer(turns: Sequence[Turn]) -> bool:
    """Whether messages begin with a reply, so that a prompt next to them is the question."""
    return next((turn.role for turn in turns if turn.role != "system"), None) == "assistant"


def _prompt(value: Mapping[str, Any]) -> list[Turn]:
    """The question next to a list of messages: text, or messages itself."""
    prompt = value.get("prompt")
    if prompt and isinstance(prompt, str):
        return [Turn("user", prompt)]
    if prompt:
        turns = _list_of([prompt] if isinstance(prompt, Mapping) else prompt)
        if turns is None:
            raise UserError(f"the prompt is {_shown(prompt)}; expected text, or a list of messages")
        return turns
    texts = [value[key] for key in ("question", "instruction") if isinstance(value.get(key), str)]
    return [Turn("user", text) for text in texts[:1]]


def _joined(prompt: list[Turn], turns: list[Turn]) -> list[Turn]:
    """The prompt and the messages, which may repeat it or its end, also after a system message of their own."""
    head = [turn for turn in turns[:1] if turn.role == "system" and all(each.role != "system" for each in prompt)]
    rest = turns[len(head) :]
    asked, said = ([(turn.role, turn.text) for turn in some] for some in (prompt, rest))
    shared = next(n for n in range(len(prompt), -1, -1) if asked[len(prompt) - n :] == said[:n])
    return [*head, *prompt[: len(prompt) - shared], *rest]


def _transcript(value: Any) -> list[Turn] | None:
    text = value.get("chosen") if isinstance(value, Mapping) else None
    if not isinstance(text, str) or not _TURN.match(text):
        return None
    pieces = _TURN.split(text)[1:]
    return [Turn(ROLES[name.lower()], said) for name, said in zip(pieces[::2], pieces[1::2], strict=True)]


def _tree(value: Any) -> list[Turn] | None:
    """The best answers down a tree: the reply of the lowest rank; of equal and unranked ones the first."""
    node = value.get("prompt") if isinstance(value, Mapping) else None
    if not isinstance(node, Mapping) or "replies" not in node:
        return None
    turns: list[Turn] = []
    while node is not None:
        turns.append(_message(node, ("role", "text"), f"message {len(turns) + 1}"))
        where = f"replies to message {len(turns)}"
        replies = [] if node.get("replies") is None else node["replies"]
        if not isinstance(replies, list) or not all(isinstance(reply, Mapping) for reply in replies):
            raise UserError(f"{where}: expected a list of objects, but it is {_shown(replies)}")
        kept = (reply for reply in replies if not reply.get("deleted"))
        node = min(kept, key=lambda reply: _rank(reply, where), default=None)
    return turns


def _rank(reply: Mapping[str, Any], where: str) -> float:
    """Infinite where a reply has none: tables have null, NaN and 1.0 where some replies are not ranked."""
    rank = reply.get("rank")
    if rank is None or rank != rank:
        return math.inf
    if isinstance(rank, bool) or not isinstance(rank, int | float):
        raise UserError(f"{where}: the rank is {_shown(rank)}; write a number, 0 for the best reply")
    return rank


DOLLY = '{"instruction": "...", "context": "...", "response": "..."}'
PROMPT = '{"prompt": [{"role": "user", ...}], "completion": [...]} or "chosen"'
FORMS = (
    Form("OpenAssistant, trees", '{"prompt": {"role": "prompter", "text": "...", "replies": [...]}}', _tree),
    Form("prompt of messages", PROMPT, _prompt_messages),
    Form("OpenAI, UltraChat, TRL", '{"messages": [{"role": "user", "content": "..."}, ...]}', _messages),
    Form("ShareGPT", '{"system": "...", "conversations": [{"from": "human", "value": "..."}, ...]}', _messages),
    Form("nanochat", '[{"role": "user", "content": "..."}, ...]', _messages),
    Form("pairs", '{"conversation": [{"human": "...", "assistant": "..."}, ...]}', _messages),
    Form("Alpaca", '{"instruction": "...", "input": "...", "output": "..."}', _pair("instruction", "output", "input")),
    Form("Dolly", DOLLY, _pair("instruction", "response", "context")),
    Form("prompt and completion", '{"prompt": "...", "completion": "..."}', _pair("prompt", "completion")),
    Form("prompt and response", '{"prompt": "...", "response": "..."}', _pair("prompt", "response")),
    Form("question and answer", '{"question": "...", "answer": "..."}', _pair("question", "answer")),
    Form("hh-rlhf", '{"chosen": "\\n\\nHuman: ...\\n\\nAssistant: ..."}', _transcript),
    Form("preferences", '{"prompt": "...", "chosen": "...", "rejected": "..."}', _pair("prompt", "chosen")),
)


def markdown() -> str:
    """The table of forms."""
    rows = [f"| {form.name} | `{form.example.replace(chr(10), chr(92) + 'n')}` |" for form in FORMS]
    return "\n".join(["| form | one conversation |", "|---|---|", *rows]) + "\n"
