"""What every Backend does, over each implementation and wire format."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from gateway.backends.litellm_hosted import LiteLLMBackend
from gateway.backends.openai_http import OpenAIBackend
from gateway.backends.resilient import Resilient
from gateway.errors import UpstreamBroken, UpstreamRefused, UpstreamTimeout, UpstreamUnavailable
from gateway.protocols import Backend
from gateway.types import Usage
from tests.support.upstream import Plan, Upstream
from tests.unit.backends.support import chat, collect, until_broken

BOUNDS: dict[str, Any] = {"connect_timeout": 0.5, "first_byte_timeout": 20.0}
Make = Callable[[str], Any]
MAKERS: dict[str, Make] = {
    "openai_http": lambda url: OpenAIBackend("m", "m", f"{url}/v1", "k", **BOUNDS),
    "resilient": lambda url: Resilient("m", OpenAIBackend("m", "m", f"{url}/v1", "k", **BOUNDS), max_retries=0),
    "litellm, anthropic": lambda url: LiteLLMBackend("m", "anthropic/claude-sonnet-4-5", url, "k", **BOUNDS),
    "litellm, openai": lambda url: LiteLLMBackend("m", "openai/m", f"{url}/v1", "k", **BOUNDS),
}


@pytest.fixture
async def up() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


@pytest.fixture(params=MAKERS)
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    made: list[Backend] = []

    def make(url: str) -> Backend:
        made.append(MAKERS[request.param](url))
        return made[-1]

    yield make
    for backend in made:
        await backend.close()


async def test_a_plain_call_is_one_final_chunk(up: Upstream, make: Make) -> None:
    up.default = Plan(text="Paris, naïvely", prompt_tokens=9, completion_tokens=4, cached_tokens=3)
    (chunk,) = await collect(make(up.url), chat())
    body = msgspec.json.decode(chunk.data)
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == chunk.text == "Paris, naïvely"
    assert (chunk.final, chunk.finish_reason) == (True, "stop")
    assert chunk.usage == Usage(prompt_tokens=9, completion_tokens=4, cached_tokens=3)


async def test_a_stream_is_a_chunk_an_event_and_reports_usage_unasked(up: Upstream, make: Make) -> None:
    up.default = Plan(text="Paris, naïvely", prompt_tokens=9, completion_tokens=4, cached_tokens=3)
    chunks = await collect(make(up.url), chat(stream=True))
    assert "".join(chunk.text for chunk in chunks) == "Paris, naïvely"
    assert len([chunk for chunk in chunks if chunk.text]) == 4
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
    assert [chunk.usage for chunk in chunks if chunk.usage] == [
        Usage(prompt_tokens=9, completion_tokens=4, cached_tokens=3)
    ]
    assert [chunk.usage_only for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert {msgspec.json.decode(chunk.data)["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert not any(chunk.final for chunk in chunks)


async def test_the_first_chunk_comes_before_the_answer_is_complete(up: Upstream, make: Make) -> None:
    up.default = Plan(chunk_delay_s=30)
    chunks = make(up.url).chat(chat(stream=True))
    async with asyncio.timeout(20):
        await anext(chunks)
    assert not up.requests[0].completed
    await chunks.aclose()
    await up.wait_for(1, "disconnected", within=20)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_clients_fault_is_refused(up: Upstream, make: Make, stream: bool) -> None:
    up.default = Plan(status=400)
    with pytest.raises(UpstreamRefused) as caught:
        await collect(make(up.url), chat(stream=stream))
    assert caught.value.status == 400
    assert caught.value.message == "The scripted upstream answers 400."


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [401, 429, 500])
async def test_what_another_target_may_answer_is_unavailable(
    up: Upstream, make: Make, status: int, stream: bool
) -> None:
    up.default = Plan(status=status, headers={"retry-after": "9"})
    with pytest.raises(UpstreamUnavailable) as caught:
        await collect(make(up.url), chat(stream=stream))
    assert caught.value.status == {401: 502}.get(status, status)
    if status == 429:
        assert caught.value.retry_after == 9
    assert up.total == 1


async def test_no_connection_is_told_from_a_failed_call(make: Make) -> None:
    with pytest.raises(UpstreamUnavailable) as caught:
        await collect(make("http://127.0.0.1:9"), chat())
    assert caught.value.connect


async def test_no_answer_in_time(up: Upstream, make: Make) -> None:
    backend = make(up.url)
    await collect(backend, chat())  # litellm's first call takes its time
    up.default = Plan(hang=True)
    for stream in (False, True):
        with pytest.raises(UpstreamTimeout):
            await collect(backend, chat(stream=stream), timeout_s=0.3)
    await up.wait_for(2, "disconnected", within=20)


async def test_cancelling_a_plain_call_hangs_up(up: Upstream, make: Make) -> None:
    up.default = Plan(hang=True)
    call = asyncio.create_task(collect(make(up.url), chat()))
    await up.wait_for(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await up.wait_for(1, "disconnected", within=20)


async def test_a_stream_that_breaks_off_is_broken(up: Upstream, make: Make) -> None:
    up.default = Plan(cut_after=2)
    chunks = await until_broken(make(up.url), chat(stream=True))
    assert "".join(chunk.text for chunk in chunks) == "You sai"
    with pytest.raises((UpstreamBroken, UpstreamUnavailable)):
        await collect(make(up.url), chat())
