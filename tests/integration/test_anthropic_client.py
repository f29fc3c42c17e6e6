"""The official anthropic client, unchanged but for its base_url: plain, streamed, with tools, refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
import pytest_asyncio
from anthropic import AsyncAnthropic, beta_async_tool

from tests.support.gateway import EVERYTHING_BIG, Gateway, gateway, hosted, local
from tests.support.models import CHAT, chat_model
from tests.support.models import served as model_served
from tests.support.upstream import Plan, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

HI: Any = [{"role": "user", "content": "What is the weather in Oslo?"}]
WEATHER: Any = {
    "name": "weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]},
}
# The default model's own template has no place for tools.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if loop.first and tools %}Tools: {{ tools | tojson }}\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
CLAUDE = {"name": "claude", "provider": "litellm", "upstream_model": "anthropic/claude-sonnet-4-5", "max_retries": 0}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream) -> AsyncIterator[Gateway]:
    claude = CLAUDE | {"base_url": upstream_server.url, "api_key": "${BIG_KEY}"}
    models = [hosted("big", upstream_server.base_url), claude]
    async with gateway(tmp_path_factory.mktemp("gate"), models, [EVERYTHING_BIG]) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(gate: Gateway) -> AsyncIterator[AsyncAnthropic]:
    key = await gate.key()
    async with AsyncAnthropic(base_url=gate.url, api_key=key, max_retries=0) as made:
        yield made


async def test_a_message_is_a_chat_with_one_row(client: AsyncAnthropic, gate: Gateway, upstream: Upstream) -> None:
    upstream.default = Plan(text="Rain.", prompt_tokens=1000, cached_tokens=400, completion_tokens=100)

    reply = await client.messages.with_raw_response.create(
        model="auto", max_tokens=200, system="Be brief.", messages=HI, metadata={"user_id": "u-1"}
    )

    message: Any = await reply.parse()
    [block] = message.content
    assert (block.type, getattr(block, "text", "")) == ("text", "Rain.")
    assert (message.role, message.stop_reason, message.model) == ("assistant", "end_turn", "big")
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (600, 400, 100)
    assert usage.model_extra is not None
    cost = 600 * 2.5e-6 + 400 * 1.25e-6 + 100 * 1e-5
    assert usage.model_extra["cost_usd"] == pytest.approx(cost)
    headers = reply.headers
    assert (headers["x-gateway-model"], headers["x-gateway-cache"], headers["x-gateway-route"]) == (
        "big",
        "miss",
        "all",
    )
    assert headers["request-id"] == headers["x-gateway-request-id"] == message._request_id
    [row] = await gate.rows(1)
    assert (row.status, row.end_user, row.prompt_tokens, row.stream) == ("ok", "u-1", 1000, False)
    assert upstream.requests[0].json["max_tokens"] == 200


async def test_a_stream_of_text(client: AsyncAnthropic, gate: Gateway, upstream: Upstream) -> None:
    upstream.default = Plan(
        text="Rain, then sun.", chunks=3, prompt_tokens=1000, cached_tokens=400, completion_tokens=9
    )

    async with client.messages.stream(model="auto", max_tokens=200, messages=HI) as stream:
        pieces = [text async for text in stream.text_stream]
        message = await stream.get_final_message()

    assert (len(pieces), "".join(pieces)) == (3, "Rain, then sun.")
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (600, 400, 9)
    [row] = await gate.rows(1)
    assert (row.status, row.stream, row.usage_source) == ("ok", True, "reported")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_tool_is_called_and_its_result_answered(
    client: AsyncAnthropic, upstream: Upstream, streamed: bool
) -> None:
    upstream.enqueue(Plan(text="Let me see.", tool_calls=(CALL,)), Plan(text="It rains."))
    asked: Any = {"model": "auto", "max_tokens": 200, "tools": [WEATHER]}

    async def ask(messages: Any) -> Any:
        if not streamed:
            return await client.messages.create(**asked, messages=messages)
        async with client.messages.stream(**asked, messages=messages) as stream:
            return await stream.get_final_message()

    called = await ask(HI)
    assert called.stop_reason == "tool_use"
    text, use = called.content
    assert (text.text, use.id, use.name, use.input) == ("Let me see.", "call_1", "weather", {"city": "Oslo"})

    result = {"type": "tool_result", "tool_use_id": use.id, "content": "rain"}
    answered = await ask([*HI, {"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}])

    assert answered.content[0].text == "It rains."
    sent = upstream.requests[1].json["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
    assert sent[1]["tool_calls"][0]["id"] == sent[2]["tool_call_id"] == "call_1"
    assert upstream.requests[1].json["tools"][0]["function"]["parameters"] == WEATHER["input_schema"]


async def test_a_tool_runner_is_told_to_send_the_conversation_whole(client: AsyncAnthropic, upstream: Upstream) -> None:
    """It would leave the conversation to Anthropic's server, and name only its last message."""
    upstream.enqueue(Plan(tool_calls=(CALL,)), Plan(text="It rains."))

    @beta_async_tool
    async def weather(city: str) -> str:
        """The weather of a city."""
        return f"rain in {city}"

    runner = client.beta.messages.tool_runner(model="auto", max_tokens=200, tools=[weather], messages=HI)
    answered = await runner.until_done()

    assert getattr(answered.content[0], "text", "") == "It rains."
    sent = upstream.requests[1].json["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
    assert sent[2]["content"] == "rain in Oslo"


async def test_a_repeat_is_answered_from_the_cache(client: AsyncAnthropic, gate: Gateway, upstream: Upstream) -> None:
    upstream.default = Plan(text="Rain.")
    asked: Any = {"model": "auto", "max_tokens": 200, "messages": HI}
    await client.messages.create(**asked)
    await gate.runtime.books.drain()

    again = await client.messages.with_raw_response.create(**asked)
    async with client.messages.stream(**asked) as stream:
        streamed = await stream.get_final_message()
    other = await client.messages.with_raw_response.create(**(asked | {"max_tokens": 201}))

    assert (again.headers["x-gateway-cache"], other.headers["x-gateway-cache"]) == ("exact", "miss")
    [block] = streamed.content
    assert (getattr(block, "text", ""), streamed.stop_reason) == ("Rain.", "end_turn")
    assert upstream.total == 2


async def test_refusals_are_the_clients_own_errors(client: AsyncAnthropic, gate: Gateway, upstream: Upstream) -> None:
    asked: Any = {"model": "auto", "max_tokens": 200, "messages": HI}
    with pytest.raises(anthropic.NotFoundError) as nowhere:
        await client.messages.create(**(asked | {"model": "nowhere"}))
    assert nowhere.value.body["error"]["code"] == "model_not_found"  # type: ignore[index]
    with pytest.raises(anthropic.BadRequestError, match=r"tools\[0\]"):
        await client.messages.create(**asked, tools=[{"type": "web_search_20260318", "name": "web_search"}])
    async with AsyncAnthropic(base_url=gate.url, api_key="fg-unknown", max_retries=0) as stranger:
        with pytest.raises(anthropic.AuthenticationError) as unknown:
            await stranger.messages.create(**asked)
    assert unknown.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]
    assert unknown.value.request_id
    upstream.enqueue(Plan(status=400, error={"error": {"message": "bad tool", "type": "invalid_request_error"}}))
    with pytest.raises(anthropic.BadRequestError, match="bad tool"):
        await client.messages.create(**asked)
    upstream.enqueue(Plan(status=429, headers={"retry-after": "7"}))
    with pytest.raises(anthropic.RateLimitError):
        await client.messages.create(**asked)


