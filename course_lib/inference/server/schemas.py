"""The bodies of calls and of answers. Types are strict: the text "3" is not a number, and true is not 1."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

# OpenAI's settings that are not implemented here, each with the values that ask for nothing. A client may send those.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
}
# Settings that change nothing about an answer.
IGNORED = ("metadata", "service_tier", "store", "user")
LOWEST_TEMPERATURE = 0.01  # below it, logits divided by the temperature overflow

Text = Annotated[str, Field(min_length=1)]


class Body(BaseModel):
    """A part of a call. It refuses unknown fields and wrong types; null stands for the default, as with OpenAI."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def without_nulls(cls, values: Any) -> Any:
        """Leave out the fields that are null."""
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if value is not None}


class Sampling(Body):
    """How tokens are chosen, and where the answer ends. Settings that OpenAI does not have are named as in vLLM."""

    temperature: float = Field(1.0, ge=0, le=2, description="0 takes the likeliest token each time")
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1, le=1_000_000, description="0 and -1 stand for all tokens")
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, ge=0.01, le=100)
    stop: Text | Annotated[list[Text], Field(max_length=16)] = Field([], description="texts at which the answer ends")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63, description="the same seed gives the same answer")

    @field_validator("temperature")
    @classmethod
    def not_almost_zero(cls, value: float) -> float:
        """Refuse temperatures so low that the logits would overflow."""
        if 0 < value < LOWEST_TEMPERATURE:
            raise ValueError(f"Input should be 0, or {LOWEST_TEMPERATURE} or more")
        return value


class GenerateBody(Sampling):
    """The body of POST /generate."""

    prompt: Text
    max_new_tokens: int | None = Field(None, ge=1, description="by default 128, or what there is room for")
    temperature: float = Field(0.0, ge=0, le=2)
    use_cache: bool = Field(True, description="false computes all keys and values again for each token")
    chat: bool = Field(False, description="put the prompt into the model's chat template, as the user's message")
    model: str | None = Field(None, description="the base or an adapter; by default the first adapter, if there is one")


class StreamOptions(Body):
    """What a stream contains beside the text."""

    include_usage: bool = False
    include_obfuscation: bool = Field(False, description="ignored")


class OpenAIBody(Sampling):
    """The settings that both of OpenAI's calls have."""

    model: str = Field(description="the base or an adapter, as /v1/models lists them")
    max_tokens: int | None = Field(None, ge=1)
    n: int = Field(1, ge=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = Field(False, description="go on past the end token, as benchmarks do")

    @model_validator(mode="before")
    @classmethod
    def without_neutral(cls, values: Any) -> Any:
        """Leave out the settings that change nothing about the answer."""
        if not isinstance(values, dict):
            return values
        return {key: value for key, value in values.items() if key not in IGNORED and not _is_neutral(key, value)}

    @model_validator(mode="after")
    def check_stream_options(self) -> "OpenAIBody":
        """Refuse options for a stream where no stream is asked for."""
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options needs stream to be true")
        return self


def _is_neutral(key: str, value: Any) -> bool:
    return key in NEUTRAL and any(value == neutral for neutral in NEUTRAL[key])


class CompletionBody(OpenAIBody):
    """The body of POST /v1/completions."""

    prompt: Text | list[int] | list[Text] | list[list[int]] = Field(description="text or token ids, one or several")


class TextPart(Body):
    """A part of a message; only text is possible."""

    type: Literal["text"]
    text: str


class Message(Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None  # changes nothing

    def plain(self) -> dict[str, str]:
        """The turn in the form that chat templates read."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class ChatBody(OpenAIBody):
    """The body of POST /v1/chat/completions."""

    messages: list[Message] = Field(
        min_length=1,
        description="without a message of the system first, the model's template may write one, as SmolLM2's does; "
        'one with the content "" keeps that away. A token of the template inside a text, such as <|im_end|>, is '
        "read as that token and ends the message there",
    )
    max_completion_tokens: int | None = Field(None, ge=1, description="the newer name of max_tokens")


# --- answers ---------------------------------------------------------------------------------------------------------


class GenerateAnswer(BaseModel):
    """The answer of /generate."""

    text: str = Field(description="the new text, without the prompt")
    finish_reason: Literal["stop", "length"] = Field(description='"stop" at an end token or stop text, or "length"')
    model: str = Field(description="who answered: the base or an adapter")
    prompt_tokens: int
    new_tokens: int
    seconds: float = Field(description="from the call's arrival to the last token")
    tokens_per_second: float = Field(description="the new tokens divided by these seconds")
    seed: int = Field(description="of the random draws; sent again, it gives the same text")


class Usage(BaseModel):
    """How many tokens were read and generated."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionChoice(BaseModel):
    """One of the texts of a completion."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"] | None
    logprobs: None = None


class Completion(BaseModel):
    """The answer of /v1/completions, or one part of it in a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class AssistantMessage(BaseModel):
    """The assistant's turn in an answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One of the turns that a chat answers with."""

    index: int
    message: AssistantMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class ChatCompletion(BaseModel):
    """The answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ServedModel(BaseModel):
    """What the server says about one model: its name, which calls may use, and what it can do."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "course"
    parent: str | None = Field(description="an adapter's base")
    max_model_len: int = Field(description="tokens of prompt and answer together")
    chat: bool = Field(description="whether the model has a chat template")


class ModelList(BaseModel):
    """The answer of /v1/models."""

    object: Literal["list"] = "list"
    data: list[ServedModel]


class Health(BaseModel):
    """The answer of /health."""

    status: Literal["ok"] = "ok"


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """Any answer with a status of 400 or more."""

    error: ErrorDetail
