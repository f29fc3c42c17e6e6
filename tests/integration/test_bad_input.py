"""What cannot be a request: refused in OpenAI's error format, nothing sent upstream, nothing charged, no row."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.support.gateway import Gateway, gateway, hosted
from tests.support.upstream import Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT = 300_000
JSON = {"content-type": "application/json"}
HI: Any = [{"role": "user", "content": "hi"}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream) -> AsyncIterator[Gateway]:
    folder, models = tmp_path_factory.mktemp("gate"), [hosted("big", upstream_server.base_url)]
    async with gateway(folder, models, server={"max_body_bytes": LIMIT}) as running:
        yield running


async def untouched(gate: Gateway, upstream: Upstream) -> None:
    """Nothing happened, and the gateway still answers."""
    assert upstream.requests == []
    await gate.rows(0)
    assert await gate.runtime.redis.hlen(gate.runtime.keys.intents) == 0
    assert (await gate.chat()).status_code == 200


def error_of(status: int, body: str) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(body)["error"]
    assert 400 <= status < 500
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    return error


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{} {}",
        b'{"model": "auto", "messages": [{"role": "user", "content": NaN}]}',
        b'{"model": "auto", "messages": [{"role": "user", "content": "\xff\xfe"}]}',
        b'{"model": "auto", "messages": [{"role": "user", "content": "\\ud800"}]}',
        '{"model": "auto", "messages": []}'.encode("utf-16"),
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"model": "auto", "messages": [{"role": "user", "content": %b}]}' % (b"[" * 50_000 + b"]" * 50_000),
        b'{"model": "auto", "messages": [{"role": "user", "content": "hi"}], "deep": %b}'
        % (b"[" * 50_000 + b"]" * 50_000),
    ],
    ids=[
        "nothing",
        "half",
        "array",
        "null",
        "two",
        "nan",
        "not-utf8",
        "half-a-surrogate",
        "utf16",
        "brackets",
        "braces",
        "deep-content",
        "deep-field",
    ],
)
async def test_what_is_not_json_is_refused(gate: Gateway, upstream: Upstream, body: bytes) -> None:
    reply = await gate.http.post("/v1/chat/completions", content=body, headers=JSON)

    error = error_of(reply.status_code, reply.text)
    assert (reply.status_code, error["type"], error["code"]) == (400, "invalid_request_error", "invalid_request")
    await untouched(gate, upstream)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": ...}, "model"),
        ({"model": 5}, "model"),
        ({"model": ""}, "model"),
        ({"model": "m" * 300}, "model"),
        ({"messages": ...}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [5]}, "messages[0]"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [*HI, {"role": 7, "content": "hi"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["hi"]}]}, "messages[0].content"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": 7}, "stream_options"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 1.5}, "n"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": []}, "top_p"),
        ({"tools": {}}, "tools"),
        ({"tools": ["t"]}, "tools[0]"),
        ({"stop": 5}, "stop"),
        ({"user": 5}, "user"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict) else value,
)
async def test_a_field_of_the_wrong_kind_is_named(
    gate: Gateway, upstream: Upstream, change: dict[str, Any], param: str
) -> None:
    body = {"model": "auto", "messages": HI, **change}
    body = {name: value for name, value in body.items() if value is not ...}

    reply = await gate.http.post("/v1/chat/completions", json=body)

    error = error_of(reply.status_code, reply.text)
    assert (reply.status_code, error["param"]) == (400, param)
    assert param in error["message"]
    await untouched(gate, upstream)


async def test_a_body_over_the_limit_is_refused_by_what_it_announces(gate: Gateway, upstream: Upstream) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {LIMIT + 1}\r\n"

    status, body = await spoken(gate, head.encode() + b"content-type: application/json\r\n\r\n")

    assert (status, error_of(status, body)["code"]) == (413, "request_too_large")
    await untouched(gate, upstream)


@pytest.mark.parametrize("announced", [None, "10"])
async def test_a_body_over_the_limit_is_refused_by_what_arrives(
    gate: Gateway, upstream: Upstream, announced: str | None
) -> None:
    def flood() -> Iterator[bytes]:
        head = b'{"model": "auto", "messages": [{"role": "user", "content": "'
        yield b"%x\r\n%b\r\n" % (len(head), head)
        for _ in range(LIMIT // 1000 + 5):
            yield b"3e8\r\n" + b"x" * 1000 + b"\r\n"

    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    length = f"content-length: {announced}\r\n".encode() if announced else b""
    status, body = await spoken(gate, head + length + b"transfer-encoding: chunked\r\n\r\n" + b"".join(flood()))

    error = error_of(status, body)
    assert (status, error["code"]) == ((400, "invalid_request") if announced else (413, "request_too_large"))
    await untouched(gate, upstream)


async def test_a_body_just_under_the_limit_is_read(gate: Gateway) -> None:
    frame = len(json.dumps({"model": "auto", "messages": [{"role": "user", "content": ""}]}, separators=(",", ":")))

    assert (await gate.chat("x" * (LIMIT - frame))).status_code == 200
    assert (await gate.chat("x" * (LIMIT - frame + 1))).status_code == 413


async def test_a_flood_of_headers_is_refused(gate: Gateway, upstream: Upstream) -> None:
    flood = b"".join(b"x-%d: %b\r\n" % (number, b"y" * 1000) for number in range(200))
    for head in (flood + b"\r\n", b"x-endless: " + b"y" * 200_000):
        status, body = await spoken(gate, b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n" + head)
        assert (status, error_of(status, body)["code"]) == (400, "invalid_request")
    await untouched(gate, upstream)


async def test_what_is_not_http_is_refused(gate: Gateway, upstream: Upstream) -> None:
    status, body = await spoken(gate, b"\x16\x03\x01 hello?\r\n\r\n")

    assert (status, error_of(status, body)["code"]) == (400, "invalid_request")
    await untouched(gate, upstream)


@pytest.mark.parametrize("offer", [b"Upgrade: h2c", b"upgrade: websocket", b"UPGRADE: TLS/1.2"])
async def test_the_offer_of_another_protocol_is_passed_over(gate: Gateway, offer: bytes) -> None:
    """Java's client makes one with its first request, and curl --http2."""
    body = json.dumps(
        {"model": "auto", "messages": [{"role": "user", "content": "Upgrade: me\r\nupgrade: too"}]}
    ).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade, HTTP2-Settings\r\n" + offer
    sent = b"\r\nhttp2-settings: AAEAAEAAAAIAAAAB\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"

    status, answer = await spoken(gate, head + sent % (len(body), body))

    assert (status, json.loads(answer)["choices"][0]["message"]["content"]) == (
        200,
        "You said: Upgrade: me\r\nupgrade: too",
    )


