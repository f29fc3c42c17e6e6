"""The scripted upstream, as the official clients see it."""

import asyncio
import base64
import io
import json
import socket
import subprocess
import sys
from array import array
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import anthropic
import httpx
import msgspec
import openai
import pytest

from tests.support.upstream import Plan, Upstream, Usage

ASK: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is two and two?"}]
TOOL_CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Oslo", "days": [1, 2]}'},
}


@pytest.fixture
async def up() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


@pytest.fixture
async def client(up: Upstream) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=up.base_url, api_key="sk-test", max_retries=0) as client:
        yield client


@pytest.fixture
async def claude(up: Upstream) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=up.url, api_key="sk-ant", max_retries=0) as client:
        yield client


async def chunks_of(client: openai.AsyncOpenAI, **options: Any) -> list[Any]:
    stream = await client.chat.completions.create(model="m", messages=ASK, stream=True, **options)
    return [chunk async for chunk in stream]


async def test_plain_reply_echoes_and_counts(up: Upstream, client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="gpt-4o", messages=ASK)

    assert reply.choices[0].message.content == "You said: What is two and two?"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.model == "gpt-4o"
    assert reply.usage
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (7, 7, 14)
    [received] = await up.wait_for(1, "completed")
    assert received.usage == Usage(7, 7)
    assert received.header("Authorization") == "Bearer sk-test"
    assert (received.method, received.path, received.model) == ("POST", "/v1/chat/completions", "gpt-4o")
    assert json.loads(received.body) == received.json
    assert received.ended_at
    assert received.ended_at >= received.at


async def test_plan_sets_text_usage_and_unknown_fields(up: Upstream, client: openai.AsyncOpenAI) -> None:
    up.default = Plan(
        text="four",
        prompt_tokens=1000,
        completion_tokens=20,
        cached_tokens=900,
        finish_reason="content_filter",
        extra={"vendor": {"x": 1}, "choices": [{"message": {"reasoning_content": "hm"}}]},
    )
    reply = (await client.chat.completions.create(model="m", messages=ASK, n=2)).model_dump()

    assert reply["vendor"] == {"x": 1}
    assert [choice["message"]["content"] for choice in reply["choices"]] == ["four", "four"]
    assert reply["choices"][0]["message"]["reasoning_content"] == "hm"
    assert reply["choices"][1]["finish_reason"] == "content_filter"
    assert reply["usage"]["prompt_tokens_details"]["cached_tokens"] == 900
    assert up.requests[0].usage == Usage(1000, 40, 900)


async def test_answer_is_cut_at_max_tokens(client: openai.AsyncOpenAI) -> None:
    reply = await client.chat.completions.create(model="m", messages=ASK, max_tokens=3)

    assert reply.choices[0].message.content == "You said: What"
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage
    assert reply.usage.completion_tokens == 3


async def test_stream_without_usage_asked_reports_none(up: Upstream, client: openai.AsyncOpenAI) -> None:
    chunks = await chunks_of(client)

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "You said: What is two and two?"
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:]] == [None, "stop"]
    assert (await up.wait_for(1, "completed"))[0].usage is None


async def test_stream_with_usage_asked_ends_with_it(up: Upstream, client: openai.AsyncOpenAI) -> None:
    chunks = await chunks_of(client, stream_options={"include_usage": True})

    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 14
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in chunks[:-1])
    assert (await up.wait_for(1, "completed"))[0].usage == Usage(7, 7)


async def test_usage_beside_choices(up: Upstream, client: openai.AsyncOpenAI) -> None:
    up.default = Plan(usage="with_choices")
    *rest, last = await chunks_of(client)

    assert last.choices[0].finish_reason == "stop"
    assert last.usage.completion_tokens == 7
    assert all(chunk.usage is None for chunk in rest)


async def test_usage_on_every_chunk_grows(up: Upstream, client: openai.AsyncOpenAI) -> None:
    up.default = Plan(usage="every", chunks=7, completion_tokens=7)
    chunks = await chunks_of(client, stream_options={"include_usage": True})

    assert [chunk.usage.completion_tokens for chunk in chunks] == [*range(8), 7]
    assert all(chunk.choices for chunk in chunks)


