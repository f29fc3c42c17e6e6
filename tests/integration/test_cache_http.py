"""The exact cache as clients see it: what is given again, to whom, and what never is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.support.gateway import Gateway, events, gateway, hosted, local, said
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SHORT = {"x-gateway-cache-ttl": "1s"}


@pytest_asyncio.fixture(loop_scope="module")
async def key(gate: Gateway) -> str:
    return await gate.key()


def tier(reply: httpx.Response) -> str:
    return str(reply.headers["x-gateway-cache"])


async def stored(gate: Gateway, count: int = 1) -> None:
    """Storing happens when a request is settled: wait until ``count`` answers are in the cache."""
    await gate.runtime.books.drain()
    assert await gate.runtime.redis.hlen(gate.runtime.keys.sizes) == count


async def test_the_same_request_again_is_answered_from_the_cache(gate: Gateway, key: str, upstream: Upstream) -> None:
    upstream.default = Plan(text="Paris")
    first = await gate.chat("What is the capital of France?", key=key)
    await stored(gate)

    again = await gate.chat("What is the capital of France?", key=key)

    assert (tier(first), tier(again)) == ("miss", "exact")
    assert again.json()["choices"] == first.json()["choices"]
    assert again.json()["id"] == first.json()["id"]
    assert len(upstream.requests) == 1


async def test_asked_again_at_once_it_is_in_the_cache_by_then(tmp_path: Path, upstream: Upstream) -> None:
    """Settling travels before the next request's first command, also where Redis has never run its script."""
    async with gateway(tmp_path, [hosted("big", upstream.base_url)]) as started:
        for country in ("France", "Finland", "Spain", "Italy", "Japan"):
            question = f"What is the capital of {country}?"
            asked = (question, question, question.lower().replace(" ", "  "))
            assert [tier(await started.chat(prompt)) for prompt in asked] == ["miss", "exact", "exact"]
    assert len(upstream.requests) == 5


@pytest.mark.parametrize(
    "prompt",
    [
        "what is the capital of france?",
        "WHAT IS THE CAPITAL OF FRANCE?",
        "  What is  the capital of France? ",
        "what is the capital of France",
    ],
)
async def test_other_case_and_spacing_is_the_same_question(
    gate: Gateway, key: str, upstream: Upstream, prompt: str
) -> None:
    await gate.chat("What is the capital of France?", key=key)
    await stored(gate)

    assert tier(await gate.chat(prompt, key=key)) == "exact"
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("prompt", "body"),
    [
        ("What is the capital of Finland?", {}),
        ("What is the capital, of France?", {}),
        ("What is the capital of France?", {"temperature": 0.5}),
        ("What is the capital of France?", {"max_tokens": 5}),
        ("What is the capital of France?", {"never_heard_of": 1}),
        ("What is the capital of France?", {"model": "big"}),
        ("What is the capital of France?", {"n": 2}),
    ],
)
async def test_another_question_or_other_settings_are_another_request(
    gate: Gateway, key: str, upstream: Upstream, prompt: str, body: dict[str, Any]
) -> None:
    await gate.chat("What is the capital of France?", key=key)
    await stored(gate)

    assert tier(await gate.chat(prompt, key=key, **body)) == "miss"
    assert len(upstream.requests) == 2


async def test_who_asks_and_for_whom_does_not_separate(gate: Gateway, key: str, upstream: Upstream) -> None:
    await gate.chat("Hi", key=key, user="ann", metadata={"a": "b"})
    await stored(gate)

    assert tier(await gate.chat("Hi", key=key, user="bob", store=False)) == "exact"


async def test_another_key_sees_none_of_it(gate: Gateway, key: str, upstream: Upstream) -> None:
    await gate.chat("Hi", key=key)
    await stored(gate)
    other = await gate.key()

    assert tier(await gate.chat("Hi", key=other)) == "miss"
    assert tier(await gate.chat("Hi")) == "miss"  # the anonymous caller neither
    assert tier(await gate.chat("hi", key=await gate.key(team="red"))) == "miss"
    assert len(upstream.requests) == 4


@pytest.mark.parametrize(("scope", "mate", "stranger"), [("team", "exact", "miss"), ("shared", "exact", "exact")])
async def test_a_policy_may_let_a_team_or_everybody_share(
    tmp_path: Path, upstream: Upstream, scope: str, mate: str, stranger: str
) -> None:
    policy: Any = {"name": "default", "cache": {"scope": scope}, "rules": [{"name": "all", "use": ["big"]}]}
    async with gateway(tmp_path, [hosted("big", upstream.base_url)], [policy]) as gate:
        await gate.chat("Hi", key=await gate.key(team="red"))
        await stored(gate)

        assert tier(await gate.chat("Hi", key=await gate.key(team="red"))) == mate
        assert tier(await gate.chat("Hi", key=await gate.key(team="blue"))) == stranger


