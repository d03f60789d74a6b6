"""Token ids as whole characters, stop strings that reach over several tokens, and chats as prompts."""

from collections.abc import Sequence

from estimator.corpus.chat_files import Message
from estimator.corpus.chat_template import Template
from estimator.generation import stop_strings
from estimator.tokenization.text_decoder import TextDecoder as TextDecoder
from estimator.tokenization.text_decoder import start_of_document as start_of_document
from estimator.tokenization.text_decoder import token_text as token_text
from estimator.tokenization.tokenizer import Tokenizer

TRANSCRIPT_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}


class StopFilter:
    """Passes text on up to the stop string that ends first; a suffix that may begin one is held back until then."""

    def __init__(self, stop: Sequence[str]):
        self._stop = [word for word in stop if word]
        self._held = ""
        self.is_hit = False
        """A stop string was found; all later text is dropped."""

    def push(self, text: str) -> str:
        if self.is_hit:
            return ""
        text = self._held + text
        if (begin := stop_strings.begin_of_first(text, self._stop)) is not None:
            self.is_hit, self._held = True, ""
            return text[:begin]
        keep = stop_strings.undecided(text, self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """The text held back."""
        held, self._held = self._held, ""
        return held


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a prompt; names of special tokens are read as such. An empty prompt is the start of a document."""
    ids = tokenizer.encode(text, special=True)
    return ids or start_of_document(tokenizer)


def chat_prompt(messages: Sequence[Message], tokenizer: Tokenizer, template: Template | None) -> list[int]:
    """The ids of a conversation that the assistant is to continue.

    With a template, its special tokens separate the messages, and no text of a message becomes one. Without one, the
    conversation is written as a plain transcript with the names in `TRANSCRIPT_NAMES`.
    """
    if template:
        return [template.end_of_text, *template.encode(messages).tolist(), template.headers["assistant"]]
    lines = [f"{TRANSCRIPT_NAMES[role]}: {text}\n" for role, text in messages]
    return start_of_document(tokenizer) + tokenizer.encode("".join(lines) + f"{TRANSCRIPT_NAMES['assistant']}:")


def chat_stops(tokenizer: Tokenizer, template: Template | None) -> tuple[frozenset[int], list[str]]:
    """The ids and the strings that end a reply."""
    ends = start_of_document(tokenizer)
    if template:
        return frozenset([*ends, template.end, *template.headers.values()]), []
    return frozenset(ends), [f"\n{name}:" for name in TRANSCRIPT_NAMES.values()]
