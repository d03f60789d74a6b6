"""Conversations out of files: messages in JSON lines, or a chat's history with one message on a line.

A conversation becomes a `Document` whose text has a mark at the beginning and the end of each message. The marks are
noncharacters of Unicode, which no text may contain, so that the words of a message are never taken for one: whatever
is done with documents can be done with chats. `text/chat_template.py` makes token ids of them.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

from runtime import storage
from runtime.errors import UserError
from text import python_docs, readers
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
# Why something was left out, for counts.
BAD_LINE, NO_REPLY = "not a message", "no reply in the file"
_NONCHARACTERS = dict.fromkeys(range(0xFDD0, 0xFDF0), "\N{REPLACEMENT CHARACTER}")
_JSON = re.compile(r"\.jsonl(\.\w+)?$")
_LINE = re.compile(r"(?P<sender>[01])\|(?P<name>[^|]*)\|(?P<text>.*?)(<EOM>)?\s*", re.DOTALL)


class Message(NamedTuple):
    """What one side says at a time."""

    role: Role
    text: str


def documents_of(
    part: Part,
    *,
    voice: Voice,
    text_key: str | None = None,
    on_fault: readers.OnFault = readers.refuse,
    progress: readers.Progress | None = None,
) -> Iterator[Document]:
    """The conversations of a file, or of a part of it, in which the assistant replies.

    Lines of .jsonl files are {"messages": [{"role", "content"}, ...]} or {"conversations": [{"from", "value"}, ...]};
    lines of other files are `0|NAME|TEXT <EOM>`, which NAME said, or `1|NAME|TEXT <EOM>`, which was said to NAME.
    voice: who of the latter is the assistant, the other or me.
    text_key, on_fault, progress: as for `corpus.documents_of`; there is no key, and no progress within a part is told.
    """
    if part.path == python_docs.NAME or part.path.endswith(".parquet"):
        raise UserError(f"{part.path} is no chat; name .jsonl or .txt files with messages")
    found = 0
    read = _json_lines(part, on_fault) if _JSON.search(part.path) else _history(_between(part, voice), voice, on_fault)
    for number, messages in read:
        spoken = [message for message in messages if message.text]
        if any(message.role == "assistant" for message in spoken):
            found += 1
            yield Document(f"{part.stem}-{number}", as_text(spoken))
    if not found and part.number is None:
        on_fault(
            NO_REPLY,
            UserError(f"{part.path}: no conversation with a reply of the assistant; leave it out, or see docs/chat.md"),
        )


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


def _json_lines(part: Part, on_fault: readers.OnFault) -> Iterator[tuple[int, list[Message]]]:
    for number, line in readers.lines(part):
        if line.strip():
            try:
                messages = _messages(line)
            except UserError as error:
                on_fault(BAD_LINE, UserError(f"{readers.line_of(part, number)}: {error}"))
                continue
            yield number, messages


def _messages(line: str) -> list[Message]:
    try:
        values = json.loads(line.rstrip())
    except json.JSONDecodeError as error:
        raise UserError(f"not valid JSON at column {error.colno} ({error.msg})") from None
    except RecursionError:
        raise UserError("lists or objects within each other too deep to read") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"not valid JSON ({error})") from None
    keys = next((keys for keys in KEYS if isinstance(values, dict) and isinstance(values.get(keys[0]), list)), None)
    if keys is None:
        has = f", but {', '.join(values) or 'nothing'}" if isinstance(values, dict) else ""
        raise UserError(
            f'no list of messages in it{has}; expected {{"messages": [{{"role": "user", "content": "..."}}, '
            "...]} on each line (text that is no chat is for input text)"
        )
    return [_message(entry, keys[1:], where=f"message {i}") for i, entry in enumerate(values[keys[0]], start=1)]


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


def _between(part: Part, voice: Voice) -> Part:
    """The part of a history with borders that lie between conversations or before a message that is answered."""
    if part.start:
        part = part._replace(start=_border(part.path, part.start, _learnt(voice)))
    return part._replace(stop=_border(part.path, part.stop, _learnt(voice))) if part.stop else part


def _border(path: str, nominal: int, learnt: str) -> int:
    """Where the part that should begin at some byte does begin: at the next such line, or at any where none is near.

    Two parts that meet at a byte agree about it, because nothing before that byte is looked at.
    """
    with storage.open(path) as file:
        file.seek(nominal - 1)
        first = position = nominal - 1 + len(file.readline())
        before: re.Match[str] | None = None  # the last line that was no blank one
        blank = False
        while position <= nominal + readers.PART_SEARCH:
            line = file.readline()
            if not line:
                return position  # the end belongs to the part before
            text = line.decode(errors="replace")
            match = _LINE.fullmatch(text)
            if match and before and (blank or match["name"] != before["name"]):
                return position
            if match and plain(match["text"]):
                if before and before["sender"] == learnt != match["sender"]:
                    return position
                before = match
            blank = not text.strip()
            position += len(line)
    return first


def _learnt(voice: Voice) -> str:
    """What the lines begin with that are the assistant's."""
    return "0" if voice == "other" else "1"


class _Turn:
    """What one side says in a row."""

    def __init__(self, role: Role, said: str):
        self.role: Role = role
        self.said = [said]
        self.size = len(said)

    def add(self, said: str) -> None:
        self.said.append(said)
        self.size += len(said)

    def message(self) -> Message:
        return Message(self.role, "\n".join(self.said))


def _history(part: Part, voice: Voice, on_fault: readers.OnFault) -> Iterator[tuple[int, list[Message]]]:
    """Conversations, each with the number of its first line; the name of the other is its system message.

    One ends at an empty line, where the name changes, and, when it is long, before a message that is answered, or
    within an answer that is long by itself.
    """
    learnt = _learnt(voice)
    turns: list[_Turn] = []
    size = 0  # characters of all turns
    name, first = None, 0
    for number, line in readers.lines(part):
        match = _LINE.fullmatch(line) if line.strip() else None
        if line.strip() and not match:
            error = UserError(
                f"{readers.line_of(part, number)}: no message; expected 0|NAME|TEXT <EOM>, where 0 is what NAME said "
                'and 1 what was said to NAME; put a message on one line, or name a .jsonl file with "messages"'
            )
            on_fault(BAD_LINE, error)
            continue
        said = plain(match["text"]) if match else ""
        role: Role = "assistant" if match and match["sender"] == learnt else "user"
        full = size > MAX_HISTORY_CHARS and turns[-1].role == "assistant"
        if match is None or match["name"] != name or (full and (role == "user" or turns[-1].size > MAX_HISTORY_CHARS)):
            if turns:
                yield first, [turn.message() for turn in turns]
            name, first = match["name"] if match else None, number
            turns = [_Turn("system", plain(name))] if name else []
            size = sum(turn.size for turn in turns)
        if said and turns and turns[-1].role == role:
            turns[-1].add(said)
        elif said:
            turns.append(_Turn(role, said))
        size += len(said)
    if turns:
        yield first, [turn.message() for turn in turns]
