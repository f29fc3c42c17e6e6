"""Identical requests at the same time: one upstream call, an answer and a row for each of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from gateway.types import LedgerEntry
from tests.support.gateway import Gateway, events, said
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

MANY = 200
PROMPT = "What is the capital of France?"
TEXT = "Paris is the capital of France"
ANSWER = Plan(text=TEXT, chunks=6)


@pytest_asyncio.fixture(loop_scope="module")
async def key(gate: Gateway) -> str:
    return await gate.key(budget_usd=1)


class Reply:
    """One of many: what httpx needs seconds for, aiohttp does at once."""

    def __init__(self, status: int, headers: Any, text: str) -> None:
        self.status, self.headers, self.text = status, headers, text

    @property
    def said(self) -> str:
        if self.text.startswith("data:"):
            return said(events(self.text))
        return str(json.loads(self.text)["choices"][0]["message"]["content"])


@pytest_asyncio.fixture(loop_scope="module")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as opened:
        yield opened


async def _ask(session: aiohttp.ClientSession, gate: Gateway, key: str, body: dict[str, Any]) -> Reply:
    content = {"model": "auto", "messages": [{"role": "user", "content": PROMPT}], **body}
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with session.post(f"{gate.base_url}/chat/completions", json=content, headers=headers) as reply:
        return Reply(reply.status, reply.headers, await reply.text())


Ask = Callable[..., list[asyncio.Task[Reply]]]


@pytest.fixture
def ask(session: aiohttp.ClientSession, gate: Gateway) -> Ask:
    def asking(key: str, count: int, **body: Any) -> list[asyncio.Task[Reply]]:
        return [asyncio.create_task(_ask(session, gate, key, body)) for _ in range(count)]

    return asking


@pytest_asyncio.fixture(loop_scope="module")
async def held(gate: Gateway) -> AsyncIterator[asyncio.Event]:
    """Upstream is not called before this is set, however slow the machine."""
    fleet, free = gate.runtime.view.fleet, asyncio.Event()
    real = fleet.call

    async def call(*args: Any, **more: Any) -> Any:
        await free.wait()
        return await real(*args, **more)

    fleet.call = call  # type: ignore[method-assign]
    yield free
    fleet.call = real  # type: ignore[method-assign]


async def together(gate: Gateway, count: int) -> None:
    """Until so many are waiting for an answer."""
    await until(
        lambda: sum(len(call._listeners) for call in gate.runtime.pipeline.calls._calls.values()) == count, within_s=30
    )


async def crowd(
    gate: Gateway, ask: Ask, key: str, count: int, before: int = 0, **body: Any
) -> list[asyncio.Task[Reply]]:
    """So many requests that wait for one call, beside those ``before``; a few at a time: the client shares a loop."""
    tasks: list[asyncio.Task[Reply]] = []
    while len(tasks) < count:
        tasks += ask(key, min(20, count - len(tasks)), **body)
        await together(gate, before + len(tasks))
    return tasks


def tiers(replies: list[Reply]) -> Counter[str]:
    return Counter(reply.headers["x-gateway-cache"] for reply in replies)


def one_paid(rows: list[LedgerEntry], others: int) -> None:
    """One row with the true cost; the others cost nothing and have saved what a hit would have."""
    [paid] = [row for row in rows if row.cache == "miss"]
    shared = [row for row in rows if row.cache == "coalesced"]
    assert len(shared) == others
    assert (paid.cost_nano > 0, paid.usage_source, paid.served) == (True, "reported", "hosted")
    assert {(row.cost_nano, row.saved_nano, row.served, row.model, row.status) for row in shared} == {
        (0, paid.cost_nano, "cache", "big", "ok")
    }
    assert {row.completion_tokens for row in shared} == {paid.completion_tokens}


async def test_two_hundred_at_once_are_one_call(
    gate: Gateway, upstream: Upstream, key: str, ask: Ask, held: asyncio.Event
) -> None:
    upstream.default = ANSWER
    asking = await crowd(gate, ask, key, MANY)
    held.set()
    replies = await asyncio.gather(*asking)

    assert len(upstream.requests) == 1
    assert {reply.said for reply in replies} == {TEXT}
    assert tiers(replies) == {"miss": 1, "coalesced": MANY - 1}
    assert Counter(json.loads(reply.text)["usage"]["cost_usd"] == 0 for reply in replies) == {True: MANY - 1, False: 1}
    assert len({reply.headers["x-gateway-request-id"] for reply in replies}) == MANY
    one_paid(await gate.rows(MANY), MANY - 1)
    await gate.nothing_held(key)


async def test_two_hundred_streams_at_once_are_one_call(
    gate: Gateway, upstream: Upstream, key: str, ask: Ask, held: asyncio.Event
) -> None:
    upstream.default = ANSWER
    asking = await crowd(gate, ask, key, MANY, stream=True, stream_options={"include_usage": True})
    held.set()
    replies = await asyncio.gather(*asking)

    assert len(upstream.requests) == 1
    assert {reply.said for reply in replies} == {TEXT}
    assert {events(reply.text)[-1]["usage"]["completion_tokens"] for reply in replies} == {6}
    assert tiers(replies) == {"miss": 1, "coalesced": MANY - 1}
    one_paid(await gate.rows(MANY), MANY - 1)


async def test_usage_is_told_to_those_who_asked_only(
    gate: Gateway, upstream: Upstream, key: str, ask: Ask, held: asyncio.Event
) -> None:
    asking = [*ask(key, 1, stream=True, stream_options={"include_usage": True}), *ask(key, 1, stream=True)]
    await together(gate, 2)
    held.set()
    asked, plain = [events(reply.text) for reply in await asyncio.gather(*asking)]

    assert len(upstream.requests) == 1
    assert (asked[-1]["choices"], "usage" in asked[-1]) == ([], True)
    assert not any("usage" in event for event in plain)


@pytest.mark.parametrize("stream", [False, True])
async def test_the_first_one_leaving_does_not_end_the_others(
    gate: Gateway, upstream: Upstream, key: str, ask: Ask, held: asyncio.Event, stream: bool
) -> None:
    upstream.default = ANSWER
    [first] = ask(key, 1, stream=stream)
    await together(gate, 1)
    others = await crowd(gate, ask, key, MANY - 1, before=1, stream=stream)

    first.cancel()
    await together(gate, MANY - 1)
    held.set()
    replies = await asyncio.gather(*others)

    assert len(upstream.requests) == 1
    assert {reply.said for reply in replies} == {TEXT}
    rows = await gate.rows(MANY)
    [paid] = [row for row in rows if row.cache == "miss"]
    assert (paid.status, paid.usage_source, paid.completion_tokens) == ("cancelled", "reported", 6)
    assert paid.cost_nano == sum(row.cost_nano for row in rows) > 0
    await gate.nothing_held(key)
    assert (await gate.budget(key))["spent"] == paid.cost_nano
    assert (await gate.chat(PROMPT, key=key)).headers["x-gateway-cache"] == "exact"


async def test_when_all_have_left_the_call_ends(gate: Gateway, upstream: Upstream, key: str, ask: Ask) -> None:
    upstream.default = Plan(hang=True)
    asking = ask(key, 3, stream=True)
    await upstream.wait_for(1)
    await together(gate, 3)

    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)

    await upstream.wait_for(1, "disconnected")
    rows = await gate.rows(3)
    assert {row.status for row in rows} == {"cancelled"}
    assert sum(row.cost_nano > 0 for row in rows) == 1  # the prompt was sent once
    await gate.nothing_held(key)


async def test_who_comes_late_hears_it_from_the_beginning(gate: Gateway, upstream: Upstream, key: str) -> None:
    upstream.default = Plan(text=TEXT, chunks=6, chunk_delay_s=0.3)
    async with gate.open(PROMPT, key=key) as early:
        lines = early.aiter_lines()
        heard = [await anext(lines) for _ in range(4)]
        async with gate.open(PROMPT, key=key) as late:
            assert late.headers["x-gateway-cache"] == "coalesced"
            whole = (await late.aread()).decode()
        heard += [line async for line in lines]

    assert said(events("\n".join(heard))) == said(events(whole)) == TEXT
    assert len(upstream.requests) == 1


async def test_what_the_request_is_to_blame_for_is_told_to_all(
    gate: Gateway, upstream: Upstream, key: str, ask: Ask, held: asyncio.Event
) -> None:
    upstream.default = Plan(status=400)
    asking = ask(key, 20)
    await together(gate, 20)
    held.set()
    replies = await asyncio.gather(*asking)

    assert len(upstream.requests) == 1
    assert {reply.status for reply in replies} == {400}
    assert len({reply.headers["x-gateway-request-id"] for reply in replies}) == 20
    assert {row.status for row in await gate.rows(20)} == {"error"}
    await gate.nothing_held(key)


async def test_what_may_pass_is_tried_again_by_one_of_the_others(
    gate: Gateway, upstream: Upstream, key: str, ask: Ask, held: asyncio.Event
) -> None:
    upstream.enqueue(Plan(status=500))
    asking = ask(key, 20)
    await together(gate, 20)
    held.set()
    replies = await asyncio.gather(*asking)

    assert len(upstream.requests) == 2
    assert Counter(reply.status for reply in replies) == {200: 19, 500: 1}
    await gate.nothing_held(key)


async def test_a_target_that_is_down_is_not_asked_by_everyone(
    gate: Gateway, upstream: Upstream, key: str, ask: Ask, held: asyncio.Event
) -> None:
    upstream.default = Plan(status=500)
    asking = await crowd(gate, ask, key, 50)
    held.set()
    replies = await asyncio.gather(*asking)

    assert len(upstream.requests) <= 3
    assert min(reply.status for reply in replies) == 500
    assert {row.cost_nano for row in await gate.rows(50)} == {0}


async def test_a_stream_that_breaks_breaks_for_all(
    gate: Gateway, upstream: Upstream, key: str, ask: Ask, held: asyncio.Event
) -> None:
    upstream.default = Plan(text=TEXT, chunks=6, cut_after=3)
    asking = ask(key, 10, stream=True)
    await together(gate, 10)
    held.set()
    replies = await asyncio.gather(*asking)

    assert len(upstream.requests) == 1
    assert {"[DONE]" in reply.text for reply in replies} == {False}
    rows = await gate.rows(10)
    assert {row.status for row in rows} == {"incomplete"}
    assert (sum(row.cost_nano > 0 for row in rows), sum(row.saved_nano for row in rows)) == (1, 0)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"x-gateway-cache": "no-cache"}, {}),
        ({"x-gateway-cache": "no-store"}, {}),
        ({}, {"logprobs": True}),
    ],
)
async def test_who_wants_an_answer_of_his_own_gets_one(
    gate: Gateway, upstream: Upstream, key: str, headers: dict[str, str], body: dict[str, Any]
) -> None:
    await asyncio.gather(*(gate.chat("Hi", key=key, headers=headers, **body) for _ in range(3)))

    assert len(upstream.requests) == 3


async def test_other_tenants_and_other_settings_do_not_share(
    gate: Gateway, upstream: Upstream, key: str, ask: Ask, held: asyncio.Event
) -> None:
    asking = [*ask(key, 2), *ask(await gate.key(), 2), *ask(key, 2, temperature=0), *ask("", 2)]
    await together(gate, 8)
    held.set()
    replies = await asyncio.gather(*asking)

    assert len(upstream.requests) == 4
    assert tiers(replies) == {"miss": 4, "coalesced": 4}


async def test_a_slow_reader_neither_holds_up_the_others_nor_loses_anything(gate: Gateway, upstream: Upstream) -> None:
    text = " ".join(f"word{number:06}" for number in range(60_000))
    upstream.default = Plan(text=text, chunks=600, completion_tokens=60_000, first_delay_s=0.5)
    async with contextlib.AsyncExitStack() as stack:
        slow = asyncio.create_task(stack.enter_async_context(gate.open("long")))
        await upstream.wait_for(1)
        quick = await asyncio.gather(*(gate.chat("long", stream=True) for _ in range(3)))
        late = (await (await slow).aread()).decode()

    assert [said(events(each.text)) == text for each in quick] == [True] * 3
    assert said(events(late)) == text
