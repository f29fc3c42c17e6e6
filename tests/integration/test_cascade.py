"""A cascade over HTTP: the small model's answer if it is sure, else the next target's, and never a mixture."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from gateway import cascade
from gateway.backends.fleet import Answer, Fleet
from gateway.policy.competence import Competence
from gateway.policy.model import ESCALATED
from gateway.types import Signals
from tests.support.gateway import Gateway, gateway, hosted, local
from tests.support.upstream import Plan, Upstream
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

POLICY: dict[str, Any] = {
    "name": "default",
    "baseline": "big",
    "cache": {"semantic": False},
    "rules": [
        {
            "name": "try-here",
            "use": ["local-small", "big"],
            "escalate": {"when": "confidence < 0.55 && words > 1", "hold_tokens": 3},
        }
    ],
}
ANSWER = "one two three four five six seven eight"


def unsure(confidence: float = 0.3, tokens: int = 3, **more: Any) -> Plan:
    said = {"confidence": confidence, "confidence_details": {"tokens": tokens}}
    return Plan(text=ANSWER, chunks=8, extra=said, **more)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream, near_server: Upstream
) -> AsyncIterator[Gateway]:
    models = [local("local-small", near_server.base_url), hosted("big", upstream_server.base_url)]
    async with gateway(tmp_path_factory.mktemp("gate"), models, [POLICY]) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def gate(served: Gateway, upstream: Upstream, near: Upstream) -> Gateway:
    upstream.default = Plan(text="the large model's word")
    await served.fresh()
    return served


async def asked(gate: Gateway, *, stream: bool, **more: Any) -> tuple[str, str]:
    """The text a client gets, and the model that is said to have answered."""
    if not stream:
        reply = await gate.chat("tell me something", **more)
        assert reply.status_code == 200, reply.text
        return reply.json()["choices"][0]["message"]["content"], reply.headers["x-gateway-model"]
    async with gate.open("tell me something", **more) as reply:
        events = [line[6:] async for line in reply.aiter_lines() if line.startswith("data: ")]
        model = reply.headers["x-gateway-model"]
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    texts = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ())]
    return "".join(texts), model


@pytest.mark.parametrize("stream", [False, True])
async def test_a_sure_answer_is_the_small_model_s(
    gate: Gateway, near: Upstream, upstream: Upstream, stream: bool
) -> None:
    near.default = unsure(0.9)
    assert await asked(gate, stream=stream) == (ANSWER, "local-small")
    assert upstream.total == 0
    (row,) = await gate.rows(1)
    assert (row.model, row.served, row.detail["confidence"]) == ("local-small", "local", 0.9)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_unsure_one_is_given_up_before_the_client_sees_any_of_it(
    gate: Gateway, near: Upstream, upstream: Upstream, stream: bool
) -> None:
    near.default = unsure(0.3)
    assert await asked(gate, stream=stream) == ("the large model's word", "big")
    (row,) = await gate.rows(1)
    assert (row.model, row.served, row.rule) == ("big", "hosted", "try-here")
    first, second = row.detail["attempts"]
    assert (first["model"], first["error"], second["model"]) == ("local-small", ESCALATED, "big")
    assert first["usage"]["completion_tokens"] >= 3  # a machine's time is in the books as its idle line
    story = (await gate.get(f"/v1/requests/{row.request_id}")).json()
    assert story["attempts"][0]["error"] == ESCALATED


async def test_what_is_given_up_is_broken_off(gate: Gateway, near: Upstream) -> None:
    near.default = unsure(0.3, chunk_delay_s=0.5)
    assert (await asked(gate, stream=True))[1] == "big"
    await until(lambda: near.requests[0].disconnected)


async def test_only_the_beginning_is_weighed(gate: Gateway, near: Upstream) -> None:
    """The scripted model grows unsure with its ninth token, long after the third."""
    sure, late = (
        b'"confidence":0.9,"confidence_details":{"tokens":%d}',
        b'"confidence":0.1,"confidence_details":{"tokens":9}',
    )
    events = [b'data: {"choices":[{"index":0,"delta":{"content":"w%d "}}],%b}\n\n' % (n, sure % n) for n in (1, 2, 3)]
    events += [
        b'data: {"choices":[{"index":0,"delta":{"content":"end"},"finish_reason":"stop"}],%b}\n\n' % late,
        b"data: [DONE]\n\n",
    ]
    near.default = Plan(raw=tuple(events))
    assert await asked(gate, stream=True) == ("w1 w2 w3 end", "local-small")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_unsure_answer_is_better_than_none(
    gate: Gateway, near: Upstream, upstream: Upstream, stream: bool
) -> None:
    near.default, upstream.default = unsure(0.3), Plan(status=500)
    assert await asked(gate, stream=stream) == (ANSWER, "local-small")
    (row,) = await gate.rows(1)
    assert (row.status, row.model, row.degraded) == ("ok", "local-small", "hosted-failed")


async def test_a_budget_that_has_not_enough_for_both_keeps_the_first(gate: Gateway, near: Upstream) -> None:
    near.default = unsure(0.3)
    key = await gate.key(budget_usd=0.0105)  # one large answer is reserved at 0.0103, and so is the second try
    assert (await asked(gate, stream=False, key=key, max_tokens=1000))[1] == "local-small"
    await gate.nothing_held(key)
    (row,) = await gate.rows(1)
    assert row.degraded == "budget"


async def test_one_that_breaks_off_while_held_back_is_not_the_end(gate: Gateway, near: Upstream) -> None:
    near.default = unsure(0.9, tokens=1, cut_after=2)
    assert (await asked(gate, stream=True))[1] == "big"


class Doubtful(Competence):
    """Of a model whose confidence is worth nothing."""

    def __init__(self) -> None:
        """Without any probe."""

    def answered(self, signals: Signals, vector: object) -> float | None:
        return 0.25 if signals.tokens == 24 else 0.95


def doubt(gate: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    view = msgspec.structs.replace(gate.runtime.view, competences={"local-small": Doubtful()})
    monkeypatch.setattr(gate.runtime, "view", view)


@pytest.mark.parametrize(("tokens", "model"), [(24, "big"), (3, "local-small")])
async def test_a_calibrated_model_is_judged_by_its_chance_of_being_right(
    gate: Gateway, near: Upstream, tokens: int, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubt(gate, monkeypatch)
    opening = {"mean_logprob": -0.1, "min_logprob": -0.2, "uncertain_share": 0.0, "tokens": tokens}
    details = {"mean_logprob": -2.0, "min_logprob": -9.0, "uncertain_share": 1.0, "tokens": 40, "opening": opening}
    near.default = Plan(text=ANSWER, extra={"confidence": 0.6, "confidence_details": details})

    reply = await gate.chat("tell me something")

    assert reply.headers["x-gateway-model"] == model
    story = (await gate.get(f"/v1/requests/{reply.headers['x-gateway-request-id']}")).json()
    assert (story["raw_confidence"], story["confidence"]) == (0.6, 0.25 if tokens == 24 else 0.95)


async def test_a_calibrated_answer_is_held_back_no_longer_than_its_opening(
    gate: Gateway, near: Upstream, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first clause is told after one of three tokens, and what follows changes nothing."""
    doubt(gate, monkeypatch)
    opening = {"mean_logprob": -0.1, "min_logprob": -0.2, "uncertain_share": 0.0, "tokens": 1}
    details = {"mean_logprob": -2.0, "min_logprob": -9.0, "uncertain_share": 1.0, "tokens": 2, "opening": opening}
    near.default = Plan(text=ANSWER, chunks=8, extra={"confidence": 0.6, "confidence_details": details})
    held: list[int] = []
    hold = cascade.hold

    async def watched(*args: Any, **more: Any) -> cascade.Held:
        found = await hold(*args, **more)
        held.append(len(found.chunks))
        return found

    monkeypatch.setattr(cascade, "hold", watched)

    assert await asked(gate, stream=True) == (ANSWER, "local-small")
    monkeypatch.setattr(gate.runtime, "view", msgspec.structs.replace(gate.runtime.view, competences={}))
    assert (await asked(gate, stream=True, max_tokens=50))[1] == "local-small"
    assert 0 < held[0] < held[1]


