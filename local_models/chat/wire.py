"""OpenAI's chat completion format: what is read from a request, what an answer is made of."""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Any, Literal

import msgspec

from local_models.catalog import Sampling
from local_models.chat.engine import Delta, Generation, Timings
from local_models.chat.model import Sampler
from local_models.errors import InvalidRequest, Unsupported

Count = Annotated[int, msgspec.Meta(ge=1)]
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
MAX_STOPS = 16

# Fields that ask for what this process does not do; null, an empty list, false and zero ask for nothing.
UNSUPPORTED = (
    "tools", "functions", "logprobs", "top_logprobs", "logit_bias", "audio", "prediction", "web_search_options",
)  # fmt: skip


class Message(msgspec.Struct, frozen=True):
    """A message as it came; what is not text is refused in `texts`."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None
    tool_calls: Any = None


class StreamOptions(msgspec.Struct, frozen=True):
    """`include_usage` asks for a last chunk with the usage."""

    include_usage: bool | None = None


class ChatBody(msgspec.Struct, frozen=True):
    """The body of `/v1/chat/completions`; fields this process has no use for (`user`, `metadata` …) are ignored."""

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    response_format: dict[str, Any] | None = None
    tools: Any = None
    functions: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    logit_bias: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None


def check_supported(body: ChatBody) -> None:
    """Raise Unsupported naming the first field that asks for something this process does not do."""
    for field in UNSUPPORTED:
        if getattr(body, field):
            raise Unsupported(f"{field} is not supported by this model", field)
    if body.n not in (None, 1):
        raise Unsupported("n other than 1 is not supported by this model", "n")
    if (body.response_format or {}).get("type", "text") != "text":
        raise Unsupported("response_format other than text is not supported by this model", "response_format")


def texts(messages: list[Message]) -> list[dict[str, str]]:
    """Messages as chat templates take them: text parts joined, `developer` as `system`. Raises Unsupported."""
    return [{"role": _role(at, message), "content": _text(at, message)} for at, message in enumerate(messages)]


def _role(at: int, message: Message) -> str:
    if message.role in ("tool", "function") or message.tool_calls:
        raise Unsupported("tool calls are not supported by this model", f"messages[{at}]")
    return "system" if message.role == "developer" else message.role


def _text(at: int, message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    if message.content is None:
        if message.role == "assistant":
            return ""
        raise InvalidRequest(f"a {message.role} message needs content", f"messages[{at}].content")
    return "".join(_part(f"messages[{at}].content[{place}]", part) for place, part in enumerate(message.content))


def _part(param: str, part: dict[str, Any]) -> str:
    kind = part.get("type")
    if kind != "text":
        raise Unsupported(f"content parts of type {kind!r} are not supported by this model", param)
    text = part.get("text")
    if not isinstance(text, str):
        raise InvalidRequest("a text part needs a string in `text`", f"{param}.text")
    return text


def generation(body: ChatBody, prompt: list[int], defaults: Sampling) -> Generation:
    """The engine's request: the body's own settings over the model's defaults. Raises InvalidRequest."""
    chosen = {
        field: getattr(body, field)
        for field in ("temperature", "top_p", "frequency_penalty", "presence_penalty")
        if getattr(body, field) is not None
    }
    seed = secrets.randbits(31) if body.seed is None else body.seed & 0x7FFFFFFF
    sampler = Sampler(**{**msgspec.to_builtins(defaults), **chosen, "seed": seed})
    return Generation(
        prompt=prompt,
        sampler=sampler,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        stop=_stops(body.stop),
        reproducible=body.seed is not None or sampler.temperature == 0,
    )


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > MAX_STOPS:
        raise InvalidRequest(f"at most {MAX_STOPS} stop strings", "stop")
    return tuple(text for text in stops if text)


def usage(timings: Timings) -> dict[str, Any]:
    """Token counts of a finished answer."""
    prompt = timings.prompt_n + timings.cache_n
    return {
        "prompt_tokens": prompt,
        "completion_tokens": timings.predicted_n,
        "total_tokens": prompt + timings.predicted_n,
        "prompt_tokens_details": {"cached_tokens": timings.cache_n},
    }


class Answer:
    """One answer's envelope: the same id and time in each of its chunks."""

    def __init__(self, model: str) -> None:
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def chunk(self, delta: dict[str, str], finish: str | None, **extra: Any) -> dict[str, Any]:
        """A chunk of the stream."""
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice], **extra}

    def usage_chunk(self, timings: Timings) -> dict[str, Any]:
        """The chunk after the last one, with no choices, where the client asked for usage."""
        return {**self._head, "object": "chat.completion.chunk", "choices": [], **_account(timings)}

    def whole(self, deltas: list[Delta]) -> dict[str, Any]:
        """The plain reply: the fold of the stream."""
        message = {"role": "assistant", "content": "".join(delta.text for delta in deltas), "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": deltas[-1].finish, "logprobs": None}
        timings = deltas[-1].timings
        assert timings is not None, "the last delta has timings"
        return {**self._head, "object": "chat.completion", "choices": [choice], **_account(timings)}


def _account(timings: Timings) -> dict[str, Any]:
    return {"usage": usage(timings), "timings": timings}
