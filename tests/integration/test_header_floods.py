"""Heads that are too large, endless or malformed, at a real worker: a clear refusal, and memory stays bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.support.gateway import Gateway, gateway, hosted
from tests.support.upstream import Upstream

CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
MIB = 1024 * 1024


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream.in_thread() as server:
        yield server


@pytest.fixture
async def gate(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Gateway]:
    async with gateway(tmp_path, [hosted("big", upstream.base_url)]) as under_test:
        yield under_test


async def sent(gate: Gateway, *pieces: bytes) -> bytes:
    """All that comes back until the gateway closes, or the first 64 KiB of it."""
    where = urlsplit(gate.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        async with asyncio.timeout(10):
            reading = asyncio.create_task(reader.read(65_536))
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                if reading.done():
                    break
                await asyncio.sleep(0)
            return await reading
    except ConnectionError:
        return await reading
    finally:
        writer.close()


def refused(reply: bytes) -> None:
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.split(b" ")[1] in (b"400", b"431"), reply
    assert b"content-type: application/json" in head.lower()
    assert b"connection: close" in head.lower()
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


async def answers(gate: Gateway) -> None:
    assert (await gate.chat("hello")).status_code == 200


@pytest.mark.parametrize(
    "pieces",
    [
        (CHAT, b"x-giant: " + b"a" * (100 * 1024), b"\r\n\r\n"),
        (CHAT, *(b"x-%d: a\r\n" % n for n in range(20_000)), b"\r\n"),
        (CHAT, *(b"x: " + b"b" * 1000 + b"\r\n" for _ in range(200)), b"\r\n"),
        (b"GET /" + b"a" * (100 * 1024), b" HTTP/1.1\r\nhost: localhost\r\n\r\n"),
        (b"n" * (100 * 1024),),
        (b"nonsense\r\n\r\n",),
        (b"GET / HTTP/9.9\r\n\r\n",),
        (CHAT + b"content-length: ten\r\n\r\n",),
        (CHAT + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",),
    ],
    ids=["giant", "many", "repeated", "path", "no line", "nonsense", "version", "length", "smuggling", "tls"],
)
async def test_a_head_that_cannot_be_read_is_refused_in_json(
    gate: Gateway, upstream: Upstream, pieces: tuple[bytes, ...]
) -> None:
    refused(await sent(gate, *pieces))
    assert upstream.total == 0
    await answers(gate)


@pytest.mark.parametrize("endless", [b"a" * 65_536, b"x-y: z\r\n" * 8_192], ids=["one header", "small headers"])
async def test_a_head_that_never_ends_takes_no_memory(gate: Gateway, endless: bytes) -> None:
    await answers(gate)
    before = psutil.Process().memory_info().rss
    refused(await sent(gate, CHAT + b"x-endless: ", *(endless for _ in range(1_000))))
    assert psutil.Process().memory_info().rss - before < 16 * MIB
    await answers(gate)


async def test_large_bodies_with_small_heads_are_no_flood(gate: Gateway) -> None:
    """Several requests on one connection, each body far larger than a head may be, in one piece and in many."""
    for size in (60, 70, 200, 900):
        reply = await gate.chat("word " * (size * 1024 // 5))
        assert reply.status_code == 200, reply.text
    where = urlsplit(gate.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "x" * 300_000}]}).encode()
    for _ in range(3):
        writer.write(CHAT + b"content-length: %d\r\n\r\n" % len(body) + body)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 200")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(int(length.partition(b":")[2]))
    writer.close()


async def test_a_body_above_the_limit_is_refused_however_it_is_announced(gate: Gateway, upstream: Upstream) -> None:
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    announced = await sent(gate, CHAT + b"content-length: 99999999\r\n\r\n")
    streamed = await sent(gate, CHAT + b"transfer-encoding: chunked\r\n\r\n", *(chunk for _ in range(200)))
    for reply in (announced, streamed):
        assert reply.startswith(b"HTTP/1.1 413")
        assert b'"request_too_large"' in reply
    assert upstream.total == 0
    await answers(gate)


async def test_a_head_of_ordinary_size_passes(gate: Gateway) -> None:
    reply = await gate.chat("hello", headers={f"x-{n}": "a" * 1000 for n in range(50)})
    assert reply.status_code == 200
