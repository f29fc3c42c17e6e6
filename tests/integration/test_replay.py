"""`gateway replay` on what a real gateway has logged: the same policy changes nothing, another says what it would."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import yaml
from typer.testing import CliRunner, Result

from gateway.cli.app import app
from gateway.ledger.store import SqlStore
from gateway.ledger.where import ledger_url
from gateway.types import LedgerEntry
from tests.support.gateway import Gateway, gateway, hosted, local
from tests.support.upstream import Plan, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

RULES: list[dict[str, Any]] = [
    {"name": "secret", "when": "'confidential' in tags", "use": ["local-small"], "local_only": True},
    {"name": "night", "when": "hour < 0", "use": ["second"]},
    {"name": "short", "when": "prompt_tokens < 40", "use": [{"model": "big", "weight": 1}, {"model": "second"}]},
    {"name": "rest", "use": ["second", "big"], "slo": {"ttft_ms": 60_000}},
]
POLICY: dict[str, Any] = {"name": "default", "baseline": "big", "rules": RULES}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream) -> AsyncIterator[Gateway]:
    async with logging(tmp_path_factory.mktemp("gate"), upstream_server) as running:
        yield running


def logging(folder: Path, upstream: Upstream) -> AbstractAsyncContextManager[Gateway]:
    """A gateway, with a ledger of its own."""
    url = upstream.base_url
    models = [hosted("big", url), hosted("second", url, price={"input": 1, "output": 2}), local("local-small", url)]
    return gateway(folder, models, [POLICY])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rows(served: Gateway, upstream_server: Upstream) -> list[LedgerEntry]:
    """Thirty requests of all sorts, in the ledger."""
    upstream_server.enqueue(*[Plan()] * 20, Plan(status=500), Plan(status=500))
    key = await served.key(budget_usd=0.5)
    for number in range(12):
        await served.chat(f"what is {number}?", key=key)
        await served.chat(f"please tell me all about {number} " + "and more of it " * 20)
    await served.chat("a secret", headers={"x-gateway-tags": "confidential"})
    await served.chat("what is 3?", key=key)  # from the cache
    await served.chat("pinned", model="big")
    await served.runtime.books.drain()
    entries = await served.rows(27)
    await stored(served, entries)
    return entries


async def stored(gate: Gateway, entries: list[LedgerEntry]) -> None:
    store = SqlStore(ledger_url(gate.runtime.view.settings))
    await store.migrate()
    await store.append(entries)
    await store.close()


async def run(gate: Gateway, policy: dict[str, Any], *words: str) -> Result:
    """In a thread: the command has a loop of its own."""
    file = gate.folder / "new.yaml"
    file.write_text(yaml.safe_dump(policy))
    command = ["replay", "--config", str(gate.folder / "gateway.yaml"), "--policy", str(file), *words]
    return await asyncio.to_thread(CliRunner().invoke, app, command)


async def told(gate: Gateway, policy: dict[str, Any], *words: str) -> dict[str, Any]:
    result = await run(gate, policy, "--json", *words)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout, parse_float=str))


async def test_the_same_policy_changes_nothing_to_the_nano_dollar(served: Gateway, rows: list[LedgerEntry]) -> None:
    same = await told(served, POLICY)
    assert (same["flipped"], same["refused"], same["hits_lost"]) == (0, 0, 0)
    cost = sum(row.cost_nano for row in rows if row.rule != "pinned")
    assert same["cost_usd"] == same["cost_was_usd"] == f"{cost / 1e9:.9f}".rstrip("0")
    assert same["requests"] == 26


async def test_another_policy_says_what_it_costs_and_whom(served: Gateway, rows: list[LedgerEntry]) -> None:
    dear = {**POLICY, "rules": [RULES[0], {"name": "all", "use": ["big"]}]}
    changed = await told(served, dear)
    moved = [row for row in rows if row.rule in ("short", "rest") and row.detail["decision"]["targets"][0] == "second"]
    assert changed["flipped"] == len(moved) > 0
    assert changed["moves"] == {"second → big": len(moved)}
    assert float(changed["cost_usd"]) > float(changed["cost_was_usd"])
    listed = {flip["request_id"] for flip in changed["flips"]}
    assert listed == {row.request_id for row in moved[:20]}
    was, now = changed["keys"]["anonymous"]
    assert now > was


async def test_a_tier_that_is_switched_off_loses_its_hits(served: Gateway, rows: list[LedgerEntry]) -> None:
    changed = await told(served, {**POLICY, "cache": {"exact": False, "semantic": False}})
    assert (changed["flipped"], changed["hits_lost"]) == (1, 1)
    assert float(changed["cost_usd"]) > float(changed["cost_was_usd"])


async def test_bounds_are_for_ci(served: Gateway, rows: list[LedgerEntry]) -> None:
    dear = {**POLICY, "rules": [{"name": "all", "use": ["big"]}]}
    result = await run(served, dear, "--fail-if", "cost>+5%", "--fail-if", "refused>0%")
    assert result.exit_code == 1
    assert "cost>+5%" in result.stderr
    assert "refused" not in result.stderr
    assert "go elsewhere" in result.stdout
    assert (await run(served, POLICY, "--fail-if", "cost>+5%", "--fail-if", "flips>0%")).exit_code == 0
    assert (await run(served, POLICY, "--fail-if", "cost over 5")).exit_code == 2


async def test_prompts_that_nobody_has_asked(served: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIG_KEY", "upstream-secret")
    lines = [{"prompt": "what is 1?"}, {"messages": [{"role": "user", "content": "tell me " * 60}]}]
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(b"\n".join(map(msgspec.json.encode, lines)))
    dear = {**POLICY, "rules": [{"name": "all", "use": ["big"]}]}
    changed = await told(served, dear, "--prompts", str(file))
    assert changed["requests"] == 2
    assert changed["moves"]["second → big"] >= 1
    file.write_text('{"prompt": "x"}\nnot json\n')
    result = await run(served, dear, "--prompts", str(file))
    assert result.exit_code == 1
    assert "prompts.jsonl:2" in str(result.exception)


async def test_a_target_that_was_away_is_still_away(tmp_path: Path, upstream: Upstream) -> None:
    async with logging(tmp_path, upstream) as gate:
        await gate.chat("hello", model="auto")
        (row,) = await gate.rows(1)
        detail = msgspec.to_builtins(row.detail)
        detail["decision"]["rejected"] = [{"model": "big", "reason": "cooling down for 3.0 s: 503"}]
        detail["decision"]["targets"] = ["second"]
        await stored(gate, [msgspec.structs.replace(row, detail=detail, model="second")])
        assert (await told(gate, POLICY))["flipped"] == 0


async def test_the_configuration_is_read_as_by_every_command(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text("modles: []\n")
    command = ["replay", "--config", str(tmp_path / "gateway.yaml"), "--policy", "x.yaml"]
    result = await asyncio.to_thread(CliRunner().invoke, app, command)
    assert "did you mean 'models'?" in str(result.exception)
