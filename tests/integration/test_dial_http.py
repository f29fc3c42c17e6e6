"""The dial over HTTP: the header, the policy's own position, what is told of it, and a replay of either."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_replay import stored, told
from tests.support.gateway import Gateway, gateway, hosted, local
from tests.support.upstream import Upstream

RULES = [
    {"name": "easy", "when": "difficulty < 0.35", "use": ["local-small"]},
    {"name": "hard", "use": ["big"]},
]
NEUTRAL: dict[str, Any] = {
    "name": "default",
    "baseline": "big",
    "cache": {"exact": False, "semantic": False},
    "rules": RULES,
}
CHEAP = {**NEUTRAL, "name": "cheap", "cost_quality": 0}
EASY, PROOF = "What is the capital of France?", "Prove that the square root of 2 is irrational."


@pytest.fixture
async def gate(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Gateway]:
    models = [local("local-small", upstream.base_url), hosted("big", upstream.base_url)]
    async with gateway(tmp_path, models, [NEUTRAL, CHEAP]) as running:
        yield running


async def route(gate: Gateway, prompt: str, quality: int | None = None, model: str = "auto") -> tuple[str, str]:
    """The rule, and the request's id."""
    headers = {} if quality is None else {"x-gateway-quality": str(quality)}
    reply = await gate.chat(prompt, headers=headers, model=model)
    assert reply.status_code == 200, reply.text
    return reply.headers["x-gateway-route"], reply.headers["x-gateway-request-id"]


async def test_the_header_wins_over_the_policy_and_the_policy_over_nothing(gate: Gateway) -> None:
    assert [(await route(gate, EASY, step))[0] for step in (None, 0, 5, 10)] == ["easy", "easy", "easy", "hard"]
    assert [(await route(gate, PROOF, step))[0] for step in (None, 0, 5, 10)] == ["hard", "easy", "hard", "hard"]
    assert [(await route(gate, PROOF, step, "auto:cheap"))[0] for step in (None, 5)] == ["easy", "hard"]


async def test_what_the_dial_did_is_told(gate: Gateway) -> None:
    _, request_id = await route(gate, EASY, 10)
    await gate.rows(1)

    story = (await gate.get(f"/v1/requests/{request_id}")).json()

    assert (story["difficulty"], story["features"]["quality"], story["scorer"]) == (1.0, 10, "rules")
    assert story["neutral_difficulty"] < 0.35
    assert dict(story["contributions"])["quality"] == pytest.approx(1 - story["neutral_difficulty"])


async def test_a_replay_moves_those_who_asked_for_nothing(gate: Gateway) -> None:
    for prompt in (EASY, PROOF):
        for step in (None, 5, 10):
            await route(gate, prompt, step)
    rows = await gate.rows(6)
    await stored(gate, rows)

    assert (await told(gate, NEUTRAL))["flipped"] == 0
    best = await told(gate, {**NEUTRAL, "cost_quality": 10})
    assert (best["flipped"], best["moves"]) == (1, {"local-small → big": 1}), "the easy one without a header"
    cheapest = await told(gate, {**NEUTRAL, "cost_quality": 0})
    assert cheapest["moves"] == {"big → local-small": 1}, "the proof without a header"
