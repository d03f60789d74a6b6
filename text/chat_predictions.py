"""Talking to a chat model: what is said becomes a prompt by the template; the model ends its reply itself."""

import itertools
from collections.abc import Callable, Iterator, Sequence

from text import predictions
from text.chat import Message, plain
from text.chat_template import END, HEADERS, Template
from text.predictions import Continuation, PredictionConfig, Stream
from text.tokenizers import Tokenizer
from text.vocabulary import END_OF_TEXT


class Speaker:
    """The assistant's side of conversations.

    stream: ends a row at the template's `end`. most: tokens of a prompt, so that there is room for the reply.
    """

    def __init__(
        self,
        template: Template,
        tokenizer: Tokenizer,
        stream: Stream,
        config: PredictionConfig,
        *,
        most: int,
        note: Callable[[str], None],
    ):
        self._template = template
        self._tokenizer = tokenizer
        self._stream = stream
        # A model that has learnt little may go on without an end.
        self._config = config.model_copy(update={"stop": [*config.stop, *HEADERS.values(), END, END_OF_TEXT]})
        self._head = [Message("system", config.chat_system)] if config.chat_system else []
        self._most = most
        self._note = note

    def replies(self, prompt: str) -> Iterator[str]:
        """Replies to one message, as many as there are samples."""
        tokens = self.prompt([Message("user", prompt)])
        return predictions.generate(tokens, self._tokenizer, self._stream, self._config)

    def interact(self, *, ask: Callable[[str], str], show: Callable[[str], None]) -> None:
        """Message after message until the end of input, each reply shown as it is made; an empty line begins anew."""
        history: list[Message] = []
        number = 0
        while True:
            try:
                said = ask(">>> ")
            except EOFError:
                show("\n")
                return
            if not plain(said):
                history = []
                self._note("a new conversation")
                continue
            history.append(Message("user", said))
            text, stopped = Continuation(self._tokenizer, self._config.stop), set[int]()
            for (tokens,) in self._stream([self.prompt(history)], stopped=stopped, first_row=number):
                text.extend(tokens)
                if text.stopped:
                    stopped.add(0)
                show(text.fresh(final=text.stopped))
            show(text.fresh(final=True) + "\n")
            history.append(Message("assistant", text.text))
            number += 1

    def prompt(self, history: Sequence[Message]) -> list[int]:
        """The tokens of a conversation that is to be answered: the system message, and what fits of the history.

        The history begins with a message of the user, the last one at the latest; of that, the end is taken if need be.
        """
        encode = self._template.encode
        head = [self._template.end_of_text, *encode(self._head).tolist()]
        reply = [self._template.headers["assistant"]]
        room = self._most - len(head) - len(reply)
        if room < self._most // 2:  # as in training, a head of more than half is left out
            head, room = head[:1], self._most - 1 - len(reply)
        messages = [encode([message]).tolist() for message in history]
        left = sum(map(len, messages))  # tokens from a message on
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
        self._note(f"what was said has {len(tokens):,} tokens; the model sees the last {room:,}")
        return [*head, tokens[0], *tokens[len(tokens) - room + 1 :], *reply]
