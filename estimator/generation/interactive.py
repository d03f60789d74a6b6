"""`--interactive`: a loop of prompts and streamed answers, with commands that change the settings."""

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from estimator import json_text
from estimator.errors import UserError
from estimator.generation import arguments as flags
from estimator.generation import completion
from estimator.generation.completion import PredictionConfig, Stream
from estimator.tokenization.tokenizer import Tokenizer

HELP = """\
/set KEY VALUE   change a setting for the following answers, such as /set temperature 0.7
/settings        show the settings
/seed N          repeat the samples that seed N gives
/help            show this help
/quit            end; Ctrl-D does the same
Ctrl-C           stop the answer, or drop the line
A line that begins with // is sent with one slash."""
NEW = "/new             begin a new conversation; an empty line does the same\n"
KEYS = (*(key for key in flags.KEYS if key != "best_of"), "logit_bias")
CHAT_KEYS = (*KEYS, "chat_system")
NO_BEST = "best_of: a sample is shown while it is generated, so none can be chosen of several; use --predict_text"


class Session(Protocol):
    """`Completer` and `ChatSession`: what a typed line means to the model."""

    @property
    def tokenizer(self) -> Tokenizer: ...
    @property
    def stream(self) -> Stream: ...
    @property
    def config(self) -> PredictionConfig: ...
    @property
    def is_conversation(self) -> bool: ...

    def listen(self, prompt: str) -> list[int]: ...

    def remember(self, prompt: str, reply: str) -> None: ...

    def restart(self) -> str: ...


class Interactive:
    """Reads lines until the end of input and shows each answer while it is generated.

    make: (settings, seed, session before) -> session. note: shows a line that is not the model's.
    """

    def __init__(
        self,
        make: Callable[[PredictionConfig, int, Session | None], Session],
        config: PredictionConfig,
        seed: int,
        *,
        show: Callable[[str], None],
        note: Callable[[str], None],
    ):
        self._make, self._config, self._seed = make, config, seed
        self._show, self._note = show, note
        self._session = make(config, seed, None)
        self._row = 0

    def run(self, ask: Callable[[str], str]) -> None:
        """ask: shows a mark and returns a line; raises EOFError at the end of input."""
        while True:
            try:
                line = ask(">>> ")
            except EOFError:
                self._show("\n")
                return
            if line.startswith("/") and not line.startswith("//"):
                if not self._command(line.strip()):
                    return
                continue
            if not line.strip() and (text := self._session.restart()):
                self._note(text)
                continue
            self._answer(line.removeprefix("/") if line.startswith("//") else line)

    def _answer(self, line: str) -> None:
        session = self._session
        try:
            prompt = session.listen(line)
        except UserError as error:
            self._note(str(error))
            return
        first = None
        for sample in range(self._config.num_samples or 1):
            if sample:
                self._show("-" * 20 + "\n")
            try:
                reply = completion.show_stream(
                    prompt, session.tokenizer, session.stream, session.config.stop, row=self._row, show=self._show
                )
            except KeyboardInterrupt:  # stops the answers, not the program
                self._show("\n")
                self._note("stopped")
                break
            finally:
                self._row += 1
            first = reply if first is None else first
        if first is not None:
            session.remember(line, first)

    def _command(self, line: str) -> bool:
        """Carries out a command; false ends the loop."""
        name, *words = line.split(maxsplit=2)
        keys = CHAT_KEYS if self._session.is_conversation else KEYS
        if name in ("/quit", "/exit"):
            return False
        if name == "/new":
            self._note(self._session.restart() or "prompts are independent of each other")
        elif name == "/settings":
            values = [f"{key} {json.dumps(getattr(self._config, key))}" for key in keys]
            self._note("\n".join([*values, f"seed {self._seed}"]))
        elif name == "/seed":
            self._reseed(" ".join(words))
        elif name == "/set" and len(words) == 2 and words[0] in keys:
            self._set(*words)
        elif name == "/set" and words[:1] == ["best_of"]:
            self._note(NO_BEST)
        elif name == "/set":
            unknown = f"{words[0]} is not a setting; " if words and words[0] not in keys else ""
            self._note(f"{unknown}write /set KEY VALUE with one of the keys {', '.join(keys)}")
        else:
            shown = HELP.replace("/help", f"{NEW}/help", 1) if self._session.is_conversation else HELP
            self._note(shown if name == "/help" else f"{name} is not a command\n{shown}")
        return True

    def _reseed(self, seed: str) -> None:
        if not (seed.isdecimal() and len(seed) <= 10 and int(seed) < 2**32):
            self._note("write /seed N with a number from 0 to 4,294,967,295")
            return
        self._seed, self._row = int(seed), 0
        self._note(f"seed {self._seed}")
        self._session = self._make(self._config, self._seed, self._session)

    def _set(self, key: str, value: str) -> None:
        values = self._config.model_dump() | {key: _parsed(key, value)}
        try:
            config = PredictionConfig.model_validate(values, strict=False)
            completion.require_known_ids(config, self._session.tokenizer)
        except UserError as error:
            self._note(str(error))
            return
        except ValidationError as error:
            problem = error.errors()[0]
            message = problem["msg"][0].lower() + problem["msg"][1:].partition(",")[0]
            self._note(str(problem.get("ctx", {}).get("error") or f"{key}: {message}, but it is {value}"))
            return
        self._config = config
        self._session = self._make(config, self._seed, self._session)


def _parsed(key: str, text: str) -> object:
    """The value of a key as it is typed; `stop` is a string, or a list in JSON, and logit_bias an object in JSON."""
    if text == "null":
        return None
    if key in ("stop", "logit_bias"):
        with contextlib.suppress(ValueError):
            value = json_text.loads(text)
            return [value] if isinstance(value, str) else value
    return [completion.unescaped(text)] if key == "stop" else text


def line_reader() -> Callable[[str], str]:
    """A function that asks for a line: with editing and a history on a terminal, silently of a pipe, else plainly."""
    if not sys.stdin.isatty():
        return lambda mark: input()
    if not sys.stdout.isatty():
        return input
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    try:
        folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "gpt2-jax"
        folder.mkdir(parents=True, exist_ok=True)
        history = FileHistory(str(folder / "history")) if os.access(folder, os.W_OK) else InMemoryHistory()
    except (OSError, RuntimeError):  # a read-only home; no HOME, and a user without a name
        history = InMemoryHistory()
    session: PromptSession[str] = PromptSession(history=history)

    def ask(mark: str) -> str:
        while True:
            try:
                return session.prompt(mark)
            except KeyboardInterrupt:  # drops the line, and not the conversation
                print("Ctrl-D ends the program", file=sys.stderr)

    return ask
