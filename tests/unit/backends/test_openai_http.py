"""The fast path over real sockets: what leaves, what comes back, and what becomes of every fault."""

import gzip
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.backends import openai_http, translate
from gateway.backends.openai_http import OpenAIBackend
from gateway.errors import UpstreamBroken, UpstreamError, UpstreamRefused, UpstreamTimeout, UpstreamUnavailable
from gateway.types import RequestOptions
from tests.support.upstream import Plan, Upstream
from tests.unit.backends.support import chat, collect, http, saying, until_broken

REPLY = b'{"choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}]}'


@pytest.fixture
async def up() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


@pytest.fixture
async def backend(up: Upstream) -> AsyncIterator[OpenAIBackend]:
    backend = OpenAIBackend("big", "gpt-4o", up.base_url, "sk-1", connect_timeout=0.5, first_byte_timeout=5)
    yield backend
    await backend.close()


async def test_asks_plainly_and_streams(up: Upstream, backend: OpenAIBackend) -> None:
    (plain,) = await collect(backend, chat())
    assert (plain.text, plain.final, plain.finish_reason) == ("You said: hello", True, "stop")
    assert plain.usage is not None
    assert plain.usage.completion_tokens == 3
    chunks = await collect(backend, chat(stream=True))
    assert "".join(chunk.text for chunk in chunks) == "You said: hello"
    assert chunks[-1].usage_only
    assert {received.model for received in up.requests} == {"gpt-4o"}


async def test_only_our_own_headers_reach_upstream(up: Upstream, backend: OpenAIBackend, monkeypatch: Any) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    forward = (("OpenAI-Beta", "x"), ("authorization", "Bearer client"))
    await collect(backend, chat(options=RequestOptions(forward_headers=forward)))
    await collect(backend, chat())
    sent = [{name.lower() for name, _ in received.headers} for received in up.requests]
    own = {"host", "user-agent", "accept", "accept-encoding", "content-type", "content-length", "authorization"}
    assert sent == [own | {"openai-beta"}, own]
    assert [received.header("authorization") for received in up.requests] == ["Bearer sk-1", "Bearer sk-1"]


async def test_without_a_key_there_is_no_authorization(up: Upstream) -> None:
    backend = OpenAIBackend("open", "m", up.base_url + "/")
    await collect(backend, chat())
    await backend.close()
    assert up.requests[0].header("authorization") is None
    assert up.requests[0].path == "/v1/chat/completions"


async def test_one_connection_serves_plain_calls_and_streams_in_turn(up: Upstream, backend: OpenAIBackend) -> None:
    for stream in (False, True, True, False):
        await collect(backend, chat(stream=stream))
    assert len(up._connections) == 1


async def test_a_body_over_a_mebibyte_arrives_whole(up: Upstream, backend: OpenAIBackend) -> None:
    await collect(backend, chat(padding="x" * 3_000_000))
    assert len(up.requests[0].json["padding"]) == 3_000_000


async def test_speaks_over_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "chat.sock")
    backend = OpenAIBackend("local", "m", "http://local/v1", uds=path)
    with pytest.raises(UpstreamUnavailable) as caught:
        await collect(backend, chat())
    assert caught.value.connect
    assert not await backend.reachable()
    async with saying(http(REPLY), http(b"", status="404 Not Found"), uds=path, then_close=False):
        assert [chunk.text for chunk in await collect(backend, chat())] == ["hi"]
        assert await backend.reachable()
    await backend.close()


