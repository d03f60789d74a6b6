"""Alexa: a custom skill as a web service, so that people talk to a model by voice.

`answer` is all of it without HTTP; `router` mounts it. The skill's interaction model is examples/alexa_skill.json.
"""

import asyncio
import logging
import re
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from estimator.config import Section
from serving.alexa_signature import CHAIN_HEADER, SIGNATURE_HEADER, Refused, Verifier

if TYPE_CHECKING:
    from fastapi import APIRouter

MAX_BODY = 256 << 10
TOLERANCE, EVENT_TOLERANCE = 150.0, 3600.0  # seconds that a timestamp may differ from our clock
MAX_SPEECH_BYTES = 16_000  # Alexa takes 24 kB of JSON in all
log = logging.getLogger(__name__)

# Speech recognition gives what follows a carrier phrase; a question needs its first word too.
CARRIERS = {f"{words.split()[0].capitalize()}Intent": words for words in (
    "what", "who", "where", "when", "why", "how", "which", "is", "are", "do", "does", "can", "could", "would", "should",
    "tell me", "say", "talk about", "explain", "describe", "write", "give me", "i", "you", "the", "let", "my",
)} | {"AMAZON.YesIntent": "yes", "AMAZON.NoIntent": "no"}  # fmt: skip


class AlexaConfig(Section):
    """The server's key "alexa"."""

    skills: dict[str, str] = Field(min_length=1, description="application id of each skill: the model that answers")
    seconds: float = Field(6, gt=0, le=7.5, description="time for an answer; Alexa gives up after about 8 s")
    characters: int = Field(1500, ge=50, le=7500, description="length of an answer, cut at a sentence")
    max_tokens: int = Field(120, gt=0, le=2**16, description="new tokens of an answer")
    turns: int = Field(8, ge=0, le=1000, description="questions of a conversation that are remembered")
    session_seconds: float = Field(600, gt=0, le=86400, description="silence after which a conversation is forgotten")
    sessions: int = Field(1000, gt=0, le=10**6, description="conversations remembered together")
    carriers: dict[str, str] = Field(CARRIERS, description="words that an intent's name stands for")
    welcome: str = "Hello. What would you like to talk about?"
    reprompt: str = "You can ask me anything."
    help: str = "Say something, such as: tell me a story. Say stop to end."
    goodbye: str = "Goodbye."
    unheard: str = Field("Sorry, I did not get that. Please say it another way.", description="for unheard speech")
    late: str = Field("I need a little longer for that. Please ask me again.", description="for an answer that is late")


class Turn(NamedTuple):
    """A message of a conversation."""

    role: Literal["user", "assistant"]
    text: str


Reply = Callable[[str, Sequence[Turn]], AsyncGenerator[str, None]]
"""(model, conversation, the user's words last) -> the answer in pieces, as they come; closed when it is late."""


class _Part(BaseModel):
    """A part of a request, by Amazon's names."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _Application(_Part):
    applicationId: str


class _Session(_Part):
    sessionId: str = Field(max_length=1024)
    application: _Application | None = None


class _System(_Part):
    application: _Application | None = None


class _Context(_Part):
    System: _System | None = None


class _Slot(_Part):
    value: str | None = None


class _Intent(_Part):
    name: str
    slots: dict[str, _Slot] | None = None


class _Request(_Part):
    type: str
    timestamp: AwareDatetime
    intent: _Intent | None = None
    error: Mapping[str, Any] | None = None


class Envelope(_Part):
    """A request of Alexa's, as far as it is read here."""

    request: _Request
    session: _Session | None = None
    context: _Context | None = None

    @property
    def application_id(self) -> str | None:
        """The skill's; None in a request that names none."""
        if self.session and self.session.application:
            return self.session.application.applicationId
        system = self.context.System if self.context else None
        return system.application.applicationId if system and system.application else None


@dataclass
class _Conversation:
    turns: deque[Turn]
    used: float = 0.0


