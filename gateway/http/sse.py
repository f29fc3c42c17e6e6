"""Server-sent events as OpenAI frames them."""

from __future__ import annotations

from collections.abc import Iterable

HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
DONE = b"data: [DONE]\n\n"


def head(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """The headers of a stream, encoded for ASGI: its own, then ``headers``."""
    return [*HEADERS, *[(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]]


def event(data: bytes) -> bytes:
    """One event; ``data`` is a line of JSON (pretty-printed JSON is sent line by line, as the standard asks)."""
    if b"\n" in data:
        return b"".join(b"data: %b\n" % line for line in data.splitlines()) + b"\n"
    return b"data: %b\n\n" % data


def named_event(name: str, data: bytes) -> bytes:
    """One event under its name, as Anthropic and OpenAI's Responses frame them; ``data`` is a line of JSON."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)
