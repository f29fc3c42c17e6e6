"""Reading the parts of a body: a wrong one is refused by its name."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec

from gateway.errors import InvalidRequest

Object = dict[str, Any]

# Fields of a chat that other formats' clients may give as well, by the chat's own names.
OF_A_CHAT = frozenset(
    {
        *("frequency_penalty", "logit_bias", "parallel_tool_calls", "presence_penalty", "prompt_cache_key"),
        *("reasoning_effort", "response_format", "seed", "service_tier", "temperature", "top_p", "verbosity"),
    }
)
# What a request says of itself and not of the answer it wants; the chat's cache passes over the same.
_NOT_APART = frozenset({"metadata", "model", "safety_identifier", "store", "stream", "stream_options", "user"})

SHOWN_NEXT = "(The user's next message shows what the tool returned.)"
"""What a tool's message says where its result is no text: a chat takes images from users only."""


def encoded(value: Any) -> msgspec.Raw:
    """A value as a field of a body."""
    return msgspec.Raw(msgspec.json.encode(value))


def wrong(param: str, wanted: str) -> InvalidRequest:
    return InvalidRequest(f"'{param}' must be {wanted}", param=param)


def unsupported(param: str, what: str = "") -> InvalidRequest:
    subject = f"'{param}': {what}" if what else f"'{param}'"
    return InvalidRequest(f"{subject} is not supported by this gateway", code="unsupported", param=param)


def text_of(holder: Mapping[str, Any], name: str, at: str) -> str:
    """A string that must be there."""
    value = holder.get(name)
    if not isinstance(value, str):
        raise wrong(f"{at}.{name}", "a string")
    return value


def objects(value: Any, at: str) -> Iterator[tuple[str, Object]]:
    """The items of a list of objects, each with where it stands."""
    if not isinstance(value, list):
        raise wrong(at, "a list")
    for place, item in enumerate(value):
        if not isinstance(item, dict):
            raise wrong(f"{at}[{place}]", "an object")
        yield f"{at}[{place}]", item


def plain(parts: list[Object]) -> str | list[Object]:
    """A chat's content: a text alone is a string."""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"} and parts[0]["type"] == "text":
        return str(parts[0]["text"])
    return parts


def returned_by(call_id: str) -> Object:
    """What stands before such a result in the user's message."""
    return {"type": "text", "text": f"Returned by the tool for the call {call_id}:"}


def digest(fields: Mapping[str, msgspec.Raw], turns: str, question: Any) -> str:
    """All that a body says but its ``question``, the last user turn, where that is nothing but text: whatever is lost
    on the way to a chat keeps two requests apart by this. ``turns`` is the field that ends with the question.
    """
    said = {name: _value(raw) for name, raw in fields.items() if name not in _NOT_APART}
    if question is not None:
        said[turns] = said[turns][:-1] if isinstance(said[turns], list) else None
    return hashlib.sha256(msgspec.json.encode(said, order="sorted")).hexdigest()[:32]


def _value(raw: msgspec.Raw) -> Any:
    """As it was written where it fits no number of ours."""
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:
        return raw


def kept(fields: Mapping[str, msgspec.Raw], names: Collection[str] = OF_A_CHAT) -> dict[str, msgspec.Raw]:
    """Those of a body's fields that a chat has under the same name, as they were written."""
    return {name: raw for name, raw in fields.items() if name in names and bytes(raw) != b"null"}
