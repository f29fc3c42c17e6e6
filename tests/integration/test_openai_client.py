"""The official openai client, unchanged but for its base_url."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from tests.support.gateway import Gateway
from tests.support.upstream import Plan, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

NESTED_TOOL: Any = {
    "type": "function",
    "x_vendor": {"keep": [1, 2.50, None, "ünï"]},
    "function": {
        "name": "book",
        "description": "Book a trip.",
        "strict": True,
        "parameters": {
            "type": "object",
            "$defs": {"leg": {"type": "object", "properties": {"to": {"enum": ["OSL", "HEL"]}}}},
            "properties": {"legs": {"type": "array", "items": {"$ref": "#/$defs/leg"}, "minItems": 1}},
            "required": ["legs"],
            "additionalProperties": False,
        },
    },
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "book", "arguments": '{"legs": [{"to": "OSL"}]}'}}
HI: Any = [{"role": "user", "content": "hi there"}]


class Wire:
    """An httpx client that remembers the bodies it sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.client = httpx.AsyncClient(event_hooks={"request": [self._note]}, timeout=60.0)

    async def _note(self, request: httpx.Request) -> None:
        self.sent.append(request.content)


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest_asyncio.fixture(loop_scope="module")
async def client(gate: Gateway, wire: Wire) -> AsyncIterator[AsyncOpenAI]:
    key = await gate.key()
    async with AsyncOpenAI(base_url=gate.base_url, api_key=key, max_retries=0, http_client=wire.client) as made:
        yield made


def raw_fields(body: bytes) -> dict[str, bytes]:
    fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    return {name: bytes(value) for name, value in fields.items()}


async def test_a_chat(client: AsyncOpenAI, upstream: Upstream) -> None:
    upstream.default = Plan(text="Paris.", prompt_tokens=14, completion_tokens=2)

    reply = await client.chat.completions.create(model="auto", messages=HI, user="u-1", temperature=0.2)

    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("Paris.", "stop")
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (14, 2, 16)
    assert upstream.requests[0].json["model"] == "big"


async def test_a_streams_first_chunk_comes_before_the_answer_is_complete(
    client: AsyncOpenAI, upstream: Upstream
) -> None:
    upstream.default = Plan(text="one two three four", chunks=4, chunk_delay_s=0.1)
    loop = asyncio.get_running_loop()
    started, arrived, complete = loop.time(), list[float](), list[bool]()

    async for chunk in await client.chat.completions.create(model="auto", messages=HI, stream=True):
        if chunk.choices[0].delta.content:
            arrived.append(loop.time() - started)
            complete.append(upstream.requests[0].completed)

    assert len(arrived) == 4
    assert not any(complete[:3])
    assert arrived[3] - arrived[0] > 0.2


async def test_usage_ends_a_stream_when_asked_for_and_only_then(client: AsyncOpenAI, upstream: Upstream) -> None:
    upstream.default = Plan(text="one two", prompt_tokens=1000, completion_tokens=100)

    unasked = [chunk async for chunk in await client.chat.completions.create(model="auto", messages=HI, stream=True)]
    asked = [
        chunk
        async for chunk in await client.chat.completions.create(
            model="auto", messages=HI, stream=True, stream_options={"include_usage": True}, seed=7
        )
    ]

    assert all(chunk.usage is None and chunk.choices for chunk in unasked)
    *before, last = asked
    assert all(chunk.usage is None for chunk in before)
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (1000, 100)
    assert last.usage.model_extra is not None
    assert last.usage.model_extra["cost_usd"] == 0.0035
    assert last.usage.model_extra["saved_usd"] == 0


async def test_a_request_is_forwarded_byte_for_byte_but_for_its_model(
    client: AsyncOpenAI, wire: Wire, upstream: Upstream
) -> None:
    await client.chat.completions.create(
        model="auto",
        messages=[{"role": "system", "content": "Répondez."}, *HI],
        tools=[NESTED_TOOL],
        tool_choice="auto",
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        logit_bias={"50256": -100},
        extra_body={"frobnicate": {"level": 11, "nested": [[], {}, 1e-7]}, "top_k": 40},
    )

    sent, received = raw_fields(wire.sent[-1]), raw_fields(upstream.requests[0].body)
    assert received.pop("model") == b'"big"'
    assert sent.pop("model") == b'"auto"'
    assert received == sent
    assert list(received) == list(sent)


async def test_numbers_escapes_and_spacing_of_a_body_survive(gate: Gateway, upstream: Upstream) -> None:
    odd = b'{ "a" : 1.0, "b": 1E3, "c": 12345678901234567890123, "d": "\\u00e9\\/", "d" : 0.10 }'
    body = (
        b'{"model":"auto","messages": [ {"role":"user","content":"hi", "x": ' + odd + b'} ],"metadata": ' + odd + b"}"
    )

    reply = await gate.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})

    assert reply.status_code == 200, reply.text
    sent, received = raw_fields(body), raw_fields(upstream.requests[0].body)
    assert (received["messages"], received["metadata"]) == (sent["messages"], sent["metadata"])


