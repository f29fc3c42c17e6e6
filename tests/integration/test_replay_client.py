"""A stored answer through the official client: nothing but the price tells it from a fresh one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai.types.chat import ChatCompletionChunk

from tests.support.gateway import Gateway
from tests.support.upstream import Plan, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = "Paris is the capital of France, and has been for a long while; some 2.1 million people live there."
ASK: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "What is the capital of France?"}]}
USAGE: dict[str, Any] = {"stream_options": {"include_usage": True}}


@pytest_asyncio.fixture(loop_scope="module")
async def client(gate: Gateway, upstream: Upstream) -> AsyncIterator[openai.AsyncOpenAI]:
    upstream.default = Plan(text=TEXT, chunks=7, cached_tokens=3)
    async with openai.AsyncOpenAI(base_url=gate.base_url, api_key=await gate.key(), max_retries=0) as made:
        yield made


async def streamed(gate: Gateway, client: openai.AsyncOpenAI, **more: Any) -> tuple[str, list[ChatCompletionChunk]]:
    """What the cache did, and the chunks."""
    raw = await client.chat.completions.with_raw_response.create(**(ASK | more), stream=True)
    chunks = [chunk async for chunk in raw.parse()]
    await gate.runtime.books.drain()
    return str(raw.headers["x-gateway-cache"]), chunks


def text_of(chunks: list[ChatCompletionChunk], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)


@pytest.mark.parametrize("first", ["plain", "stream"])
async def test_plain_and_stream_answer_for_each_other(gate: Gateway, client: openai.AsyncOpenAI, first: str) -> None:
    if first == "plain":
        fresh = await client.chat.completions.create(**ASK)
        await gate.runtime.books.drain()
        usage = fresh.usage
    else:
        usage = (await streamed(gate, client, **USAGE))[1][-1].usage

    raw = await client.chat.completions.with_raw_response.create(**ASK)
    plain = raw.parse()
    tier, chunks = await streamed(gate, client, **USAGE)

    assert (raw.headers["x-gateway-cache"], tier) == ("exact", "exact")
    assert plain.choices[0].message.content == text_of(chunks) == TEXT
    assert plain.choices[0].finish_reason == chunks[-2].choices[0].finish_reason == "stop"
    assert len(chunks) > 5
    assert max(len(choice.delta.content or "") for chunk in chunks for choice in chunk.choices) < len(TEXT) / 2
    for told in (plain.usage, chunks[-1].usage):
        assert told is not None
        assert usage is not None
        details = told.prompt_tokens_details
        assert (told.prompt_tokens, told.completion_tokens) == (usage.prompt_tokens, usage.completion_tokens)
        assert details is not None
        assert details.cached_tokens == 3
        extra = told.model_extra or {}
        assert (extra["cost_usd"], extra["saved_usd"] > 0) == (0, True)
    assert len({chunk.id for chunk in chunks} | {plain.id}) == 1


async def test_usage_is_told_only_where_it_was_asked_for(gate: Gateway, client: openai.AsyncOpenAI) -> None:
    await streamed(gate, client)
    tier, chunks = await streamed(gate, client)
    assert tier == "exact"
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


async def test_as_many_answers_as_were_asked_for(gate: Gateway, client: openai.AsyncOpenAI, upstream: Upstream) -> None:
    both = {
        "index": 1,
        "message": {"role": "assistant", "content": "It is Paris."},
        "finish_reason": "stop",
    }
    upstream.default = Plan(text=TEXT, extra={"choices": [{}, both]})
    await client.chat.completions.create(**ASK, n=2)
    await gate.runtime.books.drain()

    raw = await client.chat.completions.with_raw_response.create(**ASK, n=2)
    tier, chunks = await streamed(gate, client, n=2)

    assert [choice.message.content for choice in raw.parse().choices] == [TEXT, "It is Paris."]
    assert (tier, text_of(chunks), text_of(chunks, 1)) == ("exact", TEXT, "It is Paris.")
    assert (await streamed(gate, client))[0] == "miss"  # one answer is another request


async def test_log_probabilities_are_always_fresh(
    gate: Gateway, client: openai.AsyncOpenAI, upstream: Upstream
) -> None:
    upstream.default = Plan(text="a", extra={"choices": [{"logprobs": {"content": [{"token": "a", "logprob": -0.1}]}}]})
    for _ in range(2):
        raw = await client.chat.completions.with_raw_response.create(**ASK, logprobs=True)
        await gate.runtime.books.drain()
        assert raw.headers["x-gateway-cache"] == "miss"
    assert len(upstream.requests) == 2
