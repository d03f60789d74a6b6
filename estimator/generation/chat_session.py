"""Conversations with a chat model: the template turns messages into a prompt; the model ends its own reply."""

import itertools
from collections.abc import Callable, Iterator, Sequence

from estimator.corpus.chat_files import Message
from estimator.corpus.chat_template import END, HEADERS, Template
from estimator.generation import completion
from estimator.generation.completion import PredictionConfig, Stream
from estimator.tokenization.tokenizer import Tokenizer
from estimator.tokenization.vocab_files import END_OF_TEXT


class ChatSession:
    """The assistant's side of conversations.

    stream: ends a row at the template's `end`. most: tokens of a prompt, so that the context has room for the reply.
    history: messages of the conversation so far.
    """

    is_conversation = True

    def __init__(
        self,
        template: Template,
        tokenizer: Tokenizer,
        stream: Stream,
        config: PredictionConfig,
        *,
        most: int,
        note: Callable[[str], None],
        history: list[Message] | None = None,
    ):
        self._template = template
        self.tokenizer, self.stream = tokenizer, stream
        self.history = [] if history is None else history
        # A model that has learned little may write the next header instead of an end.
        self.config = config.model_copy(update={"stop": [*config.stop, *HEADERS.values(), END, END_OF_TEXT]})
        self._head = [Message("system", config.chat_system)] if config.chat_system else []
        self._most = most
        self.note = note

    def replies(self, prompt: str) -> Iterator[str]:
        """Yields the replies to one message, as many as there are samples."""
        return completion.generate(self.encode(prompt), self.tokenizer, self.stream, self.config)

    def encode(self, prompt: str) -> list[int]:
        """The tokens of a conversation of one message."""
        return self.prompt([Message("user", prompt)])

    def listen(self, prompt: str) -> list[int]:
        """The tokens of the conversation so far with this message."""
        return self.prompt([*self.history, Message("user", prompt)])

    def remember(self, prompt: str, reply: str) -> None:
        """Adds an exchange to the conversation."""
        self.history += [Message("user", prompt), Message("assistant", reply)]

    def restart(self) -> str:
        """Begins a new conversation; returns a line that says so."""
        self.history.clear()
        return "a new conversation"

    def prompt(self, history: Sequence[Message]) -> list[int]:
        """The tokens of a conversation to reply to: the system message, and the newest messages that fit.

        The first message kept is a user's. If only the last message is kept and it is too long, its end is kept.
        """
        encode = self._template.encode
        head = [self._template.end_of_text, *encode(self._head).tolist()]
        reply = [self._template.headers["assistant"]]
        room = self._most - len(head) - len(reply)
        if room < self._most // 2:  # as in training, a head that takes more than half is left out
            head, room = head[:1], self._most - 1 - len(reply)
        messages = [encode([message]).tolist() for message in history]
        left = sum(map(len, messages))  # tokens of this message and later ones
        begin = 0
        for i, message in enumerate(history):
            if message.role == "user":
                begin = i
                if left <= room:
                    break
            left -= len(messages[i])
        tokens = list(itertools.chain.from_iterable(messages[begin:]))
        if len(tokens) <= room:
            return [*head, *tokens, *reply]
        self.note(f"the message has {len(tokens):,} tokens; the model sees the last {room:,}")
        return [*head, tokens[0], *tokens[len(tokens) - room + 1 :], *reply]
