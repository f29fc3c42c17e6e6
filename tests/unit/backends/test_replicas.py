"""Equal servers of one model: who is asked, and what happens when one is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import msgspec
import pytest

from gateway.backends.fleet import Fleet
from gateway.backends.openai_http import OpenAIBackend
from gateway.backends.replicas import SLACK, Replicas
from gateway.config import ModelConfig, load
from gateway.errors import UpstreamError, UpstreamRefused
from gateway.types import ChatRequest
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until
from tests.unit.backends.support import chat, collect, until_broken


@pytest.fixture
async def servers() -> AsyncIterator[list[Upstream]]:
    async with Upstream() as one, Upstream() as two, Upstream() as three:
        yield [one, two, three]


@pytest.fixture
async def replicas(servers: list[Upstream]) -> AsyncIterator[Replicas]:
    made = Replicas([OpenAIBackend("big", "m", server.base_url, connect_timeout=0.5) for server in servers])
    yield made
    await made.close()


def conversation(number: int, turns: int = 1) -> ChatRequest:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": f"question {number}"}]
    for turn in range(1, turns):
        messages += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": f"and {turn}?"}]
    return chat(messages=messages)


async def test_a_conversation_stays_with_its_server(servers: list[Upstream], replicas: Replicas) -> None:
    for turns in range(1, 6):
        await collect(replicas, conversation(1, turns))
    assert sorted(server.total for server in servers) == [0, 0, 5]


async def test_conversations_are_spread(servers: list[Upstream], replicas: Replicas) -> None:
    for number in range(60):
        await collect(replicas, conversation(number))
    assert all(server.total >= 8 for server in servers)


async def test_what_is_busy_gives_to_the_idlest(servers: list[Upstream], replicas: Replicas) -> None:
    for server in servers:
        server.default = Plan(first_delay_s=0.3)
    await asyncio.gather(*(collect(replicas, conversation(1)) for _ in range(12)))
    assert max(server.total for server in servers) <= 4 + SLACK
    assert min(server.total for server in servers) >= 2


async def test_one_that_is_away_is_passed_over(servers: list[Upstream], replicas: Replicas) -> None:
    for _ in range(3):
        await collect(replicas, conversation(1))
    (home,) = [server for server in servers if server.total]
    home.default = Plan(drop_connect=True)
    chunks = await collect(replicas, conversation(1))
    assert chunks[-1].text == "You said: question 1"
    before = home.total
    for _ in range(5):
        await collect(replicas, conversation(1))
    assert home.total - before <= 3  # its breaker keeps it out of the way


async def test_when_all_are_away_the_last_word_is_told(servers: list[Upstream], replicas: Replicas) -> None:
    for server in servers:
        server.default = Plan(status=503)
    with pytest.raises(UpstreamError) as error:
        await collect(replicas, conversation(1))
    assert error.value.upstream_status == 503
    assert [server.total for server in servers] == [1, 1, 1]


async def test_a_refusal_is_not_tried_elsewhere(servers: list[Upstream], replicas: Replicas) -> None:
    for server in servers:
        server.default = Plan(status=400)
    with pytest.raises(UpstreamRefused):
        await collect(replicas, conversation(1))
    assert sum(server.total for server in servers) == 1


async def test_what_has_begun_is_not_begun_again(servers: list[Upstream], replicas: Replicas) -> None:
    for server in servers:
        server.default = Plan(cut_after=2)
    request = chat(stream=True, messages=[{"role": "user", "content": "one two three four five six"}])
    assert await until_broken(replicas, request)
    assert sum(server.total for server in servers) == 1


async def test_leaving_frees_the_server(servers: list[Upstream], replicas: Replicas) -> None:
    for server in servers:
        server.default = Plan(chunk_delay_s=30)
    async with aclosing(replicas.chat(chat(stream=True))) as chunks:
        await anext(chunks)
    await until(lambda: all(replica.outstanding == 0 for replica in replicas._replicas))


async def test_several_base_urls_are_one_target(servers: list[Upstream]) -> None:
    urls = tuple(server.base_url for server in servers)
    model = ModelConfig(name="big", provider="openai_compatible", base_url=urls, api_key="k")
    settings = load(None, {})
    config = msgspec.structs.replace(settings.config, models=(model,))
    fleet = Fleet.build(msgspec.structs.replace(settings, config=config))
    for number in range(30):
        answer = await fleet.call(["big"], conversation(number))
        await answer.rest.aclose()
    assert all(server.total for server in servers)
    await fleet.close()
