"""Replies that no provider should send, and bodies that no client should: one row each, nothing held, nothing lost."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.gateway import Gateway
from tests.support.upstream import Plan, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHUNK: Any = {"id": "c", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "hi"}}]}
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}
LAST: Any = {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": USAGE}


def plain(usage: str = '{"prompt_tokens": 3, "completion_tokens": 2}', more: str = "", message: str = '"hi"') -> Plan:
    choice = f'{{"index": 0, "message": {{"role": "assistant", "content": {message}}}, "finish_reason": "stop"}}'
    return Plan(raw=f'{{"id": "c", "choices": [{choice}], "usage": {usage}{more}}}'.encode())


def streamed(*events: Any) -> Plan:
    texts = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return Plan(raw=tuple(f"data: {text}\n\n".encode() for text in (*texts, "[DONE]")))


def choice(**changes: Any) -> Any:
    return {**CHUNK, "choices": [{**CHUNK["choices"][0], **changes}]}


async def settled(gate: Gateway, stream: bool, **body: Any) -> Any:
    """The one row of a request with a budget, of which nothing is held any more; and the gateway still answers."""
    key = await gate.key(budget_usd=100)
    reply = await gate.chat(key=key, stream=stream, **body)
    assert reply.json()["error"]["code"] != "internal_error" if reply.status_code >= 400 else True, reply.text
    [row] = await gate.rows(1)
    await gate.nothing_held(key)
    held = await gate.budget(key)
    assert held["spent"] == row.cost_nano <= held["limit"]
    assert (await gate.get("/v1/models")).status_code == 200
    return row


@pytest.mark.parametrize(
    "plan",
    [
        plain('{"prompt_tokens": 1000000000000000000000000000000, "completion_tokens": 1e300}'),
        plain('{"prompt_tokens": 9223372036854775807, "completion_tokens": 1}'),
        plain('{"prompt_tokens": -5, "completion_tokens": 2.5}'),
        plain('"many"'),
        plain(more=', "x_unheard_of": 1e999'),
        plain(more=', "service_tier": {"a": 1}, "model": 5'),
        plain(more=', "timings": {"busy_seconds": 1e300, "prompt_ms": 1e300}'),
        plain(message='{"a": 1e3}'),
        plain(message="[[1], 5, null]"),
        Plan(raw=b'{"choices": [{}]}'),
        Plan(raw=b'{"choices": []}'),
        Plan(raw=b"[1]"),
    ],
    ids=lambda plan: plan.raw.decode()[-60:],
)
async def test_an_odd_plain_reply(gate: Gateway, upstream: Upstream, plan: Plan) -> None:
    upstream.default = plan

    await settled(gate, stream=False)


@pytest.mark.parametrize(
    "events",
    [
        ({**CHUNK, "x_unheard_of": 0}, '{"choices": [], "x_unheard_of": 1e999}', LAST),
        (choice(index="a"), CHUNK, LAST),
        (choice(index=[1]), LAST),
        (choice(delta={"content": 5}), LAST),
        (choice(delta={"content": ["a"]}), CHUNK, LAST),
        (choice(delta=None), LAST),
        (CHUNK, {**LAST, "usage": {"prompt_tokens": 10**30, "completion_tokens": 10**30}}),
        (CHUNK, "5", LAST),
        (CHUNK, '{"choices": [null]}'),
    ],
    ids=lambda events: str(events)[-60:],
)
async def test_an_odd_stream(gate: Gateway, upstream: Upstream, events: tuple[Any, ...]) -> None:
    upstream.default = streamed(*events)

    await settled(gate, stream=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [("service_tier", "1e999"), ("response_format", "1e999"), ("x_unheard_of", "1e999"), ("seed", "1" + "0" * 400)],
)
async def test_a_number_that_nothing_can_hold_goes_where_it_was_sent(
    gate: Gateway, upstream: Upstream, field: str, value: str
) -> None:
    body = f'{{"model": "auto", "messages": [{{"role": "user", "content": "hi"}}], "{field}": {value}}}'

    reply = await gate.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})

    assert reply.status_code in (200, 400), reply.text
    assert f'"{field}":{value}'.encode() in upstream.requests[0].body
    await gate.rows(1)


async def test_options_of_a_stream_keep_what_nothing_can_hold(gate: Gateway, upstream: Upstream) -> None:
    messages = '[{"role": "user", "content": "hi"}]'
    body = f'{{"model": "auto", "messages": {messages}, "stream": true, "stream_options": {{"x": 1e999}}}}'

    await gate.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})

    assert b'"stream_options":{"x":1e999,"include_usage":true}' in upstream.requests[0].body
