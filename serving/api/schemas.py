"""The bodies of requests: what OpenAI's clients send, checked; null is the default of every optional key.

A key that cannot change the text is ignored, as clients send many; one that would change it, and is not obeyed here,
is refused by name.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from estimator.tokenization.vocab_files import encodable
from serving.request import TOP_LOGPROBS

# Keys that ask for another answer than this server can give, unless they are empty or have this value.
REFUSED: dict[str, Any] = {
    "tools": None, "tool_choice": "none", "functions": None, "function_call": "none", "audio": None,
    "modalities": ["text"], "prediction": None, "web_search_options": None, "guided_json": None, "guided_regex": None,
    "guided_choice": None, "guided_grammar": None, "use_beam_search": False, "prompt_embeds": None,
}  # fmt: skip
MAX_STOPS = 16
MOST_BIASES = 1024  # ids that logit_bias may name
# What a key that takes several types may be; pydantic names the first type alone.
EXPECTED = {
    "prompt": "a text, a list of texts, a list of ids from 0 to 2147483647, or a list of such lists",
    "stop": f"a text of 1 to 1,000 characters, or a list of at most {MAX_STOPS} such texts",
    "content": 'a text, or a list of parts {"type": "text", "text": ...}',
}


class BodyError(ValueError):
    """A fault of a body as a whole. param: the key to change."""

    def __init__(self, param: str, message: str):
        super().__init__(message)
        self.param = param


# Half of a surrogate pair becomes U+FFFD, as in main.py.
_Encodable = BeforeValidator(lambda value: encodable(value) if isinstance(value, str) else value)
Text = Annotated[str, _Encodable]
Stop = Annotated[str, _Encodable, Field(min_length=1, max_length=1000)]
Id = Annotated[int, Field(ge=0, lt=2**31)]


class Body(BaseModel):
    """Base of all bodies."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        return (
            {key: value for key, value in values.items() if value is not None} if isinstance(values, dict) else values
        )

    @model_validator(mode="after")
    def _refuse(self) -> "Body":
        for key, value in (self.model_extra or {}).items():
            if key in REFUSED and value not in (REFUSED[key], None, [], {}, "auto", False):
                raise BodyError(key, f"{key} is not supported by this server; leave it out")
        return self


class StreamOptions(BaseModel):
    include_usage: bool | None = False


class ResponseFormat(BaseModel):
    type: Literal["text"]


class ModelBody(Body):
    """The model; the only one that is served may be left out."""

    model: str | None = Field(None, max_length=200)


class SamplingBody(ModelBody):
    """The keys that completions and chats share. min_p, top_k, repetition_penalty and ignore_eos go beyond OpenAI's."""

    max_tokens: int | None = Field(None, ge=0, lt=2**31)
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=2**31)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.001, le=1000)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: dict[str, float] | None = Field(None, max_length=MOST_BIASES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    n: int = Field(1, ge=1, le=128)
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    response_format: ResponseFormat = ResponseFormat(type="text")
    ignore_eos: bool = False
    user: str | None = None

    @property
    def stops(self) -> list[str] | None:
        """None where the request leaves it to the model's own settings; [] is none at all."""
        return [self.stop] if isinstance(self.stop, str) else self.stop


class CompletionBody(SamplingBody):
    """POST /v1/completions."""

    prompt: Text | list[Text] | list[Id] | list[list[Id]] = ""
    logprobs: int | None = Field(None, ge=0, le=TOP_LOGPROBS)
    echo: bool = False
    best_of: int | None = Field(None, ge=1, le=128)
    suffix: Literal[""] | None = None

    @model_validator(mode="after")
    def _check(self) -> "CompletionBody":
        if self.best_of is not None and self.best_of < self.n:
            raise BodyError(
                "best_of", f"best_of is {self.best_of}, but n is {self.n}; n answers are chosen from best_of"
            )
        if self.stream and self.best_of is not None and self.best_of > self.n:
            raise BodyError(
                "best_of", "the best of several answers is known at their end; leave out stream, or best_of"
            )
        return self

    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or ids."""
        prompt: Any = self.prompt
        if isinstance(prompt, str) or not prompt or isinstance(prompt[0], int):
            return [prompt]
        return list(prompt)


class Part(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: Text


class ChatMessage(BaseModel):
    """A message; developer is OpenAI's newer name of system."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part]

    @model_validator(mode="before")
    @classmethod
    def _refuse_tools(cls, values: Any) -> Any:
        if isinstance(values, dict):
            is_call = values.get("tool_calls") or values.get("function_call")
            if is_call or values.get("role") in ("tool", "function"):
                text = "calls of tools and their results are not supported by this server; leave these messages out"
                raise BodyError("messages", text)
        return values

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatBody(SamplingBody):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=10_000)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=TOP_LOGPROBS)
    max_completion_tokens: int | None = Field(None, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _check(self) -> "ChatBody":
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise BodyError("max_tokens", "max_tokens and max_completion_tokens differ; they mean the same, give one")
        if self.top_logprobs and not self.logprobs:
            raise BodyError("top_logprobs", "top_logprobs needs logprobs to be true")
        return self

    @property
    def length(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class TokenizeBody(ModelBody):
    """POST /tokenize. add_special_tokens is read for lm-evaluation-harness; GPT-2 adds none."""

    prompt: Text
    add_special_tokens: bool = False


class DetokenizeBody(ModelBody):
    """POST /detokenize."""

    tokens: list[Id]


class ScoreBody(ModelBody):
    """POST /score."""

    text: Text
    top: int = Field(0, ge=0, le=TOP_LOGPROBS)


class NextBody(ModelBody):
    """POST /next."""

    text: Text = ""
    top: int = Field(10, ge=1, le=TOP_LOGPROBS)
