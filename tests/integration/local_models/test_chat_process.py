"""The chat process as its clients see it: a real subprocess, a real GGUF, the official openai client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.models import CHAT, chat_model, free_port, process, served, wait_ready

ASK: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
LONG: list[Any] = [{"role": "user", "content": "Count from one to one thousand, in words."}]
QUEUE, UNBOUNDED = 3, 40


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    defaults = json.dumps({"temperature": 0.2, "top_p": 0.9})
    arguments = (
        "--model",
        str(chat_model()),
        "--name",
        CHAT,
        "--ctx",
        "2048",
        "--max-queue",
        str(QUEUE),
        "--default-max-tokens",
        str(UNBOUNDED),
        "--slots",
        "1",
    )
    with served("chat", *arguments, "--defaults", defaults) as address:
        yield address


def ask(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(model=CHAT, **{"messages": ASK, "max_tokens": 32, **more})


def test_an_easy_question_is_answered(client: openai.OpenAI) -> None:
    reply = ask(client, temperature=0)
    assert "Paris" in reply.choices[0].message.content
    assert reply.model == CHAT
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert 30 < reply.usage.prompt_tokens < 50
    timings = reply.timings
    assert timings["predicted_n"] == reply.usage.completion_tokens
    assert timings["prompt_ms"] > 0
    assert timings["predicted_ms"] > 0


def test_the_stream_adds_up_to_the_plain_reply(client: openai.OpenAI) -> None:
    plain = ask(client, temperature=0)
    chunks = list(ask(client, temperature=0, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == plain.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == plain.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens
    assert chunks[-1].timings["predicted_n"] == plain.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_without_the_usage_chunk_the_last_one_carries_the_timings(client: openai.OpenAI) -> None:
    chunks = list(ask(client, max_tokens=3, stream=True))
    assert chunks[-1].choices[0].finish_reason == "length"
    assert chunks[-1].timings["predicted_n"] == 3


def test_a_seed_gives_the_same_text_again(client: openai.OpenAI) -> None:
    texts = [ask(client, temperature=1.2, seed=seed).choices[0].message.content for seed in (5, 5, 6)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_the_length_is_bounded(client: openai.OpenAI, field: str) -> None:
    reply = ask(client, messages=LONG, **{"max_tokens": None, field: 5})
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.completion_tokens == 5


@pytest.mark.parametrize(
    ("asked", "drawn"), [({}, UNBOUNDED), ({"max_tokens": None}, UNBOUNDED), ({"max_tokens": 45}, 45)]
)
def test_an_answer_that_nobody_bounds_is_bounded_by_the_process(
    client: openai.OpenAI, asked: dict[str, Any], drawn: int
) -> None:
    reply = client.chat.completions.create(model=CHAT, messages=LONG, extra_body={"ignore_eos": True}, **asked)
    assert (reply.choices[0].finish_reason, reply.usage.completion_tokens) == ("length", drawn)


@pytest.mark.parametrize("stop", ["France", ["nowhere", "of France is"]])
def test_a_stop_string_across_tokens_is_never_sent(client: openai.OpenAI, stop: Any) -> None:
    chunks = list(ask(client, temperature=0, stop=stop, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert text.startswith("The capital")
    assert "France" not in text


def test_characters_are_never_split(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Repeat exactly: 😀 naïve 日本語 😀 😀 😀"}]
    for chunk in ask(client, messages=messages, stream=True, temperature=0.9, seed=3, max_tokens=48):
        assert "�" not in (chunk.choices[0].delta.content or "")


def test_text_parts_are_one_text(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "What is the capital "}, {"type": "text", "text": "of France?"}]
    whole = ask(client, temperature=0)
    assert ask(client, temperature=0, messages=[{"role": "user", "content": parts}]).usage == whole.usage


def test_a_conversation_reuses_its_beginning(client: openai.OpenAI) -> None:
    start = [{"role": "user", "content": "My name is Ada. " + "I like long walks. " * 40}]
    first = ask(client, messages=start, max_tokens=8)
    answer = {"role": "assistant", "content": first.choices[0].message.content}
    second = ask(client, messages=[*start, answer, {"role": "user", "content": "And my name?"}], max_tokens=8)
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.prompt_tokens
    assert second.timings["prompt_n"] < 40


def test_a_prompt_past_the_context_is_refused_with_counts(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, messages=[{"role": "user", "content": "word " * 3000}])
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"
    assert "2048 tokens" in caught.value.message
    assert "3031 tokens" in caught.value.message


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported"),
        ({"n": 0}, "n", "invalid_request"),
        ({"n": 17}, "n", "invalid_request"),
        ({"response_format": {"type": "xml"}}, "response_format", "invalid_request"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format", "invalid_request"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"pattern": "a+"}}}},
            "response_format",
            "unsupported",
        ),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_request"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_request"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias", "invalid_request"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "invalid_request"),
        ({"top_k": -1}, "top_k", "invalid_request"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "7"}]},
            "messages[1]",
            "unsupported",
        ),
        ({"messages": []}, "messages", "invalid_request"),
        ({"messages": "hi"}, "messages", "invalid_request"),
        ({"messages": [{"role": "wizard", "content": "hi"}]}, "messages[0].role", "invalid_request"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role", "invalid_request"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]", "unsupported"),
        ({"max_tokens": 0}, "max_tokens", "invalid_request"),
        ({"max_tokens": "many"}, "max_tokens", "invalid_request"),
        ({"temperature": 2.5}, "temperature", "invalid_request"),
        ({"top_p": -1}, "top_p", "invalid_request"),
        ({"stop": [7]}, "stop[0]", "invalid_request"),
        ({"seed": 1.5}, "seed", "invalid_request"),
    ],
)
async def test_a_bad_request_is_refused_by_the_name_of_its_field(
    http: httpx.AsyncClient, change: dict[str, Any], param: str, code: str
) -> None:
    reply = await http.post("/v1/chat/completions", json={"messages": ASK, **change})
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["code"]) == (400, param, code)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"a":' * 50_000, b'{"messages": "\\ud800"}'])
async def test_rubbish_is_a_400_in_openais_format(http: httpx.AsyncClient, content: bytes) -> None:
    reply = await http.post("/v1/chat/completions", content=content)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"]


async def test_too_big_a_body_is_refused_however_it_is_sent(http: httpx.AsyncClient) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b" " * (1 << 20)

    reply = await http.post("/v1/chat/completions", content=body())
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")


async def test_other_models_paths_and_methods_are_refused_in_openais_format(http: httpx.AsyncClient) -> None:
    wrong = await http.post("/v1/chat/completions", json={"model": "gpt-4o", "messages": ASK})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (404, "model_not_found")
    assert (await http.get("/v1/nothing")).json()["error"]["code"] == "not_found"
    assert (await http.get("/v1/chat/completions")).status_code == 405
    assert (await http.get("/v1/models")).json()["data"][0]["id"] == CHAT


@contextlib.asynccontextmanager
async def endless(http: httpx.AsyncClient) -> AsyncIterator[None]:
    """A long answer that is being streamed; left at the end of the block."""
    body = {"messages": LONG, "stream": True, "temperature": 0, "max_tokens": 1900}
    async with http.stream("POST", "/v1/chat/completions", json=body) as stream:
        await anext(stream.aiter_lines())
        yield


async def test_leaving_mid_stream_frees_the_engine(http: httpx.AsyncClient) -> None:
    before = await drawn(http)
    async with endless(http):
        pass
    reply = await http.post("/v1/chat/completions", json={"messages": ASK, "max_tokens": 1})
    assert reply.status_code == 200
    # There is one slot: of the answer that was left little has been computed, of its 1,900 tokens.
    assert await drawn(http) - before < 1000


async def drawn(http: httpx.AsyncClient) -> float:
    """Tokens of answers so far."""
    told = (await http.get("/metrics")).text
    return sum(map(float, re.findall(r'^engine_tokens_total{kind="completion"} (.*)$', told, re.MULTILINE)))


async def test_leaving_a_plain_or_waiting_request_gives_its_place_back(http: httpx.AsyncClient) -> None:
    body = {"messages": LONG, "max_tokens": 1900}
    async with endless(http):
        # One more than there are places: when it is refused, the queue is full.
        tasks = [asyncio.create_task(http.post("/v1/chat/completions", json=body)) for _ in range(QUEUE + 1)]
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result().status_code for task in done] == [503]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    # Answered to the end, they would take minutes.
    async with asyncio.timeout(20):
        while (await http.post("/v1/chat/completions", json={"messages": ASK, "max_tokens": 1})).status_code != 200:
            pass


async def test_a_crowd_is_shed_at_once_and_the_rest_answered(http: httpx.AsyncClient) -> None:
    body = {"messages": ASK, "max_tokens": 2}
    replies = await asyncio.gather(*(http.post("/v1/chat/completions", json=body) for _ in range(40)))
    statuses = [reply.status_code for reply in replies]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= QUEUE + 1
    refused = next(reply for reply in replies if reply.status_code == 503)
    assert refused.json()["error"]["code"] == "overloaded"
    assert 1 <= int(refused.headers["retry-after"]) <= 60


def test_it_listens_at_once_on_a_socket_and_a_stream_survives_sigterm(tmp_path: Path) -> None:
    socket = tmp_path / "chat.sock"
    body = {"messages": LONG, "stream": True, "max_tokens": 60, "temperature": 0}
    with (
        process("chat", "--model", str(chat_model()), "--name", "m", "--uds", str(socket)) as child,
        httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://model", timeout=60) as http,
    ):
        assert 503 in wait_ready(http, child)
        with http.stream("POST", "/v1/chat/completions", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            child.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert len(rest) > 40
        assert child.wait(10) == 0
        assert child.stderr is not None
        assert child.stderr.read() == ""


def test_a_file_that_is_no_model_ends_the_process_with_the_reason(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"not a model, whatever its name says")
    with process("chat", "--model", str(bad), "--name", "m", "--port", str(free_port())) as child:
        assert child.wait(30) == 1
        assert child.stderr is not None
        assert "a GGUF file starts with b'GGUF'" in child.stderr.read()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["chat", "--model", "/none.gguf", "--name", "m", "--port", "1"], "does not exist"),
        (["chat", "--model", "/etc/hosts", "--name", "m"], "--uds"),
        (["chat", "--model", "/etc/hosts", "--name", "m", "--port", "1", "--defaults", '{"heat": 1}'], "heat"),
        (["embed", "--model", "/etc", "--port", "1", "--threads", "0"], "at least 1"),
        (["sing"], "COMMAND"),
    ],
)
def test_wrong_usage_is_status_2_and_a_reason(arguments: list[str], complaint: str) -> None:
    with process(*arguments) as child:
        assert child.wait(30) == 2
        assert child.stderr is not None
        assert complaint in child.stderr.read()


def test_help_shows_both_processes() -> None:
    with subprocess.Popen([sys.executable, "-m", "local_models", "--help"], stdout=subprocess.PIPE, text=True) as child:
        shown = child.communicate(timeout=30)[0]
    assert "chat" in shown
    assert "embed" in shown
    assert "examples:" in shown


async def test_a_crowd_of_batch_jobs_does_not_take_an_interactive_requests_place(http: httpx.AsyncClient) -> None:
    body = {"messages": ASK, "max_tokens": 2, "priority": "batch"}
    jobs = [asyncio.create_task(http.post("/v1/chat/completions", json=body)) for _ in range(30)]
    while (await http.get("/v1/load")).json()["waiting"]["batch"] < 5:
        pass
    reply = await http.post("/v1/chat/completions", json={"messages": ASK, "max_tokens": 2})
    assert reply.status_code == 200
    assert not all(job.done() for job in jobs)
    assert {job.status_code for job in await asyncio.gather(*jobs)} == {200}
