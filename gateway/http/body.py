"""Reading a request's body within its limit, counted as it streams in: Content-Length alone proves nothing."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from gateway.errors import TooLarge


async def read_body(receive: Receive, headers: Mapping[str, str], limit: int) -> bytes:
    """The whole body.

    Raises:
        TooLarge: more than ``limit`` bytes are announced or arrive.
        ClientDisconnect: the client left before it was complete.
    """
    announced = headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limit:
        raise too_large(limit)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise too_large(limit)
        if not message.get("more_body", False):
            return b"".join((*parts, part)) if parts else part
        parts.append(part)


def too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit} bytes")
