"""The official openai client's responses and legacy completions, unchanged but for its base_url."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pydantic
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from tests.support.gateway import Gateway
from tests.support.upstream import Plan, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

HI: Any = [{"role": "user", "content": "What is the weather in Oslo?"}]
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
PRICED = Plan(text="Rain.", prompt_tokens=1000, cached_tokens=400, completion_tokens=100)
COST = 600 * 2.5e-6 + 400 * 1.25e-6 + 100 * 1e-5


class City(pydantic.BaseModel):
    name: str


@pytest_asyncio.fixture(loop_scope="module")
async def client(gate: Gateway) -> AsyncIterator[AsyncOpenAI]:
    key = await gate.key()
    async with AsyncOpenAI(base_url=gate.base_url, api_key=key, max_retries=0) as made:
        yield made


async def test_a_response_is_a_chat_with_one_row(client: AsyncOpenAI, gate: Gateway, upstream: Upstream) -> None:
    upstream.default = PRICED

    raw = await client.responses.with_raw_response.create(
        model="auto", input="What is the weather?", instructions="Be brief.", max_output_tokens=200, user="u-1"
    )

    reply = raw.parse()
    assert (reply.output_text, reply.status, reply.model) == ("Rain.", "completed", "big")
    usage = reply.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (1000, 100, 1100)
    assert usage.input_tokens_details.cached_tokens == 400
    assert usage.model_extra is not None
    assert usage.model_extra["cost_usd"] == pytest.approx(COST)
    assert (raw.headers["x-gateway-model"], raw.headers["x-gateway-cache"]) == ("big", "miss")
    [row] = await gate.rows(1)
    assert (row.status, row.prompt_tokens, row.end_user) == ("ok", 1000, "u-1")
    assert [message["role"] for message in upstream.requests[0].json["messages"]] == ["system", "user"]
    assert upstream.requests[0].json["max_tokens"] == 200


async def test_a_schema_is_parsed(client: AsyncOpenAI, upstream: Upstream) -> None:
    upstream.default = Plan(text='{"name": "Oslo"}')
    reply = await client.responses.parse(model="auto", input="Which city?", text_format=City)
    assert reply.output_parsed == City(name="Oslo")
    assert upstream.requests[0].json["response_format"]["json_schema"]["name"] == "City"
    async with client.responses.stream(model="auto", input="Which city?", text_format=City) as stream:
        streamed = await stream.get_final_response()
    assert streamed.output_parsed == City(name="Oslo")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_tool_is_called_and_its_result_answered(
    client: AsyncOpenAI, upstream: Upstream, streamed: bool
) -> None:
    upstream.enqueue(Plan(text="Let me see.", tool_calls=(CALL,)), Plan(text="It rains."))

    async def ask(items: Any) -> Any:
        if not streamed:
            return await client.responses.create(model="auto", tools=[WEATHER], input=items)
        async with client.responses.stream(model="auto", tools=[WEATHER], input=items) as stream:
            return await stream.get_final_response()

    called = await ask(HI)
    said, call = called.output
    assert (said.content[0].text, call.call_id, call.arguments) == ("Let me see.", "call_1", '{"city": "Oslo"}')
    given = [item.model_dump(exclude={"parsed_arguments"}) for item in called.output]

    answered = await ask([*HI, *given, {"type": "function_call_output", "call_id": "call_1", "output": "rain"}])

    assert answered.output_text == "It rains."
    sent = upstream.requests[1].json["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
    assert sent[1]["tool_calls"][0]["id"] == sent[2]["tool_call_id"] == "call_1"


async def test_a_streams_events_tell_text_as_it_comes(client: AsyncOpenAI, gate: Gateway, upstream: Upstream) -> None:
    upstream.default = Plan(text="Rain, then sun.", chunks=3, prompt_tokens=1000, completion_tokens=9)
    events = [event async for event in await client.responses.create(model="auto", input="Weather?", stream=True)]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert (len(deltas), "".join(deltas)) == (3, "Rain, then sun.")
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "Rain, then sun."
    assert last.response.usage is not None
    assert (last.response.usage.input_tokens, last.response.usage.output_tokens) == (1000, 9)
    [row] = await gate.rows(1)
    assert (row.status, row.stream, row.usage_source) == ("ok", True, "reported")


async def test_a_stream_that_breaks_off_has_failed(client: AsyncOpenAI, gate: Gateway, upstream: Upstream) -> None:
    upstream.default = Plan(text="one two three four", chunks=4, cut_after=2)
    events = [event async for event in await client.responses.create(model="auto", input="Weather?", stream=True)]
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    [row] = await gate.rows(1)
    assert row.status == "incomplete"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ],
)
async def test_what_would_need_a_memory_is_refused(
    client: AsyncOpenAI, gate: Gateway, upstream: Upstream, body: Any, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="auto", input="hi", **body)
    assert refused.value.param == param
    assert upstream.requests == []
    await gate.rows(0)


async def test_what_was_answered_is_not_kept(client: AsyncOpenAI) -> None:
    reply = await client.responses.create(model="auto", input="hi", store=True)
    assert reply.model_extra is not None
    assert reply.model_extra["store"] is False
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(reply.id)


async def test_a_completion(client: AsyncOpenAI, gate: Gateway, upstream: Upstream) -> None:
    upstream.default = PRICED
    reply = await client.completions.create(model="auto", prompt="Once upon", max_tokens=200, user="u-1")
    assert (reply.choices[0].text, reply.choices[0].finish_reason, reply.object) == ("Rain.", "stop", "text_completion")
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (1000, 100)
    assert reply.usage.model_extra is not None
    assert reply.usage.model_extra["cost_usd"] == pytest.approx(COST)
    assert upstream.requests[0].json["messages"] == [{"role": "user", "content": "Once upon"}]
    [row] = await gate.rows(1)
    assert (row.status, row.prompt_tokens, row.end_user) == ("ok", 1000, "u-1")


async def test_a_streamed_completion(client: AsyncOpenAI, upstream: Upstream) -> None:
    upstream.default = PRICED
    asked: Any = {"model": "auto", "prompt": ["Once upon"], "stream": True}
    told = [chunk async for chunk in await client.completions.create(**asked, stream_options={"include_usage": True})]
    *chunks, usage = told
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Rain."
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "stop"
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.total_tokens == 1100
    silent = [chunk async for chunk in await client.completions.create(**asked, temperature=0.1)]
    assert all(chunk.usage is None and chunk.choices for chunk in silent)


async def test_several_choices(client: AsyncOpenAI, upstream: Upstream) -> None:
    upstream.default = PRICED
    reply = await client.completions.create(model="auto", prompt="Once upon", n=2)
    assert [(choice.index, choice.text) for choice in reply.choices] == [(0, "Rain."), (1, "Rain.")]


@pytest.mark.parametrize("path", ["completions", "messages", "responses", "messages/count_tokens"])
async def test_only_post_and_only_who_may(gate: Gateway, upstream: Upstream, path: str) -> None:
    assert (await gate.get(f"/v1/{path}")).status_code == 405
    headers = {"authorization": "Bearer fg-unknown", "content-type": "application/json"}
    refused = await gate.http.post(f"/v1/{path}", content=b"{}", headers=headers)
    assert (refused.status_code, "error" in refused.json()) == (401, True)
    assert refused.headers["x-gateway-request-id"].startswith("req_")
    foreign = await gate.http.post(f"/v1/{path}", content=b"{}", headers={"content-type": "text/plain"})
    assert foreign.status_code == 401
    assert upstream.requests == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("completions", {"prompt": "hi"}),
        ("messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}),
        ("responses", {"input": "hi"}),
    ],
)
async def test_the_gateways_own_headers_are_kept_to(gate: Gateway, upstream: Upstream, path: str, body: Any) -> None:
    async def ask(**headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await gate.http.post(f"/v1/{path}", json={"model": "auto", **body}, headers=named)

    missing = await ask(x_gateway_cache="only-if-cached")
    assert missing.status_code == 504
    assert missing.json()["error"]["code"] == "cache_miss"
    upstream.enqueue(Plan(first_delay_s=5.0))
    late = await ask(x_gateway_deadline_ms="100")
    assert late.status_code == 504
    assert (await ask(x_gateway_cache="sometimes")).status_code == 400
    key = await gate.key(budget_usd=0.0000001)
    spent = await ask(authorization=f"Bearer {key}")
    assert spent.status_code == 402, spent.text
    assert spent.json()["error"]["code"] == "budget_exhausted"