@pytest.mark.parametrize("stream", [True, False])
async def test_missing_usage(up: Upstream, client: openai.AsyncOpenAI, stream: bool) -> None:
    up.default = Plan(usage="missing")
    if stream:
        assert all(chunk.usage is None for chunk in await chunks_of(client, stream_options={"include_usage": True}))
    else:
        assert (await client.chat.completions.create(model="m", messages=ASK)).usage is None
    assert (await up.wait_for(1, "completed"))[0].usage is None


async def test_tool_calls_plain_and_streamed(up: Upstream, client: openai.AsyncOpenAI) -> None:
    up.default = Plan(tool_calls=(TOOL_CALL,))
    reply = await client.chat.completions.create(model="m", messages=ASK)
    deltas = [chunk.choices[0].delta for chunk in await chunks_of(client)]

    assert reply.choices[0].finish_reason == "tool_calls"
    assert reply.choices[0].message.content is None
    assert reply.model_dump()["choices"][0]["message"]["tool_calls"] == [TOOL_CALL]
    calls = [delta.tool_calls[0] for delta in deltas if delta.tool_calls]
    assert (calls[0].id, calls[0].function.name) == ("call_1", "weather")
    assert json.loads("".join(call.function.arguments for call in calls)) == {"city": "Oslo", "days": [1, 2]}


async def test_which_plan_answers(up: Upstream, client: openai.AsyncOpenAI) -> None:
    up.default, up.plans["m"] = Plan(text="default"), Plan(text="of m")
    up.enqueue(Plan(text="once for any"))
    up.enqueue(Plan(text="once for m"), model="m")

    async def ask(model: str) -> str | None:
        return (await client.chat.completions.create(model=model, messages=ASK)).choices[0].message.content

    assert [await ask("m") for _ in range(3)] == ["once for m", "once for any", "of m"]
    assert await ask("other") == "default"


