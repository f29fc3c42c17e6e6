"""``POST /v1/completions``: OpenAI's legacy completions. The prompt is the one user message of a chat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from gateway.errors import InvalidRequest
from gateway.http import sse
from gateway.http.formats.exchange import Format
from gateway.http.formats.fields import Object, encoded, unsupported, wrong
from gateway.http.formats.spoken import listed
from gateway.http.parse import TEXT_MAX, Count, checked, options
from gateway.types import ChatRequest

# Told in other words, or refused unless it asks for nothing.
_NOT_A_CHATS = frozenset({"best_of", "echo", "logprobs", "max_tokens", "prompt", "suffix"})
_FINISHED = {"tool_calls": "stop", "function_call": "stop"}


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Body(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    prompt: Any
    best_of: int | None = None
    echo: bool | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=20)] | None = None
    max_tokens: Count | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    suffix: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    user: str | None = None


_body = msgspec.json.Decoder(_Body)


def read(raw: bytes, headers: Mapping[str, str], request_id: str) -> CompletionReply:
    """Raises InvalidRequest naming the field."""
    fields, body = checked(raw, _body)
    for name, asks in (("suffix", body.suffix), ("echo", body.echo), ("best_of", (body.best_of or 1) > 1)):
        if asks:
            raise unsupported(name)
    messages: list[Object] = [{"role": "user", "content": _prompt(body.prompt)}]
    found = {name: raw for name, raw in fields.items() if name not in _NOT_A_CHATS}
    found["messages"] = encoded(messages)
    if body.logprobs is not None:
        found["logprobs"] = encoded(True)
        if body.logprobs:
            found["top_logprobs"] = encoded(body.logprobs)
    request = ChatRequest(
        id=request_id,
        model=body.model,
        messages=messages,
        fields=found,
        stream=bool(body.stream),
        include_usage=bool(body.stream and body.stream_options and body.stream_options.include_usage),
        max_tokens=body.max_tokens,
        n=body.n or 1,
        logprobs=body.logprobs is not None,
        user=(body.user or "")[:TEXT_MAX],
        options=options(headers),
        body_bytes=len(raw),
        apart=f"max_tokens {body.max_tokens}" if body.max_tokens else "",
    )
    return CompletionReply(request)


COMPLETIONS = Format(read)


def _prompt(prompt: Any) -> str:
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and prompt:
        message = "'prompt': several prompts, and prompts of tokens, are not supported by this gateway: send one text"
        raise InvalidRequest(message, code="unsupported", param="prompt")
    raise wrong("prompt", "a string")


class CompletionReply:
    """An `Exchange`."""

    def __init__(self, request: ChatRequest) -> None:
        self.request = request
        self._lengths: dict[Any, int] = {}

    def whole(self, body: bytes) -> bytes:
        return msgspec.json.encode(self._told(msgspec.json.decode(body, type=dict[str, msgspec.Raw]), "message"))

    def event(self, data: bytes) -> bytes:
        """What says nothing in this format, such as whose turn it is, is passed over."""
        value = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        if "choices" not in value:  # an error
            return sse.event(data)
        told = self._told(value, "delta")
        spoken = any(choice["text"] or choice["finish_reason"] or choice["logprobs"] for choice in told["choices"])
        return sse.event(msgspec.json.encode(told)) if spoken or not told["choices"] else b""

    def end(self, *, complete: bool) -> bytes:
        return sse.DONE if complete else b""

    def _told(self, value: Mapping[str, msgspec.Raw], where: str) -> Object:
        given = msgspec.json.decode(value["choices"], type=list[Object] | None) or []
        choices = [self._choice(choice, where) for choice in given]
        head = {"id": f"cmpl-{self.request.id.removeprefix('req_')}", "object": "text_completion"}
        return {**value, **head, "choices": choices}

    def _choice(self, choice: Object, where: str) -> Object:
        said = choice.get(where) or {}
        text = said.get("content") or said.get("refusal") or ""
        index, finish = choice.get("index") or 0, choice.get("finish_reason")
        return {
            "index": index,
            "text": text if isinstance(text, str) else "",
            "logprobs": self._logprobs(index, choice.get("logprobs")),
            "finish_reason": _FINISHED.get(str(finish), finish),
        }

    def _logprobs(self, index: Any, known: Any) -> Object | None:
        """Of each token its text, its log-probability, the likeliest in its place, and where it begins."""
        told = known.get("content") if isinstance(known, dict) else None
        tokens = [one for one in listed(told) if isinstance(one.get("token"), str)]
        if not tokens:
            return None
        offsets, end = [], self._lengths.get(index, 0)
        for token in tokens:
            offsets.append(end)
            end += len(token["token"])
        self._lengths[index] = end
        return {
            "tokens": [token["token"] for token in tokens],
            "token_logprobs": [token.get("logprob") for token in tokens],
            "top_logprobs": [_likeliest(token) for token in tokens],
            "text_offset": offsets,
        }


def _likeliest(token: Object) -> dict[str, Any]:
    return {str(other.get("token")): other.get("logprob") for other in listed(token.get("top_logprobs"))}
