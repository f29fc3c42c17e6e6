"""OpenAI's chat completion format: what is read from a request."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal

import msgspec

from local_models.catalog import Sampling
from local_models.chat import grammar, tools
from local_models.chat.sampling import Sampler
from local_models.chat.schedule import Lane
from local_models.chat.stream import Generation
from local_models.errors import InvalidRequest, Unsupported

Count = Annotated[int, msgspec.Meta(ge=1)]
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
MAX_STOPS, MAX_CHOICES, MAX_TOP_LOGPROBS, MAX_BIASES = 16, 16, 20, 1024

# Fields that ask for what this process does not do; null, an empty list, false and zero ask for nothing.
UNSUPPORTED = ("functions", "audio", "prediction", "web_search_options")


class Message(msgspec.Struct, frozen=True):
    """A message as it came; what is not text is refused in `texts`."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class StreamOptions(msgspec.Struct, frozen=True):
    """`include_usage` asks for a last chunk with the usage."""

    include_usage: bool | None = None


class ChatBody(msgspec.Struct, frozen=True):
    """The body of `/v1/chat/completions`; fields this process has no use for (`user`, `metadata` …) are ignored.

    From `top_k` on they are not OpenAI's: llama.cpp's names where it has them. `priority` is the lane.
    """

    messages: Annotated[list[Message], msgspec.Meta(min_length=1)]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Share | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)] | None = None
    response_format: dict[str, Any] | None = None
    tools: list[tools.Tool] | None = None
    tool_choice: Any = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    logit_bias: dict[str, float] | None = None
    functions: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
    top_k: Annotated[int, msgspec.Meta(ge=0)] | None = None
    min_p: Share | None = None
    repeat_penalty: Annotated[float, msgspec.Meta(gt=0, le=10)] | None = None
    ignore_eos: bool | None = None
    speculative: bool | None = None
    priority: Any = None

    @property
    def lane(self) -> Lane:
        """Whatever is not the batch lane's is interactive."""
        return "batch" if self.priority == "batch" else "interactive"


def check_supported(body: ChatBody) -> None:
    """Raise Unsupported naming the first field that asks for something this process does not do."""
    for field in UNSUPPORTED:
        if getattr(body, field):
            raise Unsupported(f"{field} is not supported by this model", field)
    if body.tools and (body.response_format or {}).get("type", "text") != "text":
        raise Unsupported("response_format beside tools is not supported by this model", "response_format")


def texts(messages: list[Message]) -> list[dict[str, Any]]:
    """Messages as chat templates take them: text parts joined, `developer` as `system`. Raises InvalidRequest."""
    return [_message(f"messages[{at}]", message) for at, message in enumerate(messages)]


def mentions_tools(messages: list[Message]) -> int | None:
    """The place of the first message that only a template with tools can render."""
    return next((at for at, each in enumerate(messages) if each.role == "tool" or each.tool_calls), None)


def _message(at: str, message: Message) -> dict[str, Any]:
    if message.role == "function":
        raise Unsupported("messages of role function are not supported by this model, use tool", at)
    role = "system" if message.role == "developer" else message.role
    rendered: dict[str, Any] = {"role": role, "content": _text(at, message)}
    if message.tool_calls:
        rendered["tool_calls"] = tools.rendered(message.tool_calls, at)
    if message.role == "tool":
        rendered |= {"tool_call_id": message.tool_call_id, "name": message.name}
    return rendered


def _text(at: str, message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    if message.content is None:
        if message.role == "assistant":
            return ""
        raise InvalidRequest(f"a {message.role} message needs content", f"{at}.content")
    return "".join(_part(f"{at}.content[{place}]", part) for place, part in enumerate(message.content))


def _part(param: str, part: dict[str, Any]) -> str:
    kind = part.get("type")
    if kind != "text":
        raise Unsupported(f"content parts of type {kind!r} are not supported by this model", param)
    text = part.get("text")
    if not isinstance(text, str):
        raise InvalidRequest("a text part needs a string in `text`", f"{param}.text")
    return text


def grammar_of(body: ChatBody, choice: tools.Choice) -> str:
    """The grammar an answer must follow, or empty. Raises InvalidRequest, Unsupported."""
    form = body.response_format or {}
    kind = form.get("type", "text")
    if kind == "text":
        return choice.grammar()
    if kind == "json_object":
        return grammar.json_object()
    if kind != "json_schema":
        raise InvalidRequest("response_format.type must be text, json_object or json_schema", "response_format")
    wrapped = form.get("json_schema")
    if not isinstance(wrapped, dict) or "schema" not in wrapped:
        raise InvalidRequest("response_format needs a json_schema with a schema", "response_format")
    try:
        return grammar.from_schema(wrapped["schema"])
    except grammar.SchemaUnsupported as error:
        raise Unsupported(f"the schema cannot be enforced: {error}", "response_format") from error


def generations(body: ChatBody, prompt: list[int], defaults: Sampling, form: str = "") -> list[Generation]:
    """The engine's requests, one a choice: the body's settings over the model's defaults. Raises InvalidRequest."""
    fields = ("temperature", "top_p", "top_k", "min_p", "repeat_penalty", "frequency_penalty", "presence_penalty")
    chosen = {field: getattr(body, field) for field in fields if getattr(body, field) is not None}
    seed = secrets.randbits(31) if body.seed is None else body.seed & 0x7FFFFFFF
    extra = {"logit_bias": _biases(body.logit_bias), "grammar": form}
    sampler = Sampler(**{**msgspec.to_builtins(defaults), **chosen, **extra})
    return [
        Generation(
            prompt=prompt,
            sampler=msgspec.structs.replace(sampler, seed=(seed + choice) & 0x7FFFFFFF),
            max_tokens=body.max_completion_tokens or body.max_tokens,
            stop=_stops(body.stop),
            lane=body.lane,
            ignore_eos=bool(body.ignore_eos),
            speculative=body.speculative is not False,
            logprobs=_logprobs(body),
            reproducible=body.seed is not None or sampler.temperature == 0,
        )
        for choice in range(body.n or 1)
    ]


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > MAX_STOPS:
        raise InvalidRequest(f"at most {MAX_STOPS} stop strings", "stop")
    return tuple(text for text in stops if text)


def _biases(biases: dict[str, float] | None) -> tuple[tuple[int, float], ...]:
    if biases and len(biases) > MAX_BIASES:
        raise InvalidRequest(f"at most {MAX_BIASES} biased tokens", "logit_bias")
    for token, bias in (biases or {}).items():
        if not token.isascii() or not token.isdigit() or not -100 <= bias <= 100:
            raise InvalidRequest("logit_bias maps token numbers to values from -100 to 100", "logit_bias")
    return tuple((int(token), bias) for token, bias in (biases or {}).items())


def _logprobs(body: ChatBody) -> int | None:
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs", "top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None