@pytest.mark.parametrize(
    ("plan", "error", "code"),
    [
        (Plan(status=400), UpstreamRefused, "upstream_refused"),
        (Plan(status=401), UpstreamUnavailable, "upstream_auth"),
        (Plan(status=429, headers={"retry-after": "3"}), UpstreamUnavailable, "rate_limit_exceeded"),
        (Plan(status=500), UpstreamUnavailable, "upstream_unavailable"),
        (Plan(drop_connect=True), UpstreamUnavailable, "upstream_unavailable"),
        (Plan(status=302, headers={"location": "/v1/models"}), UpstreamUnavailable, "upstream_unavailable"),
        (Plan(cut_after=0), UpstreamBroken, "upstream_broken"),
        (Plan(garbage_after=0), UpstreamBroken, "upstream_broken"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_each_fault_before_the_first_chunk(
    up: Upstream, backend: OpenAIBackend, plan: Plan, error: type[UpstreamError], code: str, stream: bool
) -> None:
    up.default = plan
    with pytest.raises(error) as caught:
        await collect(backend, chat(stream=stream))
    assert caught.value.code == code
    assert up.total == 1


@pytest.mark.parametrize("plan", [Plan(cut_after=2), Plan(garbage_after=2)])
async def test_a_stream_that_breaks_after_it_began(up: Upstream, backend: OpenAIBackend, plan: Plan) -> None:
    up.default = plan
    chunks = await until_broken(backend, chat(stream=True))
    assert "".join(chunk.text for chunk in chunks) == "You sai"


async def test_a_hanging_upstream_times_out(up: Upstream) -> None:
    up.default = Plan(hang=True)
    backend = OpenAIBackend("m", "m", up.base_url, first_byte_timeout=0.1)
    with pytest.raises(UpstreamTimeout) as caught:
        await collect(backend, chat())
    assert caught.value.code == "upstream_timeout"
    with pytest.raises(UpstreamTimeout) as caught:
        await collect(backend, chat(), timeout_s=0.05)
    assert caught.value.code == translate.DEADLINE
    await backend.close()


async def test_a_stream_that_stalls_or_outlives_the_deadline_is_broken(up: Upstream) -> None:
    up.default = Plan(chunk_delay_s=30)
    backend = OpenAIBackend("m", "m", up.base_url, first_byte_timeout=0.1)
    with pytest.raises(UpstreamBroken):
        await collect(backend, chat(stream=True))
    await backend.close()
    patient = OpenAIBackend("m", "m", up.base_url)
    with pytest.raises(UpstreamBroken) as caught:
        await collect(patient, chat(stream=True), timeout_s=0.1)
    assert caught.value.code == translate.DEADLINE
    await patient.close()


async def test_a_refused_connection_cannot_have_been_billed() -> None:
    backend = OpenAIBackend("m", "m", "http://127.0.0.1:9/v1")
    with pytest.raises(UpstreamUnavailable) as caught:
        await collect(backend, chat())
    assert caught.value.connect
    assert not await backend.reachable()
    await backend.close()


async def test_a_kept_connection_that_upstream_had_closed_is_told_from_a_broken_call() -> None:
    async with saying(http(REPLY), b"", then_close=False) as url:
        backend = OpenAIBackend("m", "m", url)
        await collect(backend, chat())
        with pytest.raises(UpstreamUnavailable) as caught:
            await collect(backend, chat())
        assert (caught.value.code, caught.value.connect) == (translate.STALE, True)
        await backend.close()
    async with saying(b"") as url:
        backend = OpenAIBackend("m", "m", url)
        with pytest.raises(UpstreamUnavailable) as caught:
            await collect(backend, chat())
        assert (caught.value.code, caught.value.connect) == ("upstream_unavailable", False)
        await backend.close()


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", UpstreamUnavailable),
        (http(b"not gzip", head="content-encoding: gzip\r\n"), UpstreamError),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", UpstreamError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", UpstreamBroken),
        (b"HTTP/1.1 500 Oops\r\ncontent-length: 99\r\n\r\n{", UpstreamUnavailable),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n", UpstreamError),
    ],
)
async def test_a_server_that_speaks_something_else(reply: bytes, error: type[UpstreamError]) -> None:
    async with saying(reply) as url:
        backend = OpenAIBackend("m", "m", url)
        with pytest.raises(error):
            await collect(backend, chat())
        await backend.close()


async def test_a_compressed_reply_is_read_though_none_was_asked_for() -> None:
    async with saying(http(gzip.compress(REPLY), head="content-encoding: gzip\r\n")) as url:
        backend = OpenAIBackend("m", "m", url)
        (chunk,) = await collect(backend, chat())
        assert chunk.data == REPLY
        await backend.close()


async def test_a_reply_is_bounded_and_may_come_in_pieces(monkeypatch: pytest.MonkeyPatch, up: Upstream) -> None:
    monkeypatch.setattr(openai_http, "MAX_REPLY_BYTES", 1_000_000)
    monkeypatch.setattr(openai_http, "MAX_ERROR_BYTES", 1_000)
    backend = OpenAIBackend("m", "m", up.base_url)
    up.enqueue(
        Plan(text="x" * 900_000), Plan(text="x" * 1_000_000), Plan(status=400, error=b'{"error":"%s"}' % (b"x" * 2000))
    )
    (chunk,) = await collect(backend, chat())
    assert len(chunk.text) == 900_000
    with pytest.raises(UpstreamBroken):
        await collect(backend, chat())
    with pytest.raises(UpstreamRefused) as caught:
        await collect(backend, chat())
    assert caught.value.raw_body is None
    await backend.close()


async def test_the_end_of_a_stream_is_not_waited_for() -> None:
    event = b'data: {"choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    async with saying(head + b"%x\r\n%s\r\n" % (len(event), event), b"", then_close=False) as url:
        backend = OpenAIBackend("m", "m", url)
        started = time.perf_counter()
        assert [chunk.text for chunk in await collect(backend, chat(stream=True))] == ["hi"]
        assert time.perf_counter() - started < 60
        await backend.close()
