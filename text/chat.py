"""Conversations out of files: messages in JSON lines, or a chat's history with one message on a line.

A conversation becomes a `Document` whose text has a mark at the beginning and the end of each message. The marks are
noncharacters of Unicode, which no text may contain, so that the words of a message are never taken for one: whatever
is done with documents can be done with chats. `text/chat_template.py` makes token ids of them.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

from runtime.errors import UserError
from text import corpus, python_docs, readers
from text.corpus import Document
from text.readers import Part

Role = Literal["system", "user", "assistant"]
Voice = Literal["other", "me"]
BEGINS: dict[Role, str] = {"system": "\ufdd0", "user": "\ufdd1", "assistant": "\ufdd2"}
ENDS = "\ufdd3"
# What others call the roles: the files of ShareGPT, and newer models.
ROLES: dict[str, Role] = {
    "system": "system", "developer": "system", "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant",
}  # fmt: skip
KEYS = (("messages", "role", "content"), ("conversations", "from", "value"))
# A history goes on for years: it is divided, so that parts of it can be evaluated on.
MAX_HISTORY_CHARS = 10_000
_NONCHARACTERS = dict.fromkeys(range(0xFDD0, 0xFDF0), "\N{REPLACEMENT CHARACTER}")
_JSON = re.compile(r"\.jsonl(\.\w+)?$")
_LINE = re.compile(r"(?P<sender>[01])\|(?P<name>[^|]*)\|(?P<text>.*?)(<EOM>)?\s*", re.DOTALL)


class Message(NamedTuple):
    """What one side says at a time."""

    role: Role
    text: str


def documents(inputs: str | Sequence[str], *, voice: Voice) -> Iterator[Document]:
    """Every conversation of the inputs that has a reply of the assistant, in the order of `corpus.find(inputs)`.

    inputs: as for `corpus.find`. Lines of .jsonl files are {"messages": [{"role", "content"}, ...]} or
        {"conversations": [{"from", "value"}, ...]}; lines of others are `0|NAME|TEXT <EOM>` or `1|NAME|TEXT <EOM>`.
    voice: who of the latter is the assistant, "other" (0) or "me" (1).
    Raises UserError about a line that is none of these, and where there is no conversation.
    """
    return _all_documents(corpus.find(inputs), voice=voice)


def _all_documents(paths: list[str], *, voice: Voice) -> Iterator[Document]:
    empty = True
    for path in paths:
        for document in documents_of(Part(path), voice=voice):
            empty = False
            yield document
    if empty:
        raise UserError(
            f"no conversation with a reply of the assistant in {paths[0]}{' and others' if len(paths) > 1 else ''}; "
            "give files with messages of both sides"
        )


def documents_of(part: Part, *, voice: Voice) -> Iterator[Document]:
    """The conversations of a file, or of a part of it, that have a reply."""
    if part.path == python_docs.NAME or part.path.endswith(".parquet"):
        raise UserError(f"{part.path} is no chat; name .jsonl or .txt files with messages")
    for number, messages in _json_lines(part) if _JSON.search(part.path) else _history(part, voice):
        spoken = [message for message in messages if message.text]
        if any(message.role == "assistant" for message in spoken):
            yield Document(f"{part.stem}-{number}", as_text(spoken))


def as_text(messages: Iterable[Message]) -> str:
    """Messages with marks around them."""
    return "".join(f"{BEGINS[role]}{plain(text)}{ENDS}" for role, text in messages)


def words(text: str) -> str:
    """What is said in a conversation's text, without the marks."""
    return text.translate(dict.fromkeys(range(0xFDD0, 0xFDF0), "\n"))


def plain(text: str) -> str:
    """A message's text without marks and without blanks at its ends."""
    return text.translate(_NONCHARACTERS).strip()


# JSON lines.


def _json_lines(part: Part) -> Iterator[tuple[int, list[Message]]]:
    for number, line in readers.lines(part):
        if line.strip():
            yield number, _messages(line, where=f"{part.path}, line {number}")


def _messages(line: str, *, where: str) -> list[Message]:
    try:
        values = json.loads(line.rstrip())
    except json.JSONDecodeError as error:
        raise UserError(f"{where}, column {error.colno}: not valid JSON ({error.msg})") from None
    keys = next((keys for keys in KEYS if isinstance(values, dict) and isinstance(values.get(keys[0]), list)), None)
    if keys is None:
        has = f", but {', '.join(values) or 'nothing'}" if isinstance(values, dict) else ""
        raise UserError(
            f'{where}: no list of messages in it{has}; expected {{"messages": [{{"role": "user", "content": "..."}}, '
            "...]} on each line (text that is no chat is for input text)"
        )
    return [
        _message(entry, keys[1:], where=f"{where}, message {i}") for i, entry in enumerate(values[keys[0]], start=1)
    ]


def _message(entry: Any, keys: tuple[str, ...], *, where: str) -> Message:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in keys):
        raise UserError(
            f'{where}: expected {{"{keys[0]}": "user", "{keys[1]}": "..."}}, both strings; mend or remove it'
        )
    role, text = (entry[key] for key in keys)
    if role not in ROLES:
        known = ", ".join(dict.fromkeys(ROLES.values()))
        raise UserError(f'{where}: no role is called "{role}"; write one of {known}, or remove the conversation')
    return Message(ROLES[role], plain(text))


# Histories.


def _history(part: Part, voice: Voice) -> Iterator[tuple[int, list[Message]]]:
    """Conversations, each with the number of its first line; the name of the other is its system message.

    One ends at an empty line, where the name changes, and, before a message that is answered, when it is long.
    """
    learnt = "0" if voice == "other" else "1"
    messages: list[Message] = []
    name, first = None, 0
    for number, line in readers.lines(part):
        match = _LINE.fullmatch(line) if line.strip() else None
        if line.strip() and not match:
            raise UserError(
                f"{part.path}, line {number}: no message; expected 0|NAME|TEXT <EOM>, where 0 is what NAME said and 1 "
                'what was said to NAME; put a message on one line, or name a .jsonl file with "messages"'
            )
        said = plain(match["text"]) if match else ""
        role: Role = "assistant" if match and match["sender"] == learnt else "user"
        full = sum(len(message.text) for message in messages) > MAX_HISTORY_CHARS
        if match is None or match["name"] != name or (full and role == "user" and messages[-1].role == "assistant"):
            if messages:
                yield first, messages
            messages, name, first = [], match["name"] if match else None, number
            if name:
                messages.append(Message("system", plain(name)))
        if said and messages and messages[-1].role == role:
            messages[-1] = Message(role, f"{messages[-1].text}\n{said}")  # several in a row are one turn
        elif said:
            messages.append(Message(role, said))
    if messages:
        yield first, messages
