"""Answers that must have a form: JSON schemas by grammar, tool calls, several choices, over the real model."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest

from local_models.chat.engine import Engine
from local_models.chat.grammar import from_schema
from local_models.chat.sampling import Sampler
from tests.support.engines import ask, engine, read
from tests.support.models import CHAT, chat_model, served

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if loop.first and tools %}Tools: {{ tools | tojson }}\n{% endif %}{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>\n{{ call.function | tojson }}\n</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 12},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city", "days"],
        },
    },
}


def bounded(pick: random.Random, depth: int = 0) -> dict[str, Any]:
    """A random schema whose values are finite."""
    kinds = ["string", "integer", "number", "boolean", "enum", "format", "nullable"] + ["object", "array"] * (depth < 2)
    kind = pick.choice(kinds)
    if kind == "string":
        least = pick.randint(0, 3)
        return {"type": "string", "minLength": least, "maxLength": least + pick.randint(0, 12)}
    if kind in ("integer", "number"):
        low = pick.randint(-500, 500)
        return {"type": kind, "minimum": low, "exclusiveMaximum": low + pick.randint(1, 900)}
    if kind == "enum":
        return {"enum": pick.sample(["red", "grün", 7, None, 'a"b', True], pick.randint(1, 4))}
    if kind == "format":
        return {"type": "string", "format": pick.choice(["date", "uuid", "ipv4", "date-time"])}
    if kind == "nullable":
        return {"type": [pick.choice(["integer", "boolean"]), "null"]}
    if kind == "array":
        least = pick.randint(0, 2)
        items = bounded(pick, depth + 1)
        return {"type": "array", "items": items, "minItems": least, "maxItems": least + pick.randint(0, 2)}
    if kind == "object":
        names = pick.sample(["name", "größe", "count", "tags", "when"], pick.randint(1, 3))
        required = [name for name in names if pick.random() < 0.7]
        properties = {name: bounded(pick, depth + 1) for name in names}
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"type": kind}


async def check(made: Engine, count: int) -> None:
    """Every bounded schema ends, with a value that is valid under it, drawn wildly."""
    schemas = [bounded(random.Random(seed)) for seed in range(count)]
    streams = [
        ask(
            made, f"Give me a value, number {seed}.", 400, lane="batch",
            sampler=Sampler(temperature=1.5, seed=seed, grammar=from_schema(schema)),
        )
        for seed, schema in enumerate(schemas)
    ]  # fmt: skip
    for schema, (text, last) in zip(schemas, await asyncio.gather(*map(read, streams)), strict=True):
        assert last.finish == "stop", (schema, text)
        jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())


async def test_random_bounded_schemas_are_valid() -> None:
    async with engine(context=512, slots=8) as made:
        await check(made, 16)


@pytest.mark.soak
async def test_a_hundred_random_bounded_schemas_are_valid() -> None:
    async with engine(context=1024, slots=16) as made:
        await check(made, 100)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Any:
    template: Path = tmp_path_factory.mktemp("template") / "template.jinja"
    template.write_text(TEMPLATE)
    arguments = ("--model", str(chat_model()), "--name", CHAT, "--ctx", "1024", "--template", str(template))
    with served("chat", *arguments) as address, openai.OpenAI(base_url=f"{address}/v1", api_key="none") as client:
        yield client


def test_a_forced_tool_call_has_arguments_its_schema_takes(client: openai.OpenAI) -> None:
    ask_weather: Any = [{"role": "user", "content": "Weather in Rome for three days?"}]
    reply = client.chat.completions.create(
        model=CHAT, messages=ask_weather, tools=[TOOL], tool_choice="required", max_tokens=80, temperature=0
    )
    (call,) = reply.choices[0].message.tool_calls or []
    assert reply.choices[0].finish_reason == "tool_calls"
    assert (call.type, reply.choices[0].message.content) == ("function", None)
    assert call.type == "function"
    jsonschema.validate(json.loads(call.function.arguments), TOOL["function"]["parameters"])
    streamed = client.chat.completions.create(
        model=CHAT,
        messages=ask_weather,
        tools=[TOOL],
        tool_choice="required",
        max_tokens=80,
        temperature=0,
        stream=True,
    )
    chunks = [chunk.choices[0] for chunk in streamed]
    parts = [each for chunk in chunks for each in chunk.delta.tool_calls or []]
    assert "".join(part.function.arguments or "" for part in parts if part.function) == call.function.arguments
    assert chunks[-1].finish_reason == "tool_calls"
    answered: Any = [
        *ask_weather,
        reply.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    after = client.chat.completions.create(
        model=CHAT, messages=answered, tools=[TOOL], tool_choice="none", max_tokens=4
    )
    assert after.choices[0].message.tool_calls is None


def test_several_choices_logprobs_and_a_schema_through_the_official_client(client: openai.OpenAI) -> None:
    digit = {"type": "integer", "minimum": 1, "maximum": 9}
    schema: Any = {"type": "object", "properties": {"n": digit}, "required": ["n"]}
    reply = client.chat.completions.create(
        model=CHAT, messages=[{"role": "user", "content": "A digit as JSON."}], n=3, seed=4, temperature=1.2,
        max_tokens=20, logprobs=True, top_logprobs=2,
        response_format={"type": "json_schema", "json_schema": {"name": "d", "schema": schema}},
    )  # fmt: skip
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    for choice in reply.choices:
        jsonschema.validate(json.loads(choice.message.content or ""), schema)
        assert choice.logprobs is not None
        tokens = choice.logprobs.content or []
        assert "".join(token.token for token in tokens) == choice.message.content
        assert all(len(token.top_logprobs) == 2 for token in tokens)
    assert reply.usage is not None
    assert reply.usage.completion_tokens >= 3 * 3
    extra = reply.model_extra or {}
    assert 0 < extra["confidence"] <= 1
    assert set(extra["confidence_details"]) >= {"mean_logprob", "min_logprob", "uncertain_share", "tokens"}


def test_choices_stream_side_by_side_and_any_object_is_json(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=CHAT, messages=[{"role": "user", "content": "Say hello."}], n=2, max_tokens=6, temperature=0, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)
    texts = ["", ""]
    for chunk in chunks[:-1]:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts[0] == texts[1] != ""
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens >= 4
    reply = client.chat.completions.create(
        model=CHAT, messages=[{"role": "user", "content": "Anna is 7. As JSON."}], max_tokens=60, temperature=0,
        response_format={"type": "json_object"},
    )  # fmt: skip
    content = reply.choices[0].message.content or ""
    assert content.startswith("{")
    if reply.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(content), dict)
