"""One story, told the same by the API, by the command line and by the dashboard."""

from __future__ import annotations

import asyncio
import html
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.ledger.store import SqlStore
from gateway.ledger.where import ledger_url
from tests.support.gateway import ADMIN, Gateway, gateway, hosted, local
from tests.support.upstream import Upstream

PROMPT = "Prove step by step that there are infinitely many primes, then explain in detail why it matters."
POLICY: dict[str, Any] = {
    "name": "default",
    "baseline": "big",
    "time_zone": "Asia/Tokyo",
    "rules": [
        {"name": "private", "when": "'confidential' in tags || privacy != ''", "use": ["near"], "local_only": True},
        {"name": "night", "when": "hour < 0 && difficulty < 2.0", "use": ["near"]},
        {"name": "easy", "when": "prompt_tokens < 1500 && (difficulty < 0.2 && !code)", "use": ["near", "big"]},
        {"name": "best", "when": "quality >= 9", "use": ["big"]},
        {"name": "rest", "use": ["big", "keyless", "near"], "strategy": "cheapest"},
    ],
}


@pytest.fixture
async def gate(tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    monkeypatch.setenv("BIG_KEY", "upstream-secret")
    models = [
        hosted("big", upstream.base_url),
        hosted("keyless", upstream.base_url, api_key="${UNSET}"),
        local("near", upstream.base_url),
    ]
    async with gateway(tmp_path, models, [POLICY]) as running:
        store = SqlStore(ledger_url(running.runtime.view.settings))
        await store.migrate()
        await store.close()
        yield running


async def explained(gate: Gateway, *words: str) -> Any:
    command = ["explain", PROMPT, "--config", str(gate.folder / "gateway.yaml"), *words]
    result = await asyncio.to_thread(CliRunner().invoke, app, command, env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout) if "--json" in words else result.stdout


async def test_three_tell_the_same_story(gate: Gateway) -> None:
    reply = await gate.chat(PROMPT)
    request_id = reply.headers["x-gateway-request-id"]
    api = (await gate.get(f"/v1/requests/{request_id}", ADMIN)).json()
    page = (await gate.get(f"/dashboard/requests/{request_id}.json", ADMIN)).json()
    command = await explained(gate, "--json")

    assert api["rule"] == "rest"
    reasons = {one["model"]: one["reason"] for one in api["unmatched"]}
    assert reasons["private"] == "'confidential' in tags || privacy != '' is false: privacy = '', tags = []"
    assert re.fullmatch(r"hour < 0 is false: hour = \d+", reasons["night"])
    assert reasons["easy"] == f"difficulty < 0.2 is false: difficulty = {api['difficulty']:g}"
    assert reasons["best"] == "quality >= 9 is false: quality = 5"
    assert [(one["model"], one["reason"]) for one in api["rejected"]] == [("keyless", "no api_key is set")]
    assert [one["model"] for one in api["expected"]] == [*api["targets"], "keyless"]
    assert all(one["cold_usd"] > one["warm_usd"] for one in api["expected"])
    sizes = [abs(part) for _, part in api["contributions"]]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes

    same = ("rule", "model", "policy", "difficulty", "contributions", "targets", "rejected", "unmatched")
    for other in (page, command):
        assert {name: other[name] for name in same} == {name: api[name] for name in same}
    assert page["expected"] == api["expected"]
    assert page["alternatives"] == api["alternatives"]


async def test_a_person_reads_it_on_the_page_and_in_the_terminal(gate: Gateway) -> None:
    request_id = (await gate.chat(PROMPT)).headers["x-gateway-request-id"]
    headers = {"authorization": f"Bearer {ADMIN}", "accept": "text/html"}
    shown = await gate.http.get(f"/dashboard/requests/{request_id}", headers=headers)
    assert shown.headers["content-type"].startswith("text/html")
    page, printed = html.unescape(shown.text), await explained(gate)
    api = (await gate.get(f"/v1/requests/{request_id}", ADMIN)).json()
    for one in (*api["unmatched"], *api["rejected"]):
        assert one["reason"] in page
        assert one["reason"] in printed
    assert "What the decision expected" in page
    assert "it is expected to cost" in printed
    cold = api["expected"][0]["cold_usd"]
    assert f"{cold:.9f}" in printed