class Skill:
    """Answers verified requests; remembers conversations."""

    def __init__(
        self,
        config: AlexaConfig,
        reply: Reply,
        *,
        clean: Callable[[str, str], str] = lambda model, text: text,
        failures: tuple[type[Exception], ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ):
        self._config, self._reply, self._clean, self._failures, self._clock = config, reply, clean, failures, clock
        self._conversations: OrderedDict[tuple[str, str], _Conversation] = OrderedDict()

    def __len__(self) -> int:
        return len(self._conversations)

    async def answer(self, envelope: Envelope, deadline: float) -> dict[str, Any]:
        """The response to a request. deadline: when it has to be there, by asyncio's clock."""
        config, request = self._config, envelope.request
        if envelope.session is None or request.type not in ("LaunchRequest", "IntentRequest", "SessionEndedRequest"):
            return {"version": "1.0", "response": {}}
        key = (envelope.application_id or "", envelope.session.sessionId)
        if request.type == "SessionEndedRequest":
            self._conversations.pop(key, None)
            if request.error:
                log.warning("alexa: a session ended with %s", str(dict(request.error))[:300])
            return {"version": "1.0", "response": {}}
        turns = self._turns(key)
        name = request.intent.name if request.type == "IntentRequest" and request.intent else ""
        match name:
            case "":
                return self._say(config.welcome)
            case "AMAZON.StopIntent" | "AMAZON.CancelIntent" | "AMAZON.NavigateHomeIntent":
                self._conversations.pop(key, None)
                return self._say(config.goodbye, end=True)
            case "AMAZON.HelpIntent":
                return self._say(config.help)
            case "AMAZON.StartOverIntent":
                turns.clear()
                return self._say(config.welcome)
            case "AMAZON.RepeatIntent":
                return self._say(turns[-1].text if turns else config.welcome)
        words = self._words(request.intent)
        if not words:
            return self._say(config.unheard)
        return self._say(await self._ask(config.skills[key[0]], turns, words, deadline))

    def _words(self, intent: _Intent | None) -> str:
        """The user's words; none if Alexa did not understand them."""
        if intent is None:
            return ""
        spoken = [slot.value for slot in (intent.slots or {}).values() if slot.value]
        carrier = self._config.carriers.get(intent.name, "")
        return " ".join([carrier, *spoken]).strip() if spoken or not intent.slots else ""

    async def _ask(self, model: str, turns: deque[Turn], words: str, deadline: float) -> str:
        question, text = Turn("user", words), ""
        try:
            async with asyncio.timeout_at(deadline), aclosing(self._reply(model, [*turns, question])) as pieces:
                async for piece in pieces:
                    text += piece
                    if len(text) > 2 * self._config.characters:  # the sanitizer may shorten it
                        break
        except TimeoutError:
            log.warning("alexa: the answer was late; %d of its characters were spoken", len(text))
            text = whole_sentences(text)
        except self._failures as error:
            log.warning("alexa: no answer: %s", error)
        said = speakable(self._clean(model, text), self._config.characters)
        if said and self._config.turns:
            turns.extend([question, Turn("assistant", said)])
        return said or self._config.late

    def _turns(self, key: tuple[str, str]) -> deque[Turn]:
        now = self._clock()
        conversation = self._conversations.pop(key, None)
        while self._conversations:
            oldest = next(iter(self._conversations))
            is_old = now - self._conversations[oldest].used > self._config.session_seconds
            if not is_old and len(self._conversations) < self._config.sessions:
                break
            del self._conversations[oldest]
        if conversation is None or now - conversation.used > self._config.session_seconds:
            conversation = _Conversation(deque(maxlen=2 * self._config.turns))
        conversation.used = now
        self._conversations[key] = conversation
        return conversation.turns

    def _say(self, text: str, *, end: bool = False) -> dict[str, Any]:
        response: dict[str, Any] = {"outputSpeech": {"type": "PlainText", "text": text}, "shouldEndSession": end}
        if not end:
            response["reprompt"] = {"outputSpeech": {"type": "PlainText", "text": self._config.reprompt}}
        return {"version": "1.0", "response": response}


def whole_sentences(text: str) -> str:
    """The text up to its last whole sentence; without one, its whole words."""
    closing = r"[\"'\u201d\u2019)]*"
    for end in (rf"(?s).*(?:[.!?\u2026]{closing}(?=\s|$)|[\u3002\uff01\uff1f]{closing})", r"(?s).*\S(?=\s)"):
        if found := re.match(end, text):
            return found[0]
    return ""


def speakable(text: str, characters: int) -> str:
    """The text in one line without control characters, cut at a sentence to this length and to MAX_SPEECH_BYTES."""
    line = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", " ", text).split())
    cut = line[:characters].encode()[:MAX_SPEECH_BYTES].decode(errors="ignore")
    return line if cut == line else whole_sentences(cut) or cut


def check_request(envelope: Envelope, skills: Mapping[str, str], now: float) -> None:
    """Raises Refused for a request of another time or of another's skill. now: seconds since 1970."""
    tolerance = EVENT_TOLERANCE if envelope.request.type.startswith("AlexaSkillEvent.") else TOLERANCE
    if abs(now - envelope.request.timestamp.timestamp()) > tolerance:
        raise Refused("the timestamp is not of now (is this machine's clock right?)")
    if envelope.application_id not in skills:
        raise Refused('the application id is none of "skills"')


def router(
    config: AlexaConfig,
    reply: Reply,
    *,
    clean: Callable[[str, str], str] = lambda model, text: text,
    failures: tuple[type[Exception], ...] = (),
    verifier: Verifier | None = None,
    now: Callable[[], float] = time.time,
) -> "APIRouter":
    """POST /alexa. A request that is not shown to be Alexa's, for one of our skills, is answered 400 without a word.

    clean: (model, text) -> the text to say. failures: exceptions of `reply` after which `late` is spoken.
    """
    from fastapi import APIRouter, Request
    from starlette.responses import JSONResponse, Response

    skill, verifier, routes = Skill(config, reply, clean=clean, failures=failures), verifier or Verifier(), APIRouter()

    @routes.post("/alexa", include_in_schema=False)
    async def alexa(request: Request) -> Response:
        deadline = asyncio.get_running_loop().time() + config.seconds
        try:
            body = await _body(request.stream())
            headers = [request.headers.getlist(name) for name in (CHAIN_HEADER, SIGNATURE_HEADER)]
            if [len(values) for values in headers] != [1, 1]:
                raise Refused("it has not the two headers of a signature")
            envelope = _parse(body)
            check_request(envelope, config.skills, now())  # before the certificate, whose download costs more
            await verifier.verify(headers[0][0], headers[1][0], body)
        except Refused as error:
            log.warning("alexa: a request was refused: %s", error)
            return Response(status_code=400)
        return JSONResponse(await skill.answer(envelope, deadline))

    return routes


async def _body(stream: AsyncIterator[bytes]) -> bytes:
    body = bytearray()
    async for piece in stream:
        body += piece
        if len(body) > MAX_BODY:
            raise Refused("the body is too large")
    return bytes(body)


def _parse(body: bytes) -> Envelope:
    try:
        return Envelope.model_validate_json(body)
    except ValidationError:
        raise Refused("the body is not a request of Alexa's") from None
