"""Conversations out of files: messages in JSON lines, or a chat's history with one message on a line.

A conversation becomes a `Document` whose text has a mark at the beginning and the end of each message. The marks are
noncharacters of Unicode, which no text may contain, so that the words of a message are never taken for one: whatever
is done with documents can be done with chats. `estimator/corpus/chat_template.py` makes token ids of them.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from estimator import storage
from estimator.corpus import conversations, parts, python_docs, readers
from estimator.corpus.containers import OnFault
from estimator.corpus.conversations import Role
from estimator.corpus.documents import Document
from estimator.corpus.parts import Part
from estimator.errors import UserError

Voice = Literal["other", "me"]
BEGINS: dict[Role, str] = {"system": "\ufdd0", "user": "\ufdd1", "assistant": "\ufdd2"}
ENDS = "\ufdd3"
# A history spans years: it is divided, so that parts of it can be held out.
MAX_HISTORY_CHARS = 10_000
# Why something was left out, for counts.
BAD_LINE, NO_REPLY = "not a message", "no reply in the file"
UNANSWERED, NOT_LEARNED = "conversations without a reply", "conversations with replies of weight 0"
_NONCHARACTERS = dict.fromkeys(range(0xFDD0, 0xFDF0), "\ufffd")
_LINE = re.compile(r"(?P<sender>[01])\|(?P<name>[^|]*)\|(?P<text>.*?)(<EOM>)?\s*", re.DOTALL)


class Message(NamedTuple):
    """What one side says at a time."""

    role: Role
    text: str


def documents_of(
    part: Part,
    *,
    voice: Voice,
    reading: parts.Reading = parts.PLAIN,
    on_fault: OnFault = parts.refuse,
    progress: readers.Progress | None = None,
) -> Iterator[Document]:
    """The conversations of a file, or of a part of it, in which the assistant replies.

    JSON values and rows of tables are read in the forms of `conversations.FORMS`; lines of text files are
    `0|NAME|TEXT <EOM>`, which NAME said, or `1|NAME|TEXT <EOM>`, which was said to NAME.
    voice: who of the latter is the assistant, the other or me.
    reading, on_fault, progress: as for `documents.documents_of`; no progress within a part is reported.
    """
    if part.path == python_docs.NAME:
        raise UserError(f"{part.path} is no chat; name files with messages")
    found = 0
    is_records = any(file.type.is_records for file in readers.files(part, on_fault, encoding=reading.encoding))
    if is_records:
        read = _records(part, reading, on_fault)
    elif on_fault is not parts.refuse and not readers.is_readable(part, reading, on_fault):
        return
    else:
        read = _history(_between(part, voice), voice, reading.encoding, on_fault)
    for number, messages in read:
        spoken = [message for message in messages if message.text]
        if any(message.role == "assistant" for message in spoken):
            found += 1
            yield Document(f"{part.stem}-{number}", as_text(spoken))
        else:
            on_fault(UNANSWERED, None)
    if not found and part.number is None:
        on_fault(
            NO_REPLY,
            UserError(f"{part.path}: no conversation with a reply of the assistant; leave it out, or see docs/chat.md"),
        )


def as_text(messages: Iterable[Message]) -> str:
    """Messages with marks around them."""
    return "".join(f"{BEGINS[role]}{plain(text)}{ENDS}" for role, text in messages)


def words(text: str) -> str:
    """The words of a message, without marks."""
    return text.translate(dict.fromkeys(range(0xFDD0, 0xFDF0), "\n"))


def plain(text: str) -> str:
    """A message's text without marks and without blanks at its ends."""
    return text.translate(_NONCHARACTERS).strip()


# JSON values and rows.


def _records(part: Part, reading: parts.Reading, on_fault: OnFault) -> Iterator[tuple[int, list[Message]]]:
    for record in readers.records(part, reading=reading, on_fault=on_fault, keys=conversations.KEYS):
        try:
            turns = conversations.turns_of(record.value)
        except UserError as error:
            reason = error.reason if isinstance(error, conversations.UnlearnedError) else BAD_LINE
            on_fault(reason, UserError(f"{record.where}: {error}"))
            continue
        if not turns:
            on_fault(UNANSWERED, None)
        if not all(turn.is_learned for turn in turns):
            on_fault(NOT_LEARNED, None)
        for learned in conversations.learned_parts(turns):
            yield record.number, [Message(turn.role, plain(turn.text)) for turn in learned]


# Histories.


def _between(part: Part, voice: Voice) -> Part:
    """A part whose borders are between conversations or before a message that is answered."""
    if part.start:
        part = part._replace(start=_border(part.path, part.start, _voice_name(voice)))
    return part._replace(stop=_border(part.path, part.stop, _voice_name(voice))) if part.stop else part


def _border(path: str, nominal: int, voice_name: str) -> int:
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
                if before and before["sender"] == voice_name != match["sender"]:
                    return position
                before = match
            blank = not text.strip()
            position += len(line)
    return first


def _voice_name(voice: Voice) -> str:
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


def _history(part: Part, voice: Voice, encoding: str, on_fault: OnFault) -> Iterator[tuple[int, list[Message]]]:
    """Conversations, each with the number of its first line; the name of the other is its system message.

    One ends at an empty line, where the name changes, and, when it is long, before a message that is answered, or
    within a long answer.
    """
    voice_name = _voice_name(voice)
    turns: list[_Turn] = []
    size = 0  # characters of all turns
    name, first = None, 0
    for number, line in readers.lines(part, encoding=encoding):
        match = _LINE.fullmatch(line) if line.strip() else None
        if line.strip() and not match:
            error = UserError(
                f"{parts.line_of(part, number)}: no message; expected 0|NAME|TEXT <EOM>, where 0 is what NAME said "
                'and 1 what was said to NAME; put a message on one line, or name a .jsonl file with "messages"'
            )
            on_fault(BAD_LINE, error)
            continue
        said = plain(match["text"]) if match else ""
        role: Role = "assistant" if match and match["sender"] == voice_name else "user"
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
