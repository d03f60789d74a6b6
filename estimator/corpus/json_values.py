"""JSON values out of files: one a line, in an array, or one after another; and the text of a record by its key."""

import itertools
import json
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from estimator.corpus import conversations
from estimator.corpus.containers import OnFault
from estimator.corpus.parts import BAD_JSON, BYTE_ORDER_MARK, NO_KEY, NO_TEXT, PLAIN, File, NotText, Reading, decoded
from estimator.errors import UserError

MAX_RECORD = 1 << 28  # bytes, or characters, of a line or a value: it must fit in memory
NEAR_THE_END = 64  # an error so near to the end of a block may be due to that
MAX_NAME = 40  # characters of a key that a message shows; the first line of a table without names may be long
MAX_DEPTH = 8  # of the text whose key a message advises
TOO_DEEP = "lists or objects within each other too deep to read"


class Missing(UserError):
    """A record has no text under the key."""


# Values.


def of_lines(file: File, blocks: Iterable[tuple[bytes, int]], on_fault: OnFault) -> Iterator[tuple[int, Any]]:
    """The number of each line of the blocks that is not blank, and its value."""
    number = 0
    decode = _decoder()
    for block, position in blocks:
        for record in _records(block):
            number += 1
            try:
                value = decode(record)
            except (ValueError, RecursionError):
                # Unusual values are parsed again, carefully.
                try:
                    found = _unusual(bytes(record), file, number, block, position)
                except UserError as error:
                    on_fault(NO_TEXT if isinstance(error, NotText) else BAD_JSON, error)
                    continue
                if not found:
                    continue
                value = found[0]
            yield number, value


def _records(block: bytes) -> Iterator[memoryview]:
    """The lines of a block without their ends; views, because copies of them take longer than finding them."""
    view, start = memoryview(block), 0
    while start < len(block):
        stop = block.find(b"\n", start)
        if stop < 0:
            stop = len(block)
        yield view[start:stop]
        start = stop + 1


def _decoder() -> Callable[[memoryview], Any]:
    """What decodes most lines, and gives up on the others: orjson if it is installed, which is several times faster."""
    try:
        import orjson

        return orjson.loads
    except ImportError:
        decode = json.JSONDecoder().raw_decode

        def whole(record: memoryview) -> Any:
            text = str(record, "utf-8")
            values, end = decode(text)
            if end < len(text):
                raise ValueError
            return values

        return whole


def _unusual(line: bytes, file: File, number: int, block: bytes, position: int) -> tuple[Any] | None:
    """The value of a line that is no UTF-8, begins with a byte order mark, or is not as expected; None if blank."""
    record = decoded(line, file=file, position=position + block.index(line), first=False)
    if number == 1 and not file.part.start:
        record = record.removeprefix(BYTE_ORDER_MARK)
    if not record.strip():
        return None
    try:
        return (json.loads(record.rstrip()),)
    except json.JSONDecodeError as error:
        raise UserError(f"{file.where(number)}, column {error.colno}: not valid JSON ({error.msg})") from None
    except RecursionError:
        raise UserError(f"{file.where(number)}: {TOO_DEEP}") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{file.where(number)}: not valid JSON ({error})") from None


def of_stream(
    file: File, blocks: Iterable[str], on_fault: OnFault, *, text_key: Sequence[str] | None = PLAIN.text_key
) -> Iterator[tuple[int, Any]]:
    """The numbers and values of the items of an array, or of values one after another; the rest after a fault is lost.

    An object that is alone in its file and only wraps a list, or columns, of records is those records.
    text_key: of the text; an object that has it is a record, and wraps none. None: of conversations, where this holds
        for one of them, and a list of messages is one.
    """
    number, waiting = 0, None
    try:
        values = _values(file, blocks)
        for value in values if text_key else _as_conversation(values):
            number += 1
            if number == 1 and isinstance(value, dict):
                waiting = value
                continue
            if waiting is not None:
                yield 1, waiting
                waiting = None
            yield number, value
        if waiting is not None:
            yield from enumerate(_unwrapped(waiting, text_key), start=1)
    except UserError as error:
        if waiting is not None:
            yield 1, waiting
        on_fault(BAD_JSON, error)


def _as_conversation(values: Iterator[Any]) -> Iterator[Any]:
    """The values, or one list where each of them is a message of the same conversation."""
    messages = []
    for value in values:
        if not conversations.is_message(value):
            yield from itertools.chain(messages, [value], values)
            return
        messages.append(value)
    if messages:
        yield messages