async def test_a_stream_that_breaks_off_raises(client: AsyncAnthropic, gate: Gateway, upstream: Upstream) -> None:
    upstream.default = Plan(text="one two three four", chunks=4, cut_after=2)
    async with client.messages.stream(model="auto", max_tokens=200, messages=HI) as stream:
        pieces = [await anext(stream.text_stream), await anext(stream.text_stream)]
        with pytest.raises(anthropic.APIStatusError):
            await stream.until_done()
    assert "one two three four".startswith("".join(pieces))
    [row] = await gate.rows(1)
    assert row.status == "incomplete"


async def test_a_client_that_leaves_is_not_worked_for(
    client: AsyncAnthropic, gate: Gateway, upstream: Upstream
) -> None:
    upstream.default = Plan(text="one two three four", chunks=4, chunk_delay_s=5.0)
    async with client.messages.stream(model="auto", max_tokens=200, messages=HI) as stream:
        await anext(stream.text_stream)
    await upstream.wait_for(1, "disconnected")
    [row] = await gate.rows(1)
    assert row.status == "cancelled"


async def test_counting_asks_no_model_and_writes_no_row(
    client: AsyncAnthropic, gate: Gateway, upstream: Upstream
) -> None:
    short = await client.messages.count_tokens(model="auto", messages=HI)
    long = await client.messages.count_tokens(model="auto", messages=HI, system="Be brief. " * 100, tools=[WEATHER])
    assert 5 <= short.input_tokens <= 20
    assert 300 <= long.input_tokens - short.input_tokens <= 400
    with pytest.raises(anthropic.NotFoundError):
        await client.messages.count_tokens(model="nowhere", messages=HI)
    with pytest.raises(anthropic.BadRequestError):
        await client.messages.count_tokens(model="auto", messages=[])
    assert upstream.requests == []
    await gate.rows(0)


