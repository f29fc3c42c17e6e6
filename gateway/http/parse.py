"""Bytes to a :class:`ChatRequest`: what is read is typed and checked, everything else is kept as it came."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from gateway.errors import InvalidRequest
from gateway.types import ChatRequest, RequestOptions

FORWARDED = ("openai-beta", "anthropic-beta")
_CACHE = {"no-cache", "no-store", "only-if-cached"}
_AT = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_MISSING = re.compile(r"missing required field `(?P<name>[^`]+)`")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_TTL = re.compile(r"(?P<number>\d{1,9}(?:\.\d+)?)(?P<unit>[smhd]?)")
_TAGS_MAX, TEXT_MAX = 50, 200

# No model answers more tokens than this, and its worst case still fits the books' 64-bit nano-dollars.
Count = Annotated[int, msgspec.Meta(ge=1, le=100_000_000)]
Checked = TypeVar("Checked")


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Body(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    messages: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    logprobs: bool | int | None = None
    user: str | None = None
    metadata: Any = None
    tools: list[dict[str, Any]] | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None


_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_body = msgspec.json.Decoder(_Body)


def new_id() -> str:
    """A request id: its time, so that rows that come together lie together in the books' index, and chance."""
    return f"req_{time.time_ns() // 1_000_000:011x}{secrets.randbits(52):013x}"


def chat_request(raw: bytes, headers: Mapping[str, str], request_id: str) -> ChatRequest:
    """Read a chat completion request.

    Raises:
        InvalidRequest: naming the field or header.
    """
    fields, body = checked(raw, _body)
    _check_messages(body.messages)
    return ChatRequest(
        id=request_id,
        model=body.model,
        messages=body.messages,
        fields=fields,
        stream=bool(body.stream),
        include_usage=bool(body.stream and body.stream_options and body.stream_options.include_usage),
        max_tokens=max(body.max_completion_tokens or 0, body.max_tokens or 0) or None,
        n=body.n or 1,
        logprobs=bool(body.logprobs),
        user=_end_user(body)[:TEXT_MAX],
        options=options(headers),
        body_bytes=len(raw),
    )


def checked(raw: bytes, decoder: msgspec.json.Decoder[Checked]) -> tuple[dict[str, msgspec.Raw], Checked]:
    """A body's fields as they were written, and what ``decoder`` makes of it.

    Raises:
        InvalidRequest: it is no JSON object, or what ``decoder`` expects of a field is not so.
    """
    try:
        if not raw.isascii():
            raw.decode()
        fields = _fields.decode(raw)
        body = decoder.decode(raw)
    except UnicodeDecodeError:
        raise InvalidRequest("the body is not valid UTF-8") from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from None
    return fields, body


def _end_user(body: _Body) -> str:
    """``user``, or what Anthropic's clients say instead: ``metadata.user_id``."""
    if body.user:
        return body.user
    named = body.metadata.get("user_id") if isinstance(body.metadata, dict) else None
    return named if isinstance(named, str) else ""


def _invalid(message: str) -> InvalidRequest:
    at, missing = _AT.search(message), _MISSING.search(message)
    path = at["path"] if at else ""
    if missing:
        path = f"{path}.{missing['name']}" if path else missing["name"]
        return InvalidRequest(f"'{path}' is required", param=path)
    reason = message[: at.start()] if at else message
    reason = reason[0].lower() + reason[1:]
    return InvalidRequest(f"'{path}': {reason}" if path else f"the body: {reason}", param=path or None)


def _check_messages(messages: list[dict[str, Any]]) -> None:
    for index, message in enumerate(messages):
        if not isinstance(message.get("role"), str) or not message["role"]:
            param = f"messages[{index}].role"
            raise InvalidRequest(f"'{param}' must be a string", param=param)
        content = message.get("content")
        if content is None or isinstance(content, str):
            continue
        param = f"messages[{index}].content"
        if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
            raise InvalidRequest(f"'{param}' must be a string or a list of content parts", param=param)


def options(headers: Mapping[str, str]) -> RequestOptions:
    """What the ``x-gateway-*`` request headers ask for. Raises InvalidRequest naming the header."""
    given = {name: value.strip() for name, value in headers.items() if name.startswith("x-gateway-")}
    forwarded = tuple((name, headers[name]) for name in FORWARDED if name in headers)
    if not given:
        return RequestOptions(forward_headers=forwarded)
    cache: Any = given.get("x-gateway-cache", "").lower() or "default"
    if cache != "default" and cache not in _CACHE:
        raise _bad("x-gateway-cache", "no-cache, no-store or only-if-cached")
    return RequestOptions(
        cache=cache,
        cache_ttl_s=_ttl(given.get("x-gateway-cache-ttl")),
        tags=_tags(given.get("x-gateway-tags", "")),
        quality=_whole("x-gateway-quality", given, 0, 10),
        session=given.get("x-gateway-session", "")[:TEXT_MAX],
        deadline_ms=_whole("x-gateway-deadline-ms", given, 1, 86_400_000),
        forward_headers=forwarded,
    )


def _bad(header: str, wanted: str) -> InvalidRequest:
    return InvalidRequest(f"{header} must be {wanted}", param=header)


def _whole(header: str, given: Mapping[str, str], low: int, high: int) -> int | None:
    value = given.get(header)
    if not value:
        return None
    if len(value) > 12 or not value.isascii() or not value.isdigit() or not low <= int(value) <= high:
        raise _bad(header, f"a whole number from {low} to {high}")
    return int(value)


def _ttl(value: str | None) -> float | None:
    if not value:
        return None
    found = _TTL.fullmatch(value)
    if found is None or float(found["number"]) <= 0:
        raise _bad("x-gateway-cache-ttl", "a time above zero: seconds, or a number with s, m, h or d")
    return min(float(found["number"]) * _UNITS[found["unit"]], 365 * 86_400.0)


def _tags(value: str) -> tuple[str, ...]:
    tags = tuple(tag for part in value.split(",") if (tag := part.strip()))
    if len(tags) > _TAGS_MAX or any(len(tag) > TEXT_MAX for tag in tags):
        raise _bad("x-gateway-tags", f"at most {_TAGS_MAX} tags of at most {TEXT_MAX} characters")
    return tags