async def test_no_cache_asks_again_and_replaces_what_was_stored(gate: Gateway, key: str, upstream: Upstream) -> None:
    upstream.enqueue(Plan(text="old"), Plan(text="new"))
    await gate.chat("Hi", key=key)
    await stored(gate)

    fresh = await gate.chat("Hi", key=key, headers={"x-gateway-cache": "no-cache"})
    await stored(gate)
    after = await gate.chat("Hi", key=key)

    assert (tier(fresh), fresh.json()["choices"][0]["message"]["content"]) == ("bypass", "new")
    assert (tier(after), after.json()["choices"][0]["message"]["content"]) == ("exact", "new")


async def test_no_store_keeps_nothing(gate: Gateway, key: str) -> None:
    await gate.chat("Hi", key=key, headers={"x-gateway-cache": "no-store"})
    await stored(gate, 0)

    assert tier(await gate.chat("Hi", key=key)) == "miss"


async def test_only_if_cached_never_asks_upstream(gate: Gateway, key: str, upstream: Upstream) -> None:
    refused = await gate.chat("Hi", key=key, headers={"x-gateway-cache": "only-if-cached"})
    await gate.chat("Hi", key=key)
    await stored(gate)
    found = await gate.chat("Hi", key=key, headers={"x-gateway-cache": "only-if-cached"})

    assert (refused.status_code, refused.json()["error"]["code"]) == (504, "cache_miss")
    assert (found.status_code, tier(found)) == (200, "exact")
    assert len(upstream.requests) == 1
    [row, *_] = await gate.rows(3)
    assert (row.status, row.cost_nano) == ("error", 0)


async def test_an_answer_is_forgotten_after_its_time(gate: Gateway, key: str) -> None:
    await gate.chat("Hi", key=key, headers=SHORT)
    await stored(gate)
    assert tier(await gate.chat("Hi", key=key)) == "exact"

    async def forgotten() -> bool:
        return (await gate.chat("Hi", key=key, headers={"x-gateway-cache": "only-if-cached"})).status_code == 504

    await until(forgotten)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-gateway-cache", "sometimes"),
        ("x-gateway-cache-ttl", "-1"),
        ("x-gateway-cache-ttl", "0s"),
        ("x-gateway-cache-ttl", "soon"),
        ("x-gateway-quality", "11"),
        ("x-gateway-deadline-ms", "0"),
    ],
)
async def test_a_header_that_makes_no_sense_is_refused_by_name(
    gate: Gateway, upstream: Upstream, name: str, value: str
) -> None:
    reply = await gate.chat(headers={name: value})

    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == name
    assert len(upstream.requests) == 0


async def test_a_stream_is_given_again_plain_and_the_other_way_round(
    gate: Gateway, key: str, upstream: Upstream
) -> None:
    upstream.default = Plan(text="The capital is Paris, of course.", chunks=5)
    async with gate.open("one", key=key) as reply:
        streamed = events((await reply.aread()).decode())
    plain = await gate.chat("two", key=key)
    await stored(gate, 2)

    plain_hit = await gate.chat("one", key=key)
    async with gate.open("two", key=key, stream_options={"include_usage": True}) as reply:
        stream_hit = events((await reply.aread()).decode())
        assert tier(reply) == "exact"

    assert tier(plain_hit) == "exact"
    [choice] = plain_hit.json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (said(streamed), "stop")
    assert plain_hit.json()["object"] == "chat.completion"
    assert said(stream_hit) == plain.json()["choices"][0]["message"]["content"]
    assert stream_hit[-2]["choices"][0]["finish_reason"] == "stop"
    assert stream_hit[-1]["usage"]["total_tokens"] == plain.json()["usage"]["total_tokens"]
    assert {event["object"] for event in stream_hit} == {"chat.completion.chunk"}
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "plan",
    [
        Plan(tool_calls=(CALL,)),
        Plan(text="cut", finish_reason="length"),
        Plan(text="hm", finish_reason="content_filter"),
        Plan(text=""),
        Plan(text="I'm sorry, but I can't assist with that."),
        Plan(text="one two three four", cut_after=2),
        Plan(text="one two three four", garbage_after=2),
        Plan(text="no count", usage="missing"),
        Plan(status=500),
        Plan(status=400),
    ],
    ids=["tools", "length", "filtered", "empty", "refusing", "cut", "garbage", "no-usage", "failed", "refused"],
)
async def test_what_is_not_a_clean_whole_answer_is_never_stored(
    gate: Gateway, key: str, upstream: Upstream, plan: Plan, stream: bool
) -> None:
    upstream.enqueue(plan)

    await gate.chat("Hi", key=key, stream=stream)
    await stored(gate, 0)

    assert tier(await gate.chat("Hi", key=key)) == "miss"


