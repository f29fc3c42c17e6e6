"""Every reply shape through real HTTP, raw and with the official client: the row, the dollars and the usage object.

The fixtures say what a provider sends and, computed by hand beside it, what that costs to the nano-dollar.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import openai
import pytest
import pytest_asyncio

from gateway.backends.litellm_hosted import imported
from gateway.types import LedgerEntry
from tests.conformance.shapes import EVERY, Case, Shape, every, shapes
from tests.support.gateway import Gateway, gateway, hosted
from tests.support.upstream import Plan, Upstream

PROMPT = "What is the capital of France?"
WITH_USAGE = {"stream_options": {"include_usage": True}}
COLUMNS = {
    "prompt": "prompt_tokens",
    "completion": "completion_tokens",
    "cached": "cached_tokens",
    "written": "cache_write_tokens",
    "reasoning": "reasoning_tokens",
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream.in_thread() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> AsyncIterator[Gateway]:
    """Each shape as a model, with a policy that asks it, and one that asks a dead target first."""
    imported()  # litellm: seconds of CPU, more than a client waits where coverage traces them
    models: list[dict[str, Any]] = [hosted("dead", upstream.base_url)]
    policies: list[dict[str, Any]] = [{"name": "default", "rules": [{"name": "all", "use": ["dead"]}]}]
    for name, shape in shapes().items():
        models.append(_model(name, shape, upstream))
        exact = {"baseline": name, "cache": {"exact": True, "semantic": False}}
        policies.append({"name": name, **exact, "rules": [{"name": "all", "use": [name]}]})
        policies.append({"name": f"{name}-late", **exact, "rules": [{"name": "all", "use": ["dead", name]}]})
    async with gateway(tmp_path_factory.mktemp("conformance"), models, policies) as running:
        yield running


def _model(name: str, shape: Shape, upstream: Upstream) -> dict[str, Any]:
    # litellm adds Anthropic's own path.
    url = upstream.url + ("" if shape.wire == "anthropic" else shape.path)
    where = {"url": url} if "local" in shape.model else {"base_url": url, "api_key": "${BIG_KEY}", "max_retries": 0}
    return {"name": name, **where, **shape.model}


@pytest_asyncio.fixture(loop_scope="module")
async def gate(served: Gateway, upstream: Upstream) -> Gateway:
    await served.fresh()
    upstream.reset()
    return served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(served: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=served.base_url, api_key="any", max_retries=0) as official:
        yield official


@pytest.fixture
def exchange(gate: Gateway, client: openai.AsyncOpenAI, upstream: Upstream, shape: str, case: Case) -> Exchange:
    return Exchange(gate, client, upstream, shape, case)


class Exchange:
    """A case about to happen: upstream is told what to say."""

    def __init__(self, gate: Gateway, client: openai.AsyncOpenAI, upstream: Upstream, shape: str, case: Case) -> None:
        self.gate, self.official, self.case = gate, client, case
        self.stream = shapes()[shape].streamed(case)
        self.body: dict[str, Any] = {
            "model": f"auto:{shape}-late" if case.falls_back else f"auto:{shape}",
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": 900,
        }
        self.headers = {} if case.repeats else {"x-gateway-cache": "no-store"}
        upstream.default = shapes()[shape].plan(case)
        upstream.plans["dead"] = upstream.plans["big"] = Plan(status=500)

    async def asked_before(self) -> None:
        """The answer a repeated case finds stored."""
        reply = await self.gate.chat(**self._raw(), stream=self.stream, headers=self.headers)
        assert reply.status_code == 200, reply.text
        await self.gate.rows(1)

    async def raw(self, *, usage: bool = True) -> Any:
        """The usage object a client without a library sees; None where it sees none."""
        if self.stream:
            return await self._raw_stream(usage)
        reply = await self.gate.chat(**self._raw(), headers=self.headers)
        assert reply.status_code == 200, reply.text
        assert Decimal(reply.headers["x-gateway-cost-usd"]) == Decimal(self.case.cost_usd)
        return reply.json()["usage"]

    async def _raw_stream(self, usage: bool) -> Any:
        seen: list[Any] = []
        asked: dict[str, Any] = WITH_USAGE if usage else {}
        async with self.gate.open(**self._raw(), **asked, headers=self.headers) as reply:
            assert reply.status_code == 200
            async for line in reply.aiter_lines():
                if line.startswith("data: {"):
                    seen.append(json.loads(line[6:]))
                if self.case.leaves and _half(_said(seen[-1]) if seen else ""):
                    return None
        told = [event["usage"] for event in seen if event.get("usage")]
        assert len(told) == (usage and not self.case.breaks)
        return told[-1] if told else None

    async def client(self) -> Any:
        """The usage object of the official client, as it models it."""
        ask: Any = self.official.chat.completions.create
        if not self.stream:
            return (await ask(**self.body, extra_headers=self.headers)).usage
        found, said = None, ""
        try:
            async with await ask(**self.body, **WITH_USAGE, stream=True, extra_headers=self.headers) as stream:
                async for chunk in stream:
                    found = chunk.usage or found
                    said += (chunk.choices[0].delta.content or "") if chunk.choices else ""
                    if self.case.leaves and _half(said):
                        break
        except openai.APIError:
            assert self.case.breaks
        return found

    def _raw(self) -> dict[str, Any]:
        body = {name: value for name, value in self.body.items() if name != "messages"}
        return {"prompt": PROMPT, **body}


def _said(event: Any) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in event.get("choices") or ())


def _half(said: str) -> bool:
    """Whether the last of the first half has come."""
    return said.endswith("is")


@pytest.mark.parametrize("name", sorted(shapes()))
def test_every_shape_has_every_case_or_says_why_it_cannot(name: str) -> None:
    shape = shapes()[name]
    there = {case.case for case in shape.cases}
    assert set(EVERY) - there == set(shape.lacks)
    assert all(len(reason) > 20 for reason in shape.lacks.values())


CASES = [pytest.param(name, case, id=f"{name}: {case.case}") for name, case in every()]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("shape", "case"), CASES)
async def test_exact_to_the_nano_dollar(exchange: Exchange, case: Case) -> None:
    if case.repeats:
        await exchange.asked_before()

    raw = await exchange.raw()
    by_client = await exchange.client()
    hidden = await exchange.raw(usage=False) if exchange.stream and not case.leaves else None

    rows = await exchange.gate.rows(2 + case.repeats + (exchange.stream and not case.leaves))
    for row in rows[case.repeats :]:
        _agrees(row, case)
    assert hidden is None
    if not (case.leaves or case.breaks):
        _tells(raw, case)
        _tells(by_client.model_dump(), case)


def _agrees(row: LedgerEntry, case: Case) -> None:
    booked = {name: getattr(row, column) for name, column in COLUMNS.items()}
    assert booked == {name: getattr(case.row, name) for name in COLUMNS}
    if case.usd_per_s is not None:
        assert row.cost_nano == (row.busy_us * Decimal(case.usd_per_s) * 1000).to_integral_value(ROUND_HALF_EVEN) > 0
    else:
        assert row.cost_nano == Decimal(case.cost_usd) * 10**9
    assert row.usage_source == case.source
    assert row.detail.get("usage", {}) == case.apart
    assert (row.unpriced, row.incomplete) == (False, case.incomplete)
    expected = "incomplete" if case.breaks else "cancelled" if case.leaves else "ok"
    assert row.status == expected, row.error
    if not case.repeats:
        assert row.price_source == "gateway.yaml"
    if case.source == "estimated":
        assert row.cost_nano <= row.reserved_nano
    if case.saved_usd is not None:
        assert row.saved_nano == Decimal(case.saved_usd) * 10**9


def _tells(usage: dict[str, Any], case: Case) -> None:
    told = {"prompt_tokens": case.row.prompt, "completion_tokens": case.row.completion, **case.client}
    assert {name: usage[name] for name in told} == told
    assert Decimal(str(usage["cost_usd"])) == Decimal(case.cost_usd)
    details = usage.get("prompt_tokens_details") or {}
    assert details.get("cached_tokens") in (None, case.row.cached)
    reasoning = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    assert reasoning in (None, case.row.reasoning)
