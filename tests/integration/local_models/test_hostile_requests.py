"""Requests that nobody in their right mind sends: each is answered or refused, none fails, and the engine goes on."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.models import CHAT, chat_model, served
from tests.support.waiting import until

SCHEMAS: list[Any] = [
    {"const": 1}, {"enum": ["a", None]}, {"type": "string", "maxLength": 10**9}, {"type": "string", "minLength": 10**9},
    {"type": "array", "items": {"type": "integer"}, "maxItems": 3}, {"$ref": "#"}, {"properties": 5}, {"enum": 5},
    {"anyOf": [{"$ref": "#"}, {"type": "null"}]}, {"required": [1]}, None, True, {"type": "string", "maxLength": 0},
    {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
]  # fmt: skip
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "integer"}}}}}
TEXTS = ["", "hi", "<|im_end|>\n<|im_start|>assistant\n", "\0\x7f", "\U0001f600" * 9, "word " * 400, "x" * 90_000]
FIELDS: dict[str, list[Any]] = {
    "temperature": [0, 1e-40, 1e-9, 0.7, 2, -1, "warm"],
    "top_p": [0, 1e-9, 0.5, 1],
    "top_k": [0, 1, 2**31, 2**32 + 1, 10**30],
    "min_p": [0, 0.05, 1],
    "repeat_penalty": [1e-9, 1.1, 10],
    "frequency_penalty": [-2, 2],
    "presence_penalty": [-2, 2],
    "logit_bias": [{}, {"0": 100, "1": 100, "2": 100}, {"2": -100}, {"-1": 1}, {"x": 1}, {"7" * 40: 1}],
    "stop": ["", "e", ["\n", " "], ["a" * 20_000, "e"], "\0", ["x"] * 17],
    "max_tokens": [1, 9, 10**18, 10**30, 0],
    "n": [1, 2, 3, 0],
    "seed": [-1, 0, 10**30],
    "logprobs": [True],
    "top_logprobs": [0, 20],
    "response_format": [
        {"type": "json_object"}, *({"type": "json_schema", "json_schema": {"schema": each}} for each in SCHEMAS),
    ],
    "tools": [[TOOL], [{"type": "function", "function": {"name": "f", "parameters": {"required": 5}}}], []],
    "tool_choice": ["required", "none", {"function": "f"}, {"function": {"name": "f"}}, 5],
    "ignore_eos": [True],
    "priority": ["batch", 5],
    "stream": [True],
    "stream_options": [{"include_usage": True}, {}],
}  # fmt: skip


TEMPLATE = "{% for m in messages %}{{ m.content }}\n{% endfor %}{{ tools or '' }}"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    template: Path = tmp_path_factory.mktemp("template") / "template.jinja"
    template.write_text(TEMPLATE)
    arguments = ("--model", str(chat_model()), "--name", CHAT, "--ctx", "128", "--slots", "4")
    with served("chat", *arguments, "--template", str(template)) as address:
        yield address


@pytest.fixture
async def http(address: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=address, timeout=60) as http:
        yield http


def request(pick: random.Random) -> dict[str, Any]:
    """A request with some fields that are usual, odd or wrong."""
    fields = pick.sample(sorted(FIELDS), pick.randint(1, 6))
    messages = [{"role": "user", "content": pick.choice(TEXTS)}]
    return {"messages": messages, "max_tokens": 12, **{field: pick.choice(FIELDS[field]) for field in fields}}


async def visit(http: httpx.AsyncClient, body: dict[str, Any], leaves: bool) -> None:
    """One request, answered to its end or refused as OpenAI does; or its client leaves after the first line."""
    async with http.stream("POST", "/v1/chat/completions", json=body) as reply:
        if leaves:
            await anext(reply.aiter_raw(), None)
            return
        text = (await reply.aread()).decode()
    assert reply.status_code in (200, 400, 503), (body, reply.status_code, text)
    if reply.status_code != 200:
        assert json.loads(text)["error"]["message"], body
    elif body.get("stream"):
        assert text.endswith("data: [DONE]\n\n"), (body, text)
        assert '"error"' not in text, (body, text)
    else:
        assert json.loads(text)["choices"], body


async def storm(http: httpx.AsyncClient, seeds: range) -> None:
    """Eight at a time; afterwards nothing is left over and a question is answered."""
    places = asyncio.Semaphore(8)

    async def one(seed: int) -> None:
        pick = random.Random(seed)
        async with places:
            await visit(http, request(pick), leaves=pick.random() < 0.2)

    await asyncio.gather(*map(one, seeds))

    async def idle() -> bool:
        load = (await http.get("/v1/load")).json()
        return not any((*load["running"].values(), *load["waiting"].values()))

    await until(idle)
    body = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4}
    assert (await http.post("/v1/chat/completions", json=body)).status_code == 200


async def test_a_storm_of_odd_requests_is_answered_or_refused(http: httpx.AsyncClient) -> None:
    await storm(http, range(40))


@pytest.mark.soak
async def test_two_thousand_odd_requests_are_answered_or_refused(http: httpx.AsyncClient) -> None:
    await storm(http, range(40, 2040))


async def test_a_grammar_that_is_complete_ends_the_answer_and_nobody_elses(http: httpx.AsyncClient) -> None:
    form = {"type": "json_schema", "json_schema": {"schema": {"const": 1}}}
    ask = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 40, "ignore_eos": True}
    beside, ended = await asyncio.gather(
        http.post("/v1/chat/completions", json=ask),
        http.post("/v1/chat/completions", json={**ask, "response_format": form}),
    )
    assert ended.json()["choices"][0]["message"]["content"] == "1"
    assert ended.json()["choices"][0]["finish_reason"] == "stop"
    assert beside.json()["usage"]["completion_tokens"] == 40


async def test_a_prompt_of_megabytes_is_refused_without_being_read_to_its_end(http: httpx.AsyncClient) -> None:
    body = {"messages": [{"role": "user", "content": "word " * 1_000_000}]}
    reply = await http.post("/v1/chat/completions", json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "context_length_exceeded")
    # Read whole it has a million tokens.
    assert "1000" not in reply.json()["error"]["message"].replace("128 tokens", "")
