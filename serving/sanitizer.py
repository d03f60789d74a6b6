r"""Sanitizer: cleans a model's text for ears and eyes by a list of rules, which the server's JSON gives per model:

    "sanitizer": [{"rule": "chat", "names": ["ann"]}, {"rule": "urls", "keep": "host"}, {"rule": "spaces"}]

Rules apply in their order. Only `urls` changes a URL; all others leave URLs as they are.
"""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

# Parentheses belong to a URL in pairs, and punctuation not at its end: "(see http://a.b/c_(d), please)".
URL = r"\bhttps?://(?:[^\s<>|\"()]|\([^\s<>|\"()]*\))+(?<![.,;:!?'*])"
_PICTURES = "\U0001f000-\U0001faff\u2600-\u27bf\u2b00-\u2bff"
_EMOJI = rf"[{_PICTURES}][{_PICTURES}\ufe0f\u200d\u20e3]*|(?<=[0-9#*])\ufe0f?\u20e3|\ufe0f"


_FLAGS = re.compile(r"(?:\(\?[aimsux]+\))+")


def _outside_urls(pattern: str, flags: int = 0) -> re.Pattern[str]:
    """The pattern, and "url_" for a URL as a whole. The numbers of the pattern's own groups stay."""
    if own := _FLAGS.match(pattern):  # are allowed at the start only
        letters = "".join(sorted(set(own[0]) - set("(?)")))
        pattern = f"(?{letters}:{pattern[own.end() :]}" + ("\n)" if "x" in letters else ")")
    return re.compile(f"(?!{URL})(?:{pattern})|(?P<url_>{URL})", flags)


class _Rule(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    def apply(self, text: str) -> str:
        """The text after this rule."""
        raise NotImplementedError

    @staticmethod
    def _substitute(pattern: re.Pattern[str], by: str, text: str) -> str:
        return pattern.sub(lambda match: match["url_"] or by, text)


class Chat(_Rule):
    """Turns lines "<0|1>|NAME|TEXT <EOM>" (xeb/gpt-2's chats) into their texts.

    A marker or a line's head that the length limit cut off is removed too, at the end of the text only.
    """

    rule: Literal["chat"]
    end: str = Field("<EOM>", min_length=1)
    """Ends a message."""
    messages: int | None = Field(4, ge=1)
    """Messages kept; null: all."""
    names: list[str] | None = None
    """The names that heads of lines have; null: any."""

    @cached_property
    def _head(self) -> re.Pattern[str]:
        if self.names is None:
            return re.compile(r"\s*(?:[01]?\|\+?[^|\n]{1,64}\|)+")
        names = "|".join(re.escape(name) for name in sorted(self.names, key=len, reverse=True)) or r"(?!)"
        return re.compile(rf"\s*(?:(?:[01]?\|)?\+?(?:{names})\|)+")

    def apply(self, text: str) -> str:
        whole = text.split(self.end)
        cut = next((n for n in range(len(self.end) - 1, 0, -1) if whole[-1].endswith(self.end[:n])), 0)
        whole[-1] = whole[-1][: len(whole[-1]) - cut]
        if len(whole) > 1 and re.fullmatch(r"\s*[01]?(?:\|[^|\n]*)?", whole[-1]):  # of the next line's head
            whole.pop()
        texts = (self._head.sub("", message, count=1) if self._head.match(message) else message for message in whole)
        return " ".join([part.strip() for part in texts if part.strip()][: self.messages])


class Replace(_Rule):
    """Replaces each of some texts."""

    rule: Literal["replace"]
    texts: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)
    by: str = ""
    words: bool = False
    """Only where the text is a whole word."""
    ignore_case: bool = False

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        texts = "|".join(re.escape(text) for text in sorted(self.texts, key=len, reverse=True))
        return _outside_urls(rf"(?<!\w)(?:{texts})(?!\w)" if self.words else texts, re.I if self.ignore_case else 0)

    def apply(self, text: str) -> str:
        return self._substitute(self._pattern, self.by, text)