async def test_without_details_the_bare_confidence_counts(
    gate: Gateway, near: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubt(gate, monkeypatch)
    near.default = unsure(0.9)

    assert (await asked(gate, stream=False))[1] == "local-small"
    (row,) = await gate.rows(1)
    assert (row.detail["confidence"], "raw_confidence" in row.detail) == (0.9, False)


async def test_a_rule_s_timeout_bounds_both_tries_together(
    tmp_path: Path, upstream: Upstream, near: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []
    call = Fleet.call

    async def watched(self: Fleet, *args: Any, deadline_s: float, **more: Any) -> Answer:
        given.append(deadline_s)
        return await call(self, *args, deadline_s=deadline_s, **more)

    monkeypatch.setattr(Fleet, "call", watched)
    policy = {**POLICY, "rules": [{**POLICY["rules"][0], "timeout": "60s"}]}
    near.default = unsure(0.3, tokens=1, chunk_delay_s=0.02)
    models = [local("local-small", near.base_url), hosted("big", upstream.base_url)]
    async with gateway(tmp_path, models, [policy]) as gate:
        assert (await asked(gate, stream=True))[1] == "big"

    first, second = given
    assert first == 60
    assert 0 < second < 60 - 7 * 0.02, "eight chunks had been waited for"


async def test_where_no_time_is_left_the_unsure_answer_stays(
    gate: Gateway, near: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cascade, "within", lambda rest, _: msgspec.structs.replace(rest, timeout_s=0.0))
    near.default = unsure(0.3)
    assert await asked(gate, stream=True) == (ANSWER, "local-small")
    (row,) = await gate.rows(1)
    assert row.degraded == "hosted-failed"


async def test_a_model_that_does_not_say_how_sure_it_is_answers(
    gate: Gateway, near: Upstream, upstream: Upstream
) -> None:
    near.default = Plan(text=ANSWER)
    assert await asked(gate, stream=True) == (ANSWER, "local-small")
    assert upstream.total == 0


async def test_the_condition_may_read_the_features_too(gate: Gateway, near: Upstream) -> None:
    near.default = unsure(0.3)
    reply = await gate.chat("hello")
    assert reply.headers["x-gateway-model"] == "local-small"


async def test_leaving_while_it_is_held_back_breaks_it_off(gate: Gateway, near: Upstream) -> None:
    near.default = unsure(0.9, tokens=0, chunk_delay_s=30)
    task = asyncio.create_task(gate.chat("tell me something", stream=True))
    await until(lambda: near.total == 1)
    task.cancel()
    await until(lambda: near.requests[0].disconnected, within_s=15)
    (row,) = await gate.rows(1)
    assert row.status == "cancelled"