async def test_without_a_key_the_content_type_that_is_missing_is_named(gate: Gateway, upstream: Upstream) -> None:
    reply = await gate.http.post("/v1/chat/completions", content=json.dumps({"model": "auto", "messages": HI}))

    assert reply.status_code == 401
    assert "content-type must be application/json" in error_of(reply.status_code, reply.text)["message"]
    await untouched(gate, upstream)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/nope", 404),
        ("GET", "/", 404),
        ("GET", "/v1/chat/completions/", 404),
        ("GET", "/v1/embeddings", 405),
        ("GET", "/v1/models/gpt-17", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/healthz", 405),
    ],
)
async def test_a_path_or_method_that_does_not_exist(
    gate: Gateway, upstream: Upstream, method: str, path: str, status: int
) -> None:
    reply = await gate.http.request(method, path)

    assert reply.status_code == status
    error = error_of(reply.status_code, reply.text)
    assert path.split("/")[-1] in error["message"]
    assert error["type"] == "invalid_request_error"
    await untouched(gate, upstream)


async def test_an_upload_that_its_client_leaves_is_forgotten(gate: Gateway, upstream: Upstream) -> None:
    reader, writer = await connect(gate)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n")
    writer.write(b'content-length: 1000\r\n\r\n{"model": "auto", ')
    await writer.drain()
    writer.close()
    await writer.wait_closed()

    assert await reader.read() == b""
    await untouched(gate, upstream)


async def connect(gate: Gateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = gate.url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def spoken(gate: Gateway, said: bytes) -> tuple[int, str]:
    """Status and body of the reply to raw bytes."""
    reader, writer = await connect(gate)
    writer.write(said)
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).decode()
    length = next(line for line in head.lower().splitlines() if line.startswith("content-length"))
    body = await reader.readexactly(int(length.split(":")[1]))
    writer.close()
    return int(head.split()[1]), body.decode()