def _are_messages(value: Any) -> bool:
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, dict) and (conversations.is_message(first) or {"human", "assistant"} <= first.keys())


def _unwrapped(value: dict[str, Any], text_key: Sequence[str] | None) -> list[Any]:
    """The records of {"data": [{...}, ...]}, of pandas' {"text": {"0": "...", ...}} or of {"text": ["...", ...]}.

    An object that is a record or a conversation is one, whatever lists it has.
    """
    lists = [each for each in value.values() if isinstance(each, list) and each and isinstance(each[0], dict)]
    inner = lists[0][0] if len(lists) == 1 else {}
    if text_key is None:
        if conversations.is_one(value) or any(map(_are_messages, value.values())):
            return [value]
    elif (own := _texts_of(value, text_key)) and own >= _texts_of(inner, text_key):
        return [value]
    if inner:
        within = sum(length for _, length in _texts_within(lists[0], "."))
        # Text next to the list, and more of it, is what a record says, and the list is about it.
        return lists[0] if 2 * within >= sum(length for _, length in _texts_within(value)) else [value]
    columns = [list(each.values()) if isinstance(each, dict) else each for each in value.values()]
    if columns and all(isinstance(each, list) and len(each) == len(columns[0]) for each in columns):
        return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
    return [value]


def _texts_of(value: Any, text_key: Sequence[str]) -> int:
    """Under how many of the keys a value has text."""
    return sum(isinstance(_find(value, key)[1], str) for key in text_key)


class _Buffer:
    """The text of a file from the place that is being read, more of which is asked for when it is needed."""

    def __init__(self, file: File, blocks: Iterable[str]):
        self._file, self._blocks = file, iter(blocks)
        self.text, self.at, self.is_whole = "", 0, False
        self._lines = self._columns = 0  # before the text

    def more(self) -> bool:
        """Reads as much again as there is; False at the end of the file."""
        kept = self.text[self.at :]
        self._lines += self.text.count("\n", 0, self.at)
        self._columns = self.at - 1 - (newline := self.text.rfind("\n", 0, self.at)) + (newline < 0) * self._columns
        parts, wanted = [kept], max(len(kept), 1)
        if len(kept) > MAX_RECORD:
            raise self.fault(f"a value of more than {MAX_RECORD >> 20} MiB")
        while wanted > 0 and not self.is_whole:
            block = next(self._blocks, None)
            self.is_whole = block is None
            parts.append(block or "")
            wanted -= len(block or "")
        self.text, self.at = "".join(parts), 0
        return len(self.text) > len(kept)

    def skip(self, characters: str) -> str:
        """The next character that is none of these, "" at the end."""
        while True:
            while self.at < len(self.text):
                if self.text[self.at] not in characters:
                    return self.text[self.at]
                self.at += 1
            if not self.more() and self.is_whole:
                return ""

    def fault(self, message: str, at: int | None = None) -> UserError:
        at = self.at if at is None else at
        line = 1 + self._lines + self.text.count("\n", 0, at)
        newline = self.text.rfind("\n", 0, at)
        column = at - newline + (newline < 0) * self._columns
        return UserError(f"{self._file.opened.label}, line {line}, column {column}: not valid JSON ({message})")


def _values(file: File, blocks: Iterable[str]) -> Iterator[Any]:
    buffer = _Buffer(file, blocks)
    blank = " \t\r\n"
    while first := buffer.skip(blank):
        if first != "[":
            yield _value(buffer)
            continue
        buffer.at += 1
        if buffer.skip(blank) == "]":
            buffer.at += 1
            continue
        while True:
            if not buffer.skip(blank):
                raise buffer.fault("it ends within a list")
            yield _value(buffer)
            after = buffer.skip(blank)
            if after not in (",", "]") or not after:
                raise buffer.fault("it ends within a list" if not after else "expecting ',' or ']'")
            buffer.at += 1
            if after == "]":
                break


_DECODE = json.JSONDecoder().raw_decode


def _value(buffer: _Buffer) -> Any:
    while True:
        try:
            value, end = _DECODE(buffer.text, buffer.at)
        except json.JSONDecodeError as error:
            near = len(buffer.text) - error.pos <= NEAR_THE_END or error.msg.startswith("Unterminated string")
            ahead = error.pos - buffer.at
            if not near or not buffer.more():
                raise buffer.fault(error.msg, buffer.at + ahead) from None
            continue
        except RecursionError:
            raise buffer.fault(TOO_DEEP) from None
        except ValueError as error:  # a number of thousands of digits
            raise buffer.fault(str(error)) from None
        length = end - buffer.at
        if end == len(buffer.text) and not buffer.is_whole and buffer.more():
            continue  # a number may be longer
        buffer.at += length
        return value


