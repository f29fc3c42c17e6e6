"""What a worker writes to the wire: whole replies in order, however the requests come and whatever the headers hold."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway import delivery
from tests.support.gateway import Gateway
from tests.support.upstream import Plan, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")


def request(text: str, *, version: str = "1.1", head: str = "", stream: bool = False) -> bytes:
    body = json.dumps({"model": "auto", "stream": stream, "messages": [{"role": "user", "content": text}]}).encode()
    return (
        f"POST /v1/chat/completions HTTP/{version}\r\nhost: localhost\r\ncontent-type: application/json\r\n{head}"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode() + body


async def read_reply(reader: asyncio.StreamReader) -> tuple[list[str], str]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
    (length,) = [line.partition(": ")[2] for line in head if line.startswith("content-length")]
    answer = json.loads(await reader.readexactly(int(length)))
    return head, answer["choices"][0]["message"]["content"]


async def test_requests_sent_without_waiting_are_answered_in_turn(gate: Gateway, upstream: Upstream) -> None:
    where = urlsplit(gate.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    upstream.enqueue(Plan(text="one", first_delay_s=0.2), Plan(text="two"), Plan(text="three"))
    writer.write(b"".join(request(f"question {number}") for number in range(3)))
    assert [(await read_reply(reader))[1] for _ in range(3)] == ["one", "two", "three"]
    writer.close()


@pytest.mark.parametrize(("version", "head"), [("1.0", ""), ("1.1", "connection: close\r\n")])
async def test_a_client_that_wants_the_connection_closed(
    gate: Gateway, upstream: Upstream, version: str, head: str
) -> None:
    where = urlsplit(gate.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    upstream.enqueue(Plan(text="hi"))
    writer.write(request("hello", version=version, head=head))
    lines, text = await read_reply(reader)
    assert (text, await reader.read()) == ("hi", b"")
    assert "connection: close" in lines
    writer.close()


async def test_a_large_reply_arrives_whole(gate: Gateway, upstream: Upstream) -> None:
    where = urlsplit(gate.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=1 << 25)
    upstream.enqueue(Plan(text="x" * 5_000_000), Plan(text="small"))
    writer.write(request("a large one") + request("a small one"))
    assert len((await read_reply(reader))[1]) == 5_000_000
    assert (await read_reply(reader))[1] == "small"
    writer.close()


async def test_no_header_can_be_smuggled_into_a_reply(
    gate: Gateway, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = delivery.response_headers

    def forged(*args: Any) -> list[tuple[str, str]]:
        return [*real(*args), ("x-gateway-route", "a\r\nset-cookie: b=c")]

    monkeypatch.setattr(delivery, "response_headers", forged)
    where = urlsplit(gate.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(request("hello"))
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"500 " in head
    assert b"set-cookie" not in head
    writer.close()
