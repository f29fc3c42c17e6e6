"""Anthropic's wire format through litellm itself: answers, usage, and every fault."""

import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from gateway.backends import translate
from gateway.backends.litellm_hosted import CONNECT_BOUND_S, LiteLLMBackend
from gateway.errors import UpstreamBroken, UpstreamError, UpstreamRefused, UpstreamTimeout, UpstreamUnavailable
from gateway.types import Usage
from tests.support.packet_drop import DropRelay
from tests.support.upstream import Plan, Upstream
from tests.unit.backends.support import chat, collect, until_broken

MODEL = "anthropic/claude-sonnet-4-5"


@pytest.fixture
async def up() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


@pytest.fixture
def backend(up: Upstream) -> LiteLLMBackend:
    return LiteLLMBackend("claude", MODEL, up.url, "sk-ant", connect_timeout=0.5, first_byte_timeout=20)


CACHED = {
    "message": {"usage": {"cache_creation_input_tokens": 5, "cache_read_input_tokens": 20}},
    "usage": {"cache_creation_input_tokens": 5, "cache_read_input_tokens": 20},
}


@pytest.mark.parametrize("stream", [False, True])
async def test_answers_in_openais_format_with_the_usage_reported(
    up: Upstream, backend: LiteLLMBackend, stream: bool
) -> None:
    up.default = Plan(text="Grüße from Claude", prompt_tokens=30, completion_tokens=7, cached_tokens=20, extra=CACHED)
    chunks = await collect(backend, chat(stream=stream, max_tokens=50, temperature=0.5))
    assert "".join(chunk.text for chunk in chunks) == "Grüße from Claude"
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
    usage = [chunk.usage for chunk in chunks if chunk.usage][-1]
    assert usage == Usage(prompt_tokens=35, completion_tokens=7, cached_tokens=20, cache_write_tokens=5)
    body = msgspec.json.decode(chunks[0].data)
    assert body["object"] == ("chat.completion.chunk" if stream else "chat.completion")
    assert chunks[0].final is not stream
    if stream:
        assert msgspec.json.decode(chunks[-1].data)["choices"] == []
        assert [chunk.usage_only for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    (received,) = up.requests
    assert received.path == "/v1/messages"
    assert (received.json["model"], received.json["max_tokens"]) == ("claude-sonnet-4-5", 50)
    assert received.json["temperature"] == 0.5
    assert received.header("x-api-key") == "sk-ant"


@pytest.mark.parametrize("stream", [False, True])
async def test_tool_calls(up: Upstream, backend: LiteLLMBackend, stream: bool) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
    up.default = Plan(tool_calls=(call,))
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    chunks = await collect(backend, chat(stream=stream, tools=tools))
    assert any(chunk.tool_calls for chunk in chunks)
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["tool_calls"]
    assert up.requests[0].json["tools"][0]["name"] == "f"


async def test_a_client_cannot_steer_litellm(up: Upstream, backend: LiteLLMBackend) -> None:
    evil: dict[str, Any] = {
        "api_base": "http://127.0.0.1:9",
        "api_key": "theirs",
        "mock_response": "fake",
        "extra_headers": {"x": "y"},
    }
    (chunk,) = await collect(backend, chat(**evil, metadata={"user_id": "u"}, custom_llm_provider="openai"))
    assert chunk.text == "You said: hello"
    assert up.requests[0].header("x-api-key") == "sk-ant"
    assert up.requests[0].header("x") is None


@pytest.mark.parametrize(
    ("plan", "error", "status", "code"),
    [
        (Plan(status=400), UpstreamRefused, 400, "upstream_refused"),
        (Plan(status=401), UpstreamUnavailable, 502, "upstream_auth"),
        (Plan(status=403), UpstreamUnavailable, 502, "upstream_auth"),
        (Plan(status=404), UpstreamRefused, 404, "upstream_refused"),
        (Plan(status=429, headers={"retry-after": "7"}), UpstreamUnavailable, 429, "rate_limit_exceeded"),
        (Plan(status=500), UpstreamUnavailable, 500, "upstream_unavailable"),
        (Plan(status=529), UpstreamUnavailable, 500, "upstream_unavailable"),
        (Plan(drop_connect=True), UpstreamUnavailable, 502, "upstream_unavailable"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_each_fault_before_the_first_chunk(
    up: Upstream, backend: LiteLLMBackend, plan: Plan, error: type[UpstreamError], status: int, code: str, stream: bool
) -> None:
    up.default = plan
    with pytest.raises(error) as caught:
        await collect(backend, chat(stream=stream))
    assert (caught.value.status, caught.value.code) == (status, code)
    assert caught.value.retry_after == (7.0 if plan.status == 429 else None)
    assert "litellm" not in caught.value.message or plan.drop_connect
    assert up.total == 1
    assert not getattr(caught.value, "connect", False)


@pytest.mark.parametrize("plan", [Plan(cut_after=2), Plan(garbage_after=2)])
async def test_a_broken_stream_does_not_pass_for_an_answer(up: Upstream, backend: LiteLLMBackend, plan: Plan) -> None:
    up.default = plan
    chunks = await until_broken(backend, chat(stream=True))
    assert "".join(chunk.text for chunk in chunks) == "You sai"
    assert not any(chunk.finish_reason for chunk in chunks)


async def test_usage_that_litellm_made_up_is_not_reported(up: Upstream, backend: LiteLLMBackend) -> None:
    up.default = Plan(usage="missing")
    chunks = await collect(backend, chat(stream=True))
    assert "".join(chunk.text for chunk in chunks) == "You said: hello"
    assert not any(chunk.usage or b'"usage"' in chunk.data for chunk in chunks)


async def test_an_upstream_that_is_not_there_or_swallows_packets(up: Upstream) -> None:
    gone = LiteLLMBackend("m", MODEL, "http://127.0.0.1:9", "k")
    with pytest.raises(UpstreamUnavailable) as caught:
        await collect(gone, chat())
    assert caught.value.connect
    assert gone.probed
    assert not await gone.reachable()
    async with DropRelay(up.port) as relay:
        relay.drop()
        swallowed = LiteLLMBackend("m", MODEL, relay.base_url.removesuffix("/v1"), "k")
        started = time.perf_counter()
        with pytest.raises(UpstreamUnavailable) as caught:
            await collect(swallowed, chat())
        assert (caught.value.code, caught.value.connect) == (translate.UNREACHABLE, True)
        assert time.perf_counter() - started < 20 * CONNECT_BOUND_S  # a kernel gives up after minutes


async def test_bounds_of_time(up: Upstream) -> None:
    await collect(LiteLLMBackend("m", MODEL, up.url, "k"), chat())  # litellm's first call takes its time
    up.default = Plan(hang=True)
    backend = LiteLLMBackend("m", MODEL, up.url, "k", first_byte_timeout=0.2)
    for stream in (False, True):
        with pytest.raises(UpstreamTimeout) as caught:
            await collect(backend, chat(stream=stream))
        assert caught.value.code == "upstream_timeout"
    with pytest.raises(UpstreamTimeout) as caught:
        await collect(backend, chat(), timeout_s=0.1)
    assert caught.value.code == translate.DEADLINE
    up.default = Plan(chunk_delay_s=30)
    with pytest.raises(UpstreamBroken) as broken:
        await collect(LiteLLMBackend("m", MODEL, up.url, "k"), chat(stream=True), timeout_s=0.5)
    assert broken.value.code == translate.DEADLINE


def test_nothing_imports_litellm_before_it_is_needed() -> None:
    code = "import sys, gateway.backends.fleet; sys.exit('litellm' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_backend_without_base_url_cannot_be_probed() -> None:
    backend: Any = LiteLLMBackend("m", MODEL, None, "k")
    assert not backend.probed
