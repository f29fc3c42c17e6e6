"""The HTTP/1.1 client over real sockets: framing, bounds, and which connections are used again."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from gateway.backends import connect, http1
from gateway.backends.connect import Endpoint, reach
from gateway.backends.http1 import CannotConnect, DeadlinePassed, Disconnected, HttpFailure, Malformed, ReadTimeout
from tests.support.waiting import until
from tests.unit.backends.support import http, saying

HALF = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"
CERTIFICATE = Path(__file__).with_name("loopback.pem")  # for 127.0.0.1, signed by itself; good until 2126
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def endpoint(url: str, **options: Any) -> Endpoint:
    return Endpoint(url, **{"connect_timeout": 2.0, "read_timeout": 20.0, "timeout": 60.0, **options})


async def fetched(to: Endpoint, body: bytes = b"{}", **options: Any) -> tuple[int, bytes | None]:
    reply = await to.call(body, **options)
    try:
        return reply.status, await reply.whole(1 << 30)
    finally:
        reply.close()


@asynccontextmanager
async def served(serve: Serve, **options: Any) -> AsyncIterator[str]:
    """A server by its own words; gives the URL."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0, **options)
    scheme = "https" if options else "http"
    try:
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/x"
    finally:
        server.close()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head + await reader.readexactly(int(length[0].split(b":")[1]))


@pytest.mark.parametrize(
    ("said", "body"),
    [
        (http(b"hello"), b"hello"),
        (http(b""), b""),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nlater: 1\r\n\r\n",
            b"hello",
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil it hangs up", b"until it hangs up"),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", b"hi"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + http(b"hello"), b"hello"),
        (http(gzip.compress(b"x" * 5_000_000), head="Content-Encoding: GZIP\r\n"), b"x" * 5_000_000),
    ],
)
async def test_a_body_is_whole_however_it_is_framed(said: bytes, body: bytes) -> None:
    async with saying(said) as url:
        to = endpoint(url)
        assert await fetched(to) == (200, body)
        await to.close()


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 1\r\n\r\nx",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        http(b"not gzip", head="content-encoding: gzip\r\n"),
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 100_000,
        b"220 smtp.example.org ESMTP\r\n",
    ],
)
async def test_what_cannot_be_read_is_malformed(said: bytes) -> None:
    async with saying(said, then_close=False) as url:
        to = endpoint(url)
        with pytest.raises(Malformed):
            await fetched(to)
        await to.close()


async def test_what_ends_too_soon_is_disconnected() -> None:
    for said in (b"", b"HTTP/1.1 2", HALF):
        async with saying(said) as url:
            to = endpoint(url)
            with pytest.raises(Disconnected):
                await fetched(to)
            await to.close()


async def test_a_connection_is_used_again_unless_the_server_says_otherwise() -> None:
    for head, connections in (("", 1), ("connection: close\r\n", 3)):
        seen: list[Any] = []

        async def serve(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str = head, seen: list[Any] = seen
        ) -> None:
            seen.append(writer)
            while await read_request(reader):
                writer.write(http(b"ok", head=head))

        async with served(serve) as url:
            to = endpoint(url)
            for _ in range(3):
                assert await fetched(to) == (200, b"ok")
            assert len(seen) == connections
            await to.close()
            for writer in seen:
                writer.close()


async def test_bytes_nobody_asked_for_spoil_a_connection_and_no_answer() -> None:
    """Whatever follows an answer must never be taken for the answer to the next call, which may be somebody else's."""
    stray = http(b"somebody else's")
    async with saying(http(b"mine") + stray, http(b"not mine"), then_close=False) as url:
        to = endpoint(url)
        assert await fetched(to) == (200, b"mine")
        assert await fetched(to) == (200, b"not mine")
        assert len(to._open) == 1
        await to.close()


async def test_a_late_stray_answer_is_not_taken_for_the_next() -> None:
    more = asyncio.Event()
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        await read_request(reader)
        writer.write(http(b"answer %d" % count))
        await more.wait()
        writer.write(http(b"stray"))

    async with served(serve) as url:
        to = endpoint(url)
        assert await fetched(to) == (200, b"answer 1")
        more.set()
        await until(lambda: not to._open)
        assert await fetched(to) == (200, b"answer 2")
        await to.close()


async def test_leaving_a_reply_hangs_up_and_the_next_call_has_its_own_connection() -> None:
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(HALF)
        with suppress(ConnectionError):
            await reader.read()
        left.set()

    async with served(serve) as url:
        to = endpoint(url)
        reply = await to.call(b"{}")
        assert await reply.next() == b"half"
        reply.close()
        await asyncio.wait_for(left.wait(), 20)
        reply = await to.call(b"{}")
        assert await reply.next() == b"half"
        await to.close()
        with pytest.raises(Disconnected):
            await reply.next()


