"""Conversations out of JSON values and rows, in the forms that people have. `FORMS` is the table of docs/chat.md."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from estimator.errors import UserError

Role = Literal["system", "user", "assistant"]
# What others call the roles: ShareGPT, OpenAssistant, newer models.
ROLES: dict[str, Role] = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant", "model": "assistant",
}  # fmt: skip
TOOLS = ("tool", "function", "function_call", "observation", "tool_calls")
# What forms look at in a row of a table, and what tells a row of a tree.
KEYS = (
    *("messages", "conversations", "conversation", "dialogue", "prompt", "completion", "response", "chosen"),
    *("instruction", "input", "context", "output", "question", "answer", "system", "system_prompt"),
    *("parent_id", "message_id"),
)
MAX_SHOWN = 40  # characters of a wrong value that a message shows
_TURN = re.compile(r"\n\n(Human|Assistant): ?")


class Turn(NamedTuple):
    """A message. is_learned: False for a reply of weight 0."""

    role: Role
    text: str
    is_learned: bool = True


class Form(NamedTuple):
    """name: as people call it. keys: what tells it. example: one value. read: value -> turns, or None if it is none."""

    name: str
    example: str
    read: Callable[[Any], list[Turn] | None]


def turns_of(value: Any) -> list[Turn]:
    """The turns of one conversation. Raises UserError for a value of another form, naming what it has."""
    for form in FORMS:
        turns = form.read(value)
        if turns is not None:
            return [*_system(value, turns), *turns] if turns else []
    if isinstance(value, Mapping) and {"parent_id", "message_id"} <= set(value):
        raise UserError("a row of a tree of messages; take the file of whole trees (OpenAssistant's *.trees.jsonl)")
    has = f", but {', '.join(map(str, value)) or 'nothing'}" if isinstance(value, Mapping) else ""
    raise UserError(
        f'no list of messages in it{has}; expected {{"messages": [{{"role": "user", "content": "..."}}, ...]}}, or '
        "another form of docs/chat.md (text that is no chat is for input text)"
    )


def is_one(value: Any) -> bool:
    """Whether a value is a conversation of some form, be it a faulty one."""
    try:
        return any(form.read(value) is not None for form in FORMS)
    except UserError:
        return True


def learned_parts(turns: list[Turn]) -> list[list[Turn]]:
    """The conversations in which all replies are learned: a reply of weight 0 divides one, and goes with its question.

    The system message stays at the head of each.
    """
    head = [turn for turn in turns[:1] if turn.role == "system"]
    parts: list[list[Turn]] = [[]]
    for turn in turns[len(head) :]:
        if turn.is_learned:
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
            raise UserError(f"{where}: content of type {', '.join(sorted(others))}, where only text is learned")
        texts = [part.get("text") for part in content]
        if all(text is None or isinstance(text, str) for text in texts):
            return "\n".join(text or "" for text in texts)
    raise UserError(f"{where}: content is neither a string nor a list of parts of text")


def _message(entry: Any, names: tuple[str, str], where: str) -> Turn:
    if not isinstance(entry, Mapping) or not isinstance(entry.get(names[0]), str) or names[1] not in entry:
        raise UserError(f'{where}: expected {{"{names[0]}": "user", "{names[1]}": "..."}}, both strings')
    role = entry[names[0]].lower()
    if role in TOOLS or entry.get("tool_calls") or entry.get("function_call"):
        raise UserError(f"{where}: calls of tools are not learned here; leave the conversation out (on_error skip)")
    if role not in ROLES:
        known = ", ".join(dict.fromkeys(ROLES.values()))
        raise UserError(f'{where}: no role is called "{entry[names[0]]}"; write one of {known}')
    # A weight is about a reply: that of a question says nothing, as none is learned.
    is_learned = ROLES[role] != "assistant" or _is_learned(entry.get("weight"), where)
    return Turn(ROLES[role], text_of(entry[names[1]], where), is_learned)


def _is_learned(weight: Any, where: str) -> bool:
    if weight is not None and not isinstance(weight, int | float):
        raise UserError(f"{where}: the weight is {_shown(weight)}; write 0 for a reply not to learn, or 1")
    return weight != 0


def _shown(value: Any) -> str:
    """A wrong value for a message; of lists and objects, which may be deep, that it is one."""
    if isinstance(value, list | Mapping):
        return "a list" if isinstance(value, list) else "an object"
    return json.dumps(value[:MAX_SHOWN] if isinstance(value, str) else value, default=str)


def _list_of(entries: Any) -> list[Turn] | None:
    """A list of messages, under either pair of names, or of {"user", "assistant"} pairs."""
    if not isinstance(entries, list) or not entries or not isinstance(entries[0], Mapping):
        return None
    for names in (("role", "content"), ("from", "value"), ("role", "text"), ("role", "value")):
        if names[0] in entries[0]:
            return [_message(entry, names, f"message {i}") for i, entry in enumerate(entries, start=1)]
    if any(key.lower() in ROLES for key in entries[0]):
        return [turn for i, entry in enumerate(entries, start=1) for turn in _pair_of_turns(entry, f"message {i}")]
    return None


def _pair_of_turns(entry: Any, where: str) -> list[Turn]:
    roles = [key for key in entry if key.lower() in ROLES] if isinstance(entry, Mapping) else []
    if not roles:
        raise UserError(f'{where}: expected {{"user": "...", "assistant": "..."}}, but it is {_shown(entry)}')
    return [Turn(ROLES[key.lower()], text_of(entry[key], where)) for key in roles]


def _messages(value: Any) -> list[Turn] | None:
    if not isinstance(value, Mapping):
        return _list_of(value)
    for key in KEYS[:4]:
        if value.get(key) == []:
            return []
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
        return [Turn("user", asked), Turn("assistant", value[answer])]

    return read


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
    head = (
        [] if any(turn.role == "system" for turn in prompt) else [turn for turn in turns[:1] if turn.role == "system"]
    )
    rest = turns[len(head) :]

    def words(some: list[Turn]) -> list[tuple[str, str]]:
        return [(turn.role, turn.text) for turn in some]

    shared = next(n for n in range(len(prompt), -1, -1) if words(prompt[len(prompt) - n :]) == words(rest[:n]))
    return [*head, *prompt[: len(prompt) - shared], *rest]


def _transcript(value: Any) -> list[Turn] | None:
    text = value.get("chosen") if isinstance(value, Mapping) else None
    if not isinstance(text, str) or not _TURN.match(text):
        return None
    pieces = _TURN.split(text)[1:]
    names = {"Human": "user", "Assistant": "assistant"}
    return [Turn(ROLES[names[name]], said) for name, said in zip(pieces[::2], pieces[1::2], strict=True)]


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


FORMS = (
    Form("OpenAssistant, trees", '{"prompt": {"role": "prompter", "text": "...", "replies": [...]}}', _tree),
    Form(
        "prompt of messages", '{"prompt": [{"role": "user", ...}], "completion": [...]} or "chosen"', _prompt_messages
    ),
    Form("OpenAI, UltraChat, TRL", '{"messages": [{"role": "user", "content": "..."}, ...]}', _messages),
    Form("ShareGPT", '{"system": "...", "conversations": [{"from": "human", "value": "..."}, ...]}', _messages),
    Form("nanochat", '[{"role": "user", "content": "..."}, ...]', _messages),
    Form("pairs", '{"conversation": [{"human": "...", "assistant": "..."}, ...]}', _messages),
    Form("Alpaca", '{"instruction": "...", "input": "...", "output": "..."}', _pair("instruction", "output", "input")),
    Form(
        "Dolly",
        '{"instruction": "...", "context": "...", "response": "..."}',
        _pair("instruction", "response", "context"),
    ),
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