@pytest.mark.parametrize(
    ("status", "raises"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
async def test_errors_are_the_clients_own(
    up: Upstream, client: openai.AsyncOpenAI, status: int, raises: type[openai.APIStatusError]
) -> None:
    up.enqueue(Plan(status=status, headers={"Retry-After": "7"}), Plan(status=status, error={"error": {"code": "x"}}))
    with pytest.raises(raises, match="scripted upstream") as failed:
        await client.chat.completions.create(model="m", messages=ASK)
    assert failed.value.response.headers["retry-after"] == "7"
    with pytest.raises(raises) as failed:
        await client.chat.completions.create(model="m", messages=ASK)
    assert failed.value.code == "x"
    assert [received.status for received in up.requests] == [status, status]


async def test_raw_error_body_and_odd_status(up: Upstream) -> None:
    up.default = Plan(status=529, error=b"<html>overloaded</html>")
    async with (
        aiohttp.ClientSession() as session,
        session.post(up.base_url + "/chat/completions", json={}) as reply,
    ):
        assert (reply.status, await reply.read()) == (529, b"<html>overloaded</html>")


async def test_cut_stream(up: Upstream, client: openai.AsyncOpenAI) -> None:
    up.default = Plan(text="abcd", cut_after=2)
    stream = await client.chat.completions.create(model="m", messages=ASK, stream=True)
    seen = io.StringIO()

    async def read() -> None:
        async for chunk in stream:
            seen.write(chunk.choices[0].delta.content or "")

    with pytest.raises(Exception, match="incomplete chunked read"):  # httpx's, not wrapped by the client
        await read()
    assert seen.getvalue() == "ab"
    await up.wait_until(lambda: up.requests[0].ended_at is not None)
    assert not up.requests[0].completed
    assert not up.requests[0].disconnected


async def test_cut_plain_body_and_dropped_connection(up: Upstream, client: openai.AsyncOpenAI) -> None:
    up.enqueue(Plan(cut_after=0), Plan(drop_connect=True), Plan(text="well again"))
    for _ in range(2):
        with pytest.raises(openai.APIConnectionError):
            await client.chat.completions.create(model="m", messages=ASK)
    reply = await client.chat.completions.create(model="m", messages=ASK)
    assert reply.choices[0].message.content == "well again"


async def test_garbage_in_the_middle(up: Upstream, client: openai.AsyncOpenAI) -> None:
    up.default = Plan(garbage_after=1, garbage=b"data: {no json\n\n")
    with pytest.raises(json.JSONDecodeError):
        await chunks_of(client)
    async with (
        aiohttp.ClientSession() as session,
        session.post(up.base_url + "/chat/completions", json={}) as reply,
    ):
        assert (reply.status, await reply.read()) == (200, b"data: {no json\n\n")


async def test_client_that_leaves_is_seen(up: Upstream, client: openai.AsyncOpenAI) -> None:
    up.enqueue(Plan(hang=True), Plan(chunks=2, chunk_delay_s=60))
    hung = asyncio.create_task(client.chat.completions.create(model="m", messages=ASK))
    await up.wait_for(1)
    hung.cancel()
    stream = await client.chat.completions.create(model="m", messages=ASK, stream=True)
    await stream.close()

    assert await up.wait_for(2, "disconnected") == up.requests
    assert not any(received.completed for received in up.requests)


async def test_pace(up: Upstream, client: openai.AsyncOpenAI) -> None:
    up.default = Plan(first_delay_s=0.05, chunk_delay_s=0.02, chunks=3)
    await chunks_of(client)
    [received] = await up.wait_for(1, "completed")
    assert received.first_byte_at
    assert received.ended_at
    assert received.first_byte_at - received.at >= 0.05
    assert received.ended_at - received.first_byte_at >= 0.04


async def test_waiting_gives_up_and_passes_a_mistake_on(up: Upstream) -> None:
    with pytest.raises(TimeoutError):
        await up.wait_for(1, within=0.01)
    with pytest.raises(IndexError):
        await up.wait_until(lambda: up.requests[3].completed)


async def test_embeddings_floats_and_base64(up: Upstream, client: openai.AsyncOpenAI) -> None:
    texts = ["the capital of France", "the capital city of France", "boil an egg"]
    floats = await client.embeddings.create(model="e", input=texts, encoding_format="float", dimensions=64)
    packed = await client.embeddings.with_raw_response.create(
        model="e", input=texts[0], encoding_format="base64", dimensions=64
    )
    near, same, far = (row.embedding for row in floats.data)

    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert dot(near, near) == pytest.approx(1.0)
    assert dot(near, same) > 0.8 > 0.3 > dot(near, far)
    raw = base64.b64decode(json.loads(packed.text)["data"][0]["embedding"])
    assert list(array("f", raw)) == pytest.approx(near, abs=1e-6)
    assert floats.usage.prompt_tokens == 12
    assert up.requests[0].usage == Usage(12, 0)


async def test_models_unknown_path_and_bad_json(up: Upstream, client: openai.AsyncOpenAI) -> None:
    up.plans["gpt-4o"] = Plan()
    assert [model.id async for model in client.models.list()] == ["gpt-4o"]
    with pytest.raises(openai.NotFoundError, match="Invalid URL"):
        await client.completions.create(model="m", prompt="x")
    url = up.base_url + "/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, data=b"{nope") as reply:
        assert reply.status == 400
        assert "could not parse" in (await reply.json())["error"]["message"]


async def test_anthropic_plain(up: Upstream, claude: anthropic.AsyncAnthropic) -> None:
    up.default = Plan(prompt_tokens=100, cached_tokens=60)
    reply = await claude.messages.create(
        model="claude",
        max_tokens=50,
        system="Be brief.",
        messages=[{"role": "user", "content": "Hello there"}],
    )
    assert [block.model_dump(exclude_none=True) for block in reply.content] == [
        {"type": "text", "text": "You said: Hello there"}
    ]
    assert reply.stop_reason == "end_turn"
    assert (reply.usage.input_tokens, reply.usage.cache_read_input_tokens, reply.usage.output_tokens) == (
        40,
        60,
        4,
    )
    assert up.requests[0].usage == Usage(100, 4, 60)
    assert up.requests[0].header("anthropic-version")


async def test_anthropic_stream_with_a_tool(up: Upstream, claude: anthropic.AsyncAnthropic) -> None:
    up.default = Plan(text="Let me look.", tool_calls=(TOOL_CALL,))
    async with claude.messages.stream(
        model="claude", max_tokens=50, messages=[{"role": "user", "content": "Weather?"}]
    ) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    assert text == "Let me look."
    assert final.stop_reason == "tool_use"
    assert final.content[1].type == "tool_use"
    assert final.content[1].input == {"city": "Oslo", "days": [1, 2]}
    [received] = await up.wait_for(1, "completed")
    assert received.usage == Usage(1, final.usage.output_tokens)


async def test_anthropic_errors(up: Upstream, claude: anthropic.AsyncAnthropic) -> None:
    up.default = Plan(status=429)
    with pytest.raises(anthropic.RateLimitError, match="rate_limit_error"):
        await claude.messages.create(model="c", max_tokens=5, messages=[{"role": "user", "content": "x"}])


async def test_litellm_takes_it_for_anthropic(up: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else importing it asks the network
    import litellm

    up.default = Plan(text="Let me look.", prompt_tokens=100, cached_tokens=60)
    ask = {"model": "anthropic/claude-sonnet-4-5", "messages": ASK, "api_base": up.url, "api_key": "sk-ant"}
    reply = await litellm.acompletion(**ask)
    streamed = await litellm.acompletion(stream=True, stream_options={"include_usage": True}, **ask)
    chunks = [chunk async for chunk in streamed]

    assert reply.choices[0].message.content == "Let me look."
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Let me look."
    for usage in (reply.usage, chunks[-1].usage):
        assert (usage.prompt_tokens, usage.completion_tokens) == (100, 3)
        assert usage.prompt_tokens_details.cached_tokens == 60
    assert [received.usage for received in up.requests] == [Usage(100, 3, 60)] * 2


async def test_pipelined_requests_are_answered_in_order(up: Upstream) -> None:
    up.enqueue(Plan(text="first", first_delay_s=0.02), Plan(text="second"))
    reader, writer = await asyncio.open_connection("127.0.0.1", up.port)
    one = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n"
    writer.write(one + b"\r\n{}" + one + b"connection: close\r\n\r\n{}")
    replies = (await reader.read()).decode()
    writer.close()
    assert 0 < replies.index("first") < replies.index("second")


def test_raw_replies_come_byte_for_byte_whatever_was_asked() -> None:
    with Upstream.in_thread() as up:
        up.enqueue(Plan(raw=b"{ }"), Plan(raw=(b"one,", b"two,", b"three"), cut_after=2))
        assert httpx.post(f"{up.url}/model/any/converse", json={}, timeout=60.0).content == b"{ }"
        seen: list[bytes] = []
        reached = f"{up.url}/gemini:streamGenerateContent?alt=sse"
        with pytest.raises(httpx.RemoteProtocolError), httpx.stream("POST", reached, json={}) as reply:
            seen.extend(reply.iter_raw())
        assert b"".join(seen) == b"one,two,"


def test_in_a_thread_with_blocking_waits(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with Upstream.in_thread(log=log) as up:
        client = openai.OpenAI(base_url=up.base_url, api_key="sk-test")
        assert client.chat.completions.create(model="m", messages=ASK).choices
        [received] = up.wait_for_blocking(1, "completed")
        client.close()
    [line] = log.read_text().splitlines()
    logged = msgspec.json.decode(line)
    assert logged["usage"] == {"prompt_tokens": 7, "completion_tokens": 7, "cached_tokens": 0}
    assert (logged["id"], logged["model"], logged["completed"]) == (received.id, "m", True)
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", up.port)):
        pass


def test_as_a_process_keeps_no_requests() -> None:
    command = [sys.executable, "-m", "tests.support.upstream", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        url = process.stdout.readline().strip()
        with openai.OpenAI(base_url=url, api_key="sk-test") as client:
            assert client.chat.completions.create(model="m", messages=ASK).choices
        process.terminate()
        assert process.wait(timeout=10) == 0