async def test_tool_calls_come_back_plain_and_streamed(client: AsyncOpenAI, upstream: Upstream) -> None:
    upstream.default = Plan(tool_calls=(CALL,))

    reply = await client.chat.completions.create(model="auto", messages=HI, tools=[NESTED_TOOL])
    stream = await client.chat.completions.create(model="auto", messages=HI, tools=[NESTED_TOOL], stream=True)
    deltas = [chunk.choices[0].delta async for chunk in stream]

    assert reply.choices[0].finish_reason == "tool_calls"
    [call] = reply.choices[0].message.tool_calls or []
    assert call.model_dump() == CALL
    parts = [part.function for delta in deltas for part in delta.tool_calls or [] if part.function]
    assert "".join(part.arguments or "" for part in parts) == CALL["function"]["arguments"]  # type: ignore[index]


async def test_fields_of_a_reply_that_nobody_knows_survive(client: AsyncOpenAI, upstream: Upstream) -> None:
    added = {"x_provider": {"region": "eu", "scores": [0.10, None]}}
    upstream.default = Plan(text="ok", extra=added | {"choices": [{"x_why": "because"}]})

    reply = await client.chat.completions.create(model="auto", messages=HI)
    stream = await client.chat.completions.create(model="auto", messages=HI, stream=True, seed=2)
    first = await anext(aiter(stream))
    await stream.close()

    for said in (reply, first):
        assert said.model_extra is not None
        assert said.model_extra["x_provider"] == added["x_provider"]
        assert said.choices[0].model_extra == {"x_why": "because"}
        assert said.system_fingerprint == "fp_scripted"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (404, openai.NotFoundError),
        (413, openai.APIStatusError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
        (401, openai.InternalServerError),  # the gateway's credential, not the client's
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_upstream_refuses_raises_the_class_it_would_raise_there(
    client: AsyncOpenAI, upstream: Upstream, status: int, error: type[openai.APIStatusError], stream: bool
) -> None:
    upstream.default = Plan(status=status)

    with pytest.raises(error) as caught:
        await client.chat.completions.create(model="auto", messages=HI, stream=stream)

    assert caught.value.response.status_code == (502 if status == 401 else status)
    assert caught.value.response.headers["x-gateway-request-id"].startswith("req_")


async def test_what_the_gateway_refuses_raises_the_class_that_fits(gate: Gateway, client: AsyncOpenAI) -> None:
    create = client.chat.completions.create
    with pytest.raises(openai.BadRequestError) as bad:
        await create(model="auto", messages=[])
    assert bad.value.param == "messages"
    with pytest.raises(openai.NotFoundError) as missing:
        await create(model="gpt-17", messages=HI)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError) as stranger:
        await client.with_options(api_key="fg-nobody").chat.completions.create(model="auto", messages=HI)
    assert stranger.value.code == "invalid_api_key"
    limited = client.with_options(api_key=await gate.key(rpm=1))
    await limited.chat.completions.create(model="auto", messages=HI)
    with pytest.raises(openai.RateLimitError) as often:
        await limited.chat.completions.create(model="auto", messages=HI)
    assert often.value.code == "rpm_limit_exceeded"
    with pytest.raises(openai.NotFoundError):
        await client.embeddings.create(model="auto", input="hi", encoding_format="float")


async def test_a_client_that_gives_up_is_not_worked_for(client: AsyncOpenAI, upstream: Upstream) -> None:
    upstream.default = Plan(hang=True)

    with pytest.raises(openai.APITimeoutError):
        await client.with_options(timeout=0.3).chat.completions.create(model="auto", messages=HI)

    await upstream.wait_for(1, "disconnected")


async def test_a_stream_that_breaks_raises(client: AsyncOpenAI, upstream: Upstream) -> None:
    upstream.default = Plan(text="one two three four", cut_after=2)
    heard = []

    async def listen() -> None:
        async for chunk in await client.chat.completions.create(model="auto", messages=HI, stream=True):
            heard.append(chunk.choices[0].delta.content or "")  # noqa: PERF401 - kept when the stream raises

    with pytest.raises(openai.APIError) as broken:
        await listen()
    assert "".join(heard) == "one two t"
    assert broken.value.code == "upstream_broken"


async def test_every_policy_and_model_is_listed(client: AsyncOpenAI) -> None:
    listed = {model.id: model async for model in client.models.list()}

    assert list(listed) == ["auto", "auto:default", "big"]
    one = await client.models.retrieve("big")
    assert one.model_extra is not None
    assert (one.model_extra["runs"], one.model_extra["price"]["output"]) == ("hosted", "10")
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("gpt-17")
