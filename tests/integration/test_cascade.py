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
from gateway import held as held_back
from gateway import visit as visiting
from gateway.backends.fleet import Answer, Fleet
from gateway.held import Held
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


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_given_up_is_broken_off(gate: Gateway, near: Upstream, stream: bool) -> None:
    """A plain reply too is not waited for to its end, which would take minutes."""
    near.default = unsure(0.3, chunk_delay_s=0.5 if stream else 60)
    assert (await asked(gate, stream=stream))[1] == "big"
    await until(lambda: near.requests[0].disconnected)
    assert near.requests[0].streamed
    (row,) = await gate.rows(1)
    used = row.detail["attempts"][0]["usage"]
    assert (used["completion_tokens"], used["source"]) == (3, "estimated")
    assert used["prompt_tokens"] > 0
    assert 0 < used["busy_s"] < 60
    assert (row.stream, row.abandoned_nano, row.prompt_tokens) == (stream, 0, 3)


async def test_what_is_given_up_works_no_longer_while_the_next_is_waited_for(
    gate: Gateway, near: Upstream, upstream: Upstream
) -> None:
    near.default = unsure(0.3, chunk_delay_s=0.01)
    upstream.default = Plan(text="at last", first_delay_s=3)

    assert await asked(gate, stream=True) == ("at last", "big")

    await until(lambda: near.requests[0].disconnected)
    (row,) = await gate.rows(1)
    first, second = row.detail["attempts"]
    assert first["usage"]["busy_s"] < 3 <= second["duration_ms"] / 1000


async def test_a_local_model_answers_at_most_what_the_policy_assumes(
    gate: Gateway, near: Upstream, upstream: Upstream
) -> None:
    """A larger one is not cut short that was not asked to be (see test_budget_http)."""
    near.default = unsure(0.3)

    await asked(gate, stream=False)
    await asked(gate, stream=True, max_completion_tokens=50)

    tried, bounded = (request.json for request in near.requests if request.json)
    large = upstream.requests[0].json
    assert (tried["max_tokens"], "max_tokens" in large) == (1024, False)
    assert (bounded["max_completion_tokens"], "max_tokens" in bounded) == (50, False)


async def test_no_tokenizer_is_waited_for_to_count_what_costs_nothing(
    gate: Gateway, near: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first use takes a second, and the machine's time is not paid for by the token."""
    counted: list[object] = []
    monkeypatch.setattr(visiting, "count_tokens", counted.append)
    near.default = unsure(0.3)
    assert (await asked(gate, stream=False))[1] == "big"
    assert counted == []


async def test_a_plain_reply_is_what_it_would_be_without_a_stream(gate: Gateway, near: Upstream) -> None:
    near.default = unsure(0.9, cached_tokens=2)

    gathered = await gate.chat("tell me something")
    pinned = await gate.chat("tell me something", model="local-small", headers={"x-gateway-cache": "no-cache"})

    assert [one.streamed for one in near.requests] == [True, False]
    ours, theirs = gathered.json(), pinned.json()
    for body in (ours, theirs):
        assert body.pop("id").startswith("chatcmpl-")
        assert body.pop("created") > 0
    assert ours == theirs
    assert (ours["confidence"], ours["usage"]["prompt_tokens_details"]["cached_tokens"]) == (0.9, 2)
    first, second = await gate.rows(2)
    assert (first.usage_source, first.completion_tokens) == ("reported", second.completion_tokens)
    assert [one["error"] for one in first.detail["attempts"]] == [""]


async def test_what_was_gathered_is_stored_like_any_answer(gate: Gateway, near: Upstream) -> None:
    near.default = unsure(0.9)
    first = await gate.chat("tell me something", temperature=0)
    await gate.rows(1)
    second = await gate.chat("tell me something", temperature=0)
    assert (second.headers["x-gateway-cache"], near.total) == ("exact", 1)
    assert second.json()["choices"] == first.json()["choices"]


@pytest.mark.parametrize("shape", [{"n": 2}, {"logprobs": True}])
async def test_what_a_stream_tells_in_another_form_is_asked_for_in_one_piece(
    gate: Gateway, near: Upstream, shape: dict[str, Any]
) -> None:
    near.default = unsure(0.9)
    assert (await asked(gate, stream=False, **shape))[1] == "local-small"
    assert not near.requests[0].streamed


@pytest.mark.parametrize(
    "late", [b'{"error":{"message":"the engine failed"}}', b'{"choices":[{"index":0,"delta":{"audio":{"id":"a"}}}]}']
)
async def test_a_sure_answer_that_comes_to_nothing_is_not_the_end_of_a_plain_reply(
    gate: Gateway, near: Upstream, late: bytes
) -> None:
    word = b'data: {"choices":[{"index":0,"delta":{"content":"w"}}],"confidence":0.9,"confidence_details":{"tokens":3}}'
    end = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    near.default = Plan(raw=(word + b"\n\n", b"data: " + late + b"\n\n", end))
    assert await asked(gate, stream=False) == ("the large model's word", "big")


async def test_a_plain_reply_that_is_cut_short_is_not_the_end_either(gate: Gateway, near: Upstream) -> None:
    near.default = unsure(0.9, cut_after=5)
    assert (await asked(gate, stream=False))[1] == "big"


async def test_how_long_a_plain_reply_takes_is_known_of_gathered_ones_too(gate: Gateway, near: Upstream) -> None:
    near.default = unsure(0.9, chunk_delay_s=0.1)
    await asked(gate, stream=False)
    plain, streamed = (gate.runtime.view.fleet.live("local-small", stream=stream).ttft_ms for stream in (False, True))
    assert plain is not None
    assert streamed is not None
    assert plain > streamed + 100  # of the seven pauses that came between


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
    tries = [one["model"] for one in row.detail["attempts"]]
    assert tries == ["local-small", "big", "local-small"]


async def test_where_everything_fails_the_last_to_be_asked_is_not_blamed(
    gate: Gateway, near: Upstream, upstream: Upstream
) -> None:
    near.enqueue(unsure(0.3))
    near.default = Plan(status=400, error={"error": {"message": "small and lame"}})
    upstream.default = Plan(status=500, error={"error": {"message": "large and lame"}})
    reply = await gate.chat("tell me something")
    assert reply.status_code >= 500
    assert "large and lame" in reply.text


async def test_a_budget_that_has_not_enough_for_both_keeps_the_first(gate: Gateway, near: Upstream) -> None:
    near.default = unsure(0.3)
    key = await gate.key(budget_usd=0.0105)  # one large answer is reserved at 0.0103, and so is the second try
    assert (await asked(gate, stream=False, key=key, max_tokens=1000))[1] == "local-small"
    await gate.nothing_held(key)
    (row,) = await gate.rows(1)
    assert row.degraded == "budget"
    assert near.total == 1, "what was held back went on"


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
    hold = held_back.hold

    async def watched(*args: Any, **more: Any) -> Held:
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
    deadline = {"x-gateway-deadline-ms": "60000"}
    assert await asked(gate, stream=True, headers=deadline) == (ANSWER, "local-small")
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