# Texts.


def texts(
    file: File, values: Iterable[tuple[int, Any]], reading: Reading, on_fault: OnFault
) -> Iterator[tuple[str, str]]:
    """The name and the text of each record."""
    key = reading.text_key[0] if len(reading.text_key) == 1 else None
    stem = file.stem
    for number, value in values:
        try:
            text = value[key]
            name = value.get("id")
        except (TypeError, KeyError, IndexError, AttributeError):
            text = name = None
        if not isinstance(text, str):
            try:
                text = text_of(value, reading, where=lambda number=number: file.where(number))
            except Missing as error:
                on_fault(NO_KEY, error)
                continue
            name = value.get("id") if isinstance(value, dict) else None
        yield name if name and isinstance(name, str) else f"{stem}-{number}", text


def text_of(value: Any, reading: Reading, *, where: Callable[[], str]) -> str:
    """The text under the keys, joined by an empty line; a record that is a string is its text. Raises Missing."""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        chat = _of_chats(value, reading)
        raise Missing(f'{where()}: not a JSON object{chat}; expected {{"{reading.text_key[0]}": "..."}}')
    found = [(key, *_find(value, key)) for key in reading.text_key]
    texts = [text for _, is_there, text in found if is_there and isinstance(text, str)]
    if texts and all(not is_there or text is None or isinstance(text, str) for _, is_there, text in found):
        return "\n\n".join(text for text in texts if text)
    named = [(key, text) for key, is_there, text in found if is_there and not isinstance(text, str)]
    if named:
        key, text = named[0]
        kind = "null" if text is None else f"of the type {type(text).__name__}"
        skip = reading.fix("on_error", "skip")
        raise Missing(f'{where()}: the value of "{key}" is not text, but {kind}; correct it, or set {skip} to leave '
                      "such records out and count them")  # fmt: skip
    lengths = Counter()
    for path, length in _texts_within(value):
        lengths[path] += length
    longest = max(lengths, key=lengths.__getitem__, default="")
    best = longest if 0 < len(longest) <= MAX_NAME else "KEY"
    chat = _of_chats(value, reading)
    has = ", ".join(textwrap.shorten(name, MAX_NAME, placeholder="...") for name in value) or "none"
    raise Missing(
        f'{where()}: no key "{reading.text_key[0]}"{chat}; {"or " if chat else ""}name the key of the text: '
        f"{reading.fix('text_key', best)}. The keys of the record are: {has}"
    )


def _of_chats(value: Any, reading: Reading) -> str:
    """What reads a record that is a conversation, or one of its messages; "" for others."""
    role = value.get("role", value.get("from")) if conversations.is_message(value) else None
    if not value or not (conversations.is_one(value) or str(role).lower() in conversations.ROLES):
        return ""
    return ", but a conversation, which " + (
        "datasets/encode.py reads with --chat other"
        if reading.flags
        else 'is read with "input": "chat", as data_path or eval_split'
    )


def _find(value: Any, path: str) -> tuple[bool, Any]:
    """Whether there is a value under a key, or a path of keys and list indices with dots between, and the value.

    A list without an index in the path means all its items, whose texts are joined by an empty line.
    """
    if isinstance(value, dict) and path in value:
        return True, value[path]
    key, dot, rest = path.partition(".")
    if isinstance(value, dict) and key in value:
        found = value[key]
    elif isinstance(value, list) and key.isdecimal() and len(key) < 10 and int(key) < len(value):
        found = value[int(key)]
    elif isinstance(value, list) and not key.isdecimal():
        items = [text for each in value for is_there, text in [_find(each, path)] if is_there]
        other = next((text for text in items if not isinstance(text, str)), None)
        return bool(items), "\n\n".join(items) if other is None and None not in items else other
    else:
        return False, None
    return _find(found, rest) if dot else (True, found)


def _texts_within(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, int]]:
    """The path and the length of each text in a record, not too deep."""
    if isinstance(value, str) and path:
        yield path, len(value)
    elif isinstance(value, dict) and depth < MAX_DEPTH:
        for key, each in value.items():
            yield from _texts_within(each, f"{path}.{key}" if path else key, depth + 1)
    elif isinstance(value, list) and depth < MAX_DEPTH:
        for each in value:
            yield from _texts_within(each, path, depth + 1)