class Pattern(_Rule):
    """Replaces what a regular expression (Python's `re`) matches; `by` is the replacement's text as it is."""

    rule: Literal["pattern"]
    pattern: str = Field(min_length=1)
    by: str = ""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
            _outside_urls(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error.msg}") from None
        return pattern

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return _outside_urls(self.pattern)

    def apply(self, text: str) -> str:
        return self._substitute(self._pattern, self.by, text)


class Urls(_Rule):
    """Shortens URLs, which are hard to listen to."""

    rule: Literal["urls"]
    keep: Literal["address", "host", "nothing"] = "address"
    """address: all but "https://"; host: the name of the host."""

    def apply(self, text: str) -> str:
        return re.sub(URL, self._short, text)

    def _short(self, url: re.Match[str]) -> str:
        if self.keep == "nothing":
            return ""
        address = url[0].split("://", 1)[1]
        return address if self.keep == "address" else re.split(r"[/?#]", address, maxsplit=1)[0].rpartition("@")[2]


class Emoji(_Rule):
    """Replaces runs of emoji and dingbats by a space; digits, letters and signs such as © and ° stay."""

    rule: Literal["emoji"]

    def apply(self, text: str) -> str:
        return self._substitute(_outside_urls(_EMOJI), " ", text)


class Spell(_Rule):
    """Spells acronyms: COE becomes "C. O. E.", where it is a whole word in this case."""

    rule: Literal["spell"]
    words: list[Annotated[str, Field(pattern=r"^\w+$")]] = Field(min_length=1)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return _outside_urls(rf"(?<!\w)(?P<word>{'|'.join(self.words)})(?!\w)\.?")

    def apply(self, text: str) -> str:
        return self._pattern.sub(
            lambda match: match["url_"] or " ".join(f"{letter}." for letter in match["word"]), text
        )


class Spaces(_Rule):
    """Makes runs of spaces one, and removes those at both ends."""

    rule: Literal["spaces"]
    lines: bool = False
    """Line ends are kept."""

    def apply(self, text: str) -> str:
        if not self.lines:
            return " ".join(text.split())
        return "\n".join(" ".join(line.split()) for line in text.splitlines()).strip()


Rule = Annotated[Chat | Replace | Pattern | Urls | Emoji | Spell | Spaces, Field(discriminator="rule")]
RULES: dict[str, type[BaseModel]] = {
    "chat": Chat, "replace": Replace, "pattern": Pattern, "urls": Urls, "emoji": Emoji, "spell": Spell,
    "spaces": Spaces,
}  # fmt: skip


def dixie(names: Sequence[str] | None = None) -> list[Rule]:
    """The rules for xeb/gpt-2's chat models: its purpose, speakable text, without its damage to digits and URLs.

    names: as its DIXIE_NAMES lists them; None: any.
    """
    return [
        Chat(rule="chat", names=None if names is None else list(names)),
        Pattern(rule="pattern", pattern=r"<EOM>?|[<>|()]", by=" "),
        Pattern(rule="pattern", pattern=r"--+|[+=](?!\s*\d)", by=" "),  # 1 + 1 = 2 and +1 555 stay
        Pattern(rule="pattern", pattern=r"(?<!\S)&(?!\S)", by="and"),  # AT&T stays
        Emoji(rule="emoji"),
        Urls(rule="urls"),
        Spell(rule="spell", words=["COE", "ADG", "SEA"]),
        Spaces(rule="spaces"),
    ]


class Sanitizer:
    """Applies rules to texts; holds no state, so threads may share one. Without rules it changes nothing."""

    def __init__(self, rules: Sequence[Rule] = ()):
        self.rules = tuple(rules)

    @classmethod
    def of(cls, setting: Sequence[Rule] | str, *, names: Sequence[str] | None = None) -> "Sanitizer":
        """From a model's key "sanitizer": rules, or a string, which means `dixie`.

        xeb/gpt-2's server cleans by its one set of rules whatever module the string names.
        """
        return cls(dixie(names) if isinstance(setting, str) else setting)

    def clean(self, text: str) -> str:
        """The text after all rules."""
        for rule in self.rules:
            text = rule.apply(text)
        return text
