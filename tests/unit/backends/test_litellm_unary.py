"""Embeddings and moderations through litellm itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from gateway.backends.litellm_unary import LiteLLMUnary
from gateway.backends.unary import Operation
from gateway.errors import UpstreamRefused, UpstreamTimeout, UpstreamUnavailable
from gateway.types import ChatRequest, Chunk, Usage
from tests.support.upstream import Plan, Upstream


@pytest.fixture
async def up() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


async def ask(up: Upstream, operation: Operation, timeout_s: float | None = None, **body: Any) -> Chunk:
    model = "openai/text-embedding-3-small" if operation == "embeddings" else "openai/omni-moderation-latest"
    backend = LiteLLMUnary(operation, "it", model, up.base_url, "sk-none", first_byte_timeout=20)
    fields = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in body.items()}
    request = ChatRequest(id="r", model="it", messages=[], fields=fields)
    [chunk] = [chunk async for chunk in backend.chat(request, timeout_s=timeout_s)]
    return chunk


async def test_embeddings(up: Upstream) -> None:
    up.default = Plan(prompt_tokens=7)
    chunk = await ask(up, "embeddings", input=["one", "two"], dimensions=4, user="u", api_base="http://elsewhere")

    value = msgspec.json.decode(chunk.data)
    assert [(item["index"], len(item["embedding"])) for item in value["data"]] == [(0, 4), (1, 4)]
    assert (chunk.usage, chunk.final) == (Usage(prompt_tokens=7), True)
    assert up.requests[0].path == "/v1/embeddings"
    assert up.requests[0].json == {
        "model": "text-embedding-3-small",
        "input": ["one", "two"],
        "dimensions": 4,
        "user": "u",
    }


async def test_what_the_client_names_is_asked_for(up: Upstream) -> None:
    await ask(up, "embeddings", input=[1, 2], encoding_format="float")

    sent = up.requests[0].json
    assert (sent["input"], sent["encoding_format"]) == ([1, 2], "float")


async def test_what_upstream_does_not_count_is_not_reported(up: Upstream) -> None:
    up.default = Plan(usage="missing")
    assert (await ask(up, "embeddings", input="text")).usage is None


async def test_moderations(up: Upstream) -> None:
    chunk = await ask(up, "moderations", input=["fine", "flagged"])

    assert [result["flagged"] for result in msgspec.json.decode(chunk.data)["results"]] == [False, True]
    assert up.requests[0].json == {"model": "omni-moderation-latest", "input": ["fine", "flagged"]}


@pytest.mark.parametrize("operation", ["embeddings", "moderations"])
async def test_failures_are_ours(up: Upstream, operation: Operation) -> None:
    up.enqueue(Plan(status=400), Plan(status=429), Plan(status=500), Plan(hang=True))

    with pytest.raises(UpstreamRefused):
        await ask(up, operation, input="text")
    for status in (429, 500):
        with pytest.raises(UpstreamUnavailable) as failed:
            await ask(up, operation, input="text")
        assert failed.value.upstream_status in (status, None)
    with pytest.raises(UpstreamTimeout):
        await ask(up, operation, timeout_s=0.2, input="text")
    assert len(up.requests) == 4
