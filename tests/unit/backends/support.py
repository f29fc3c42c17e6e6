"""Requests to put to a backend, and servers that say exactly these bytes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec

from gateway.errors import UpstreamBroken
from gateway.types import ChatRequest, Chunk, RequestOptions


def chat(*, stream: bool = False, options: RequestOptions | None = None, **fields: Any) -> ChatRequest:
    """A request with this body, as the HTTP layer would hand it over."""
    messages = fields.pop("messages", [{"role": "user", "content": "hello"}])
    body = {"model": "auto", "messages": messages, **({"stream": True} if stream else {}), **fields}
    return ChatRequest(
        id="req-1",
        model="auto",
        messages=messages,
        fields=msgspec.json.decode(msgspec.json.encode(body), type=dict[str, msgspec.Raw]),
        stream=stream,
        options=options or RequestOptions(),
    )


async def collect(backend: Any, request: ChatRequest, **kwargs: Any) -> list[Chunk]:
    """Every chunk of the reply."""
    async with aclosing(backend.chat(request, **kwargs)) as chunks:
        return [chunk async for chunk in chunks]


async def until_broken(backend: Any, request: ChatRequest) -> list[Chunk]:
    """What came of a reply before it was UpstreamBroken; fails if it was not."""
    chunks = []
    try:
        async with aclosing(backend.chat(request)) as reply:
            async for chunk in reply:
                chunks.append(chunk)  # noqa: PERF401 - what came before the error is the point
    except UpstreamBroken:
        return chunks
    raise AssertionError("the reply is whole")


@asynccontextmanager
async def saying(*replies: bytes, then_close: bool = True, uds: str | None = None) -> AsyncIterator[str]:
    """A server whose connections answer the n-th request with the n-th of these bytes (none: it hangs up).

    Gives its base URL.
    """
    remaining = list(replies)
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            while remaining:
                head = await reader.readuntil(b"\r\n\r\n")
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                await reader.readexactly(int(length[0].split(b":")[1]) if length else 0)
                reply = remaining.pop(0)
                writer.write(reply)
                await writer.drain()
                if then_close or not reply:
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    if uds:
        server = await asyncio.start_unix_server(serve, uds)
    else:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield "http://local/v1" if uds else f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


def http(body: bytes, *, status: str = "200 OK", head: str = "") -> bytes:
    """A whole HTTP/1.1 reply."""
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{head}\r\n".encode() + body


class Clock:
    """A clock that stands still until it is set; seconds."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now