async def test_a_reply_nobody_reads_is_not_taken_in_without_end() -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
        while sent < 100_000_000:
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent += 100_000
        await read_request(reader)
        writer.write(http(b"again"))

    async with served(serve) as url:
        to = endpoint(url)
        reply = await to.call(b"{}")
        await until(lambda: reply._connection._paused)
        assert sent < 50_000_000
        assert reply._ahead < 4 * http1.READ_AHEAD_BYTES
        body = await reply.whole(1 << 30)
        assert len(body or b"") == 100_000_000
        assert await fetched(to) == (200, b"again")
        await to.close()


async def test_a_reply_that_came_whole_while_nobody_read_leaves_a_connection_that_reads() -> None:
    large = b"x" * (2 * http1.READ_AHEAD_BYTES)
    async with saying(http(large), http(b"next"), then_close=False) as url:
        to = endpoint(url)
        assert await fetched(to) == (200, large)
        assert await fetched(to) == (200, b"next")
        await to.close()


async def test_a_wait_and_a_whole_call_have_bounds_of_their_own() -> None:
    async def drips(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        try:
            while True:
                writer.write(b".")
                await writer.drain()
                await asyncio.sleep(0.02)
        except ConnectionError:
            pass

    async with served(drips) as url:
        to = endpoint(url, read_timeout=10.0, timeout=0.3)
        with pytest.raises(DeadlinePassed):
            await fetched(to)
        await to.close()
    async with saying(HALF, b"", then_close=False) as url:
        to = endpoint(url, read_timeout=0.1)
        with pytest.raises(ReadTimeout):
            await fetched(to)
        with pytest.raises(HttpFailure):
            await fetched(to, timeout_s=0.05)
        await to.close()


async def test_an_earlier_bound_is_kept_on_a_connection_that_has_had_a_later_one() -> None:
    async with saying(http(b"first"), HALF, b"", then_close=False) as url:
        to = endpoint(url, read_timeout=60.0)
        assert await fetched(to) == (200, b"first")
        async with asyncio.timeout(20):
            with pytest.raises(DeadlinePassed):
                await fetched(to, timeout_s=0.1)
        await to.close()


async def test_idle_connections_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "IDLE_S", 0.05)
    async with saying(http(b"ok"), then_close=False) as url:
        to = endpoint(url)
        await fetched(to)
        assert len(to._idle) == 1
        await until(lambda: not to._idle and not to._open)
        await to.close()


async def test_closing_ends_calls_under_way() -> None:
    async with saying(HALF, b"", then_close=False) as url:
        to = endpoint(url)
        call = asyncio.create_task(fetched(to))
        await until(lambda: bool(to._open))
        await to.close()
        with pytest.raises(Disconnected):
            await call
        with pytest.raises(HttpFailure):
            await fetched(to)


@pytest.mark.parametrize(
    "url", ["http://", "http://[::1", "http://h:99999/", "http://no-such-host.invalid/v1", "http://" + "a" * 300]
)
async def test_a_url_that_leads_nowhere(url: str) -> None:
    with pytest.raises(CannotConnect):
        await endpoint(url).call()
    assert await reach(url, connect_timeout=2.0) is None


@pytest.mark.parametrize("value", ["two\r\nlines", "smuggled\n", "key…"])
async def test_a_header_is_one_line_of_latin_1(value: str) -> None:
    with pytest.raises(CannotConnect):
        await endpoint("http://127.0.0.1:9", headers=[("Authorization", value)]).call()


async def test_the_request_line_and_host_are_what_the_url_says() -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await read_request(reader)).split(b"User-Agent")[0])
        writer.write(http(b"ok"))
        writer.close()

    async with served(serve) as url:
        base = url.removesuffix("/v1/x")
        to = endpoint(f"{base}/öffentlich/v1 x?api-version=2024-10-21")
        assert await fetched(to) == (200, b"ok")
        await to.close()
        port = base.rpartition(":")[2].encode()
    target = b"/%C3%B6ffentlich/v1%20x?api-version=2024-10-21"
    assert heads == [b"POST %b HTTP/1.1\r\nHost: 127.0.0.1:%b\r\n" % (target, port)]


async def test_tls_is_spoken_and_trust_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(CERTIFICATE)
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await read_request(reader):
            writer.write(http(b"secret"))

    async with served(serve, ssl=server_side) as url:
        to = endpoint(url)
        with pytest.raises(CannotConnect):
            await fetched(to)
        monkeypatch.setattr(connect, "_tls", lambda: trusting)
        assert [await fetched(to) for _ in range(2)] == [(200, b"secret")] * 2
        await to.close()