async def test_models_are_listed(client: AsyncAnthropic) -> None:
    listed = [model async for model in client.models.list()]
    assert {"auto", "auto:default", "big", "claude"} <= {model.id for model in listed}
    assert {model.type for model in listed} == {"model"}


async def test_what_anthropic_itself_can_read_reaches_it(client: AsyncAnthropic, upstream: Upstream) -> None:
    upstream.default = Plan(text="Rain.", prompt_tokens=1000, cached_tokens=400, completion_tokens=100)
    mark: Any = {"type": "ephemeral"}
    system: Any = [{"type": "text", "text": "Be brief.", "cache_control": mark}]

    message = await client.messages.create(model="claude", max_tokens=200, system=system, messages=HI, tools=[WEATHER])

    sent = upstream.requests[-1]
    assert sent.path == "/v1/messages"
    assert sent.json["system"] == system
    assert sent.json["max_tokens"] == 200
    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (600, 400)
    async with client.messages.stream(model="claude", max_tokens=200, system=system, messages=HI) as stream:
        streamed = await stream.get_final_message()
    assert (streamed.usage.input_tokens, streamed.usage.cache_read_input_tokens) == (600, 400)


async def test_a_local_model_answers_and_calls_tools(tmp_path: Path) -> None:
    policy = {"name": "default", "rules": [{"name": "here", "use": ["near"]}]}
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    arguments = ("--model", str(chat_model()), "--name", CHAT, "--template", str(tmp_path / "template.jinja"))
    with model_served("chat", *arguments) as address:
        async with (
            gateway(tmp_path, [local("near", f"{address}/v1")], [policy]) as running,
            AsyncAnthropic(base_url=running.url, api_key="anything", max_retries=0) as anybody,
        ):
            asked: Any = {"model": "auto", "max_tokens": 8, "system": "Be brief.", "messages": HI}
            message = await anybody.messages.create(**asked)
            assert 1 <= message.usage.output_tokens <= 8
            assert message.usage.input_tokens > 5
            async with anybody.messages.stream(**asked, extra_body={"temperature": 0.5}) as stream:
                assert "".join([text async for text in stream.text_stream])
            asked |= {"model": "near", "max_tokens": 80, "tools": [WEATHER], "tool_choice": {"type": "any"}}
            called = await anybody.messages.create(**asked)
            async with anybody.messages.stream(**asked) as stream:
                streamed = await stream.get_final_message()
            for reply in (called, streamed):
                use = reply.content[-1]
                assert (reply.stop_reason, use.type) == ("tool_use", "tool_use")
                assert getattr(use, "input", {})["city"] in ("Oslo", "Rome")