async def test_what_a_client_left_is_never_stored(gate: Gateway, key: str, upstream: Upstream) -> None:
    upstream.default = Plan(text="one two three four", chunks=4, chunk_delay_s=0.2)
    async with gate.open("Hi", key=key) as reply:
        await anext(reply.aiter_bytes())

    await gate.rows(1)
    await stored(gate, 0)


async def test_a_local_answer_and_one_that_had_to_stay_local_are_kept_apart(tmp_path: Path, upstream: Upstream) -> None:
    rules = [
        {"name": "stays", "when": "'confidential' in tags", "use": ["small"], "local_only": True},
        {"name": "rest", "use": ["big"]},
    ]
    models = [local("small", upstream.base_url), hosted("big", upstream.base_url)]
    async with gateway(tmp_path, models, [{"name": "default", "rules": rules}]) as gate:
        key, secret = await gate.key(), {"x-gateway-tags": "confidential"}
        await gate.chat("Hi", key=key, headers=secret)
        await stored(gate)

        assert tier(await gate.chat("Hi", key=key)) == "miss"
        assert tier(await gate.chat("Hi", key=key, headers=secret)) == "exact"


async def test_a_policy_without_a_cache_bypasses_it(tmp_path: Path, upstream: Upstream) -> None:
    policy: Any = {
        "name": "default",
        "cache": {"exact": False, "semantic": False},
        "rules": [{"name": "all", "use": ["big"]}],
    }
    async with gateway(tmp_path, [hosted("big", upstream.base_url)], [policy]) as gate:
        assert [tier(await gate.chat("Hi")) for _ in range(2)] == ["bypass", "bypass"]


@pytest.mark.parametrize(
    ("asked", "allowed", "seen"),
    [
        ({}, 1.0, "exact"),
        ({"temperature": None}, 1.0, "exact"),
        ({"temperature": 1.2}, 1.0, "bypass"),
        ({"temperature": 1.2}, 2.0, "exact"),
        ({}, 0.5, "bypass"),
        ({"temperature": 0.5}, 0.5, "exact"),
        ({"temperature": 0}, 0.0, "exact"),
    ],
)
async def test_a_policy_says_up_to_which_temperature_answers_are_kept(
    tmp_path: Path, upstream: Upstream, asked: dict[str, Any], allowed: float, seen: str
) -> None:
    policy: Any = {
        "name": "default",
        "cache": {"max_temperature": allowed},
        "rules": [{"name": "all", "use": ["big"]}],
    }
    async with gateway(tmp_path, [hosted("big", upstream.base_url)], [policy]) as gate:
        await gate.chat("Hi", **asked)
        await stored(gate, seen == "exact")

        assert tier(await gate.chat("Hi", **asked)) == seen


async def test_who_asks_for_a_random_number_again_wants_another_one(
    gate: Gateway, key: str, upstream: Upstream
) -> None:
    upstream.default = Plan(text="4")
    for _ in range(2):
        assert tier(await gate.chat("Give me a random number", key=key)) == "bypass"
    await gate.chat("Give me a random number", key=key, temperature=0)
    await stored(gate)
    assert tier(await gate.chat("Give me a random number", key=key, temperature=0)) == "exact"


@pytest.mark.parametrize(
    ("prompt", "headers", "most_s"),
    [
        ("What is the capital of France?", {}, 86_400),
        ("What is the weather like today?", {}, 300),
        ("What is the weather like today?", {"x-gateway-cache-ttl": "1h"}, 3600),
    ],
)
async def test_an_answer_about_now_is_kept_for_minutes(
    gate: Gateway, key: str, prompt: str, headers: dict[str, str], most_s: int
) -> None:
    await gate.chat(prompt, key=key, headers=headers)
    await stored(gate)

    [name] = await gate.runtime.redis.keys(gate.runtime.keys.exact("*"))
    assert 0.85 * most_s < await gate.runtime.redis.ttl(name) <= most_s
