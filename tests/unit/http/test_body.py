"""A body within its limit, whatever Content-Length says."""

from __future__ import annotations

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from gateway.errors import TooLarge
from gateway.http.body import read_body


class Wire:
    """Hands out the parts of a body, and counts how many were taken."""

    def __init__(self, *parts: bytes, leaves: bool = False) -> None:
        self.messages: list[Message] = [
            {"type": "http.request", "body": part, "more_body": leaves or index < len(parts) - 1}
            for index, part in enumerate(parts)
        ]
        if leaves:
            self.messages.append({"type": "http.disconnect"})
        self.taken = 0

    @property
    def receive(self) -> Receive:
        async def receive() -> Message:
            self.taken += 1
            return self.messages[self.taken - 1]

        return receive


@pytest.mark.parametrize(
    "parts", [(b"",), (b"abcdefghij",), (b"abc", b"", b"defghij"), tuple(b"%d" % n for n in range(10))]
)
async def test_a_body_up_to_the_limit_is_read_whole(parts: tuple[bytes, ...]) -> None:
    assert await read_body(Wire(*parts).receive, {"content-length": "x"}, 10) == b"".join(parts)


async def test_what_is_announced_as_too_large_is_not_even_read() -> None:
    wire = Wire(b"x")
    with pytest.raises(TooLarge, match="larger than 10 bytes"):
        await read_body(wire.receive, {"content-length": "11"}, 10)
    assert wire.taken == 0


@pytest.mark.parametrize("announced", ["", "3", "-1", "ten"])
async def test_what_turns_out_too_large_is_read_no_further(announced: str) -> None:
    wire = Wire(*(b"12345" for _ in range(100)))
    with pytest.raises(TooLarge):
        await read_body(wire.receive, {"content-length": announced}, 10)
    assert wire.taken == 3


async def test_a_client_that_leaves_halfway() -> None:
    with pytest.raises(ClientDisconnect):
        await read_body(Wire(b"half", leaves=True).receive, {}, 10)
