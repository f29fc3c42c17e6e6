"""``gateway report`` over a real ledger: net of idle machines, in words, as JSON and as a page of its own."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway import economics
from gateway.cli.app import app
from gateway.config import load
from gateway.ledger import recount
from gateway.ledger.store import SqlStore
from gateway.ledger.where import ledger_url
from gateway.types import HOUR_MS
from tests.support.ledger import entry
from tests.support.visits import settings

NEAR: Any = {"name": "near", "local": "smollm2-135m-instruct", "usd_per_hour": 0.6}
POLICY = {"name": "default", "rules": [{"name": "all", "use": ["near"]}]}
ODD = "<script>alert(1)</script>"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Two requests on a machine at $0.60 an hour that has stood for ten minutes of the last hour: $0.10."""
    settings(tmp_path, [NEAR], [POLICY], plan_price=30)
    asyncio.run(_write(tmp_path))
    return tmp_path / "gateway.yaml"


async def _write(folder: Path) -> None:
    chosen = load(folder / "gateway.yaml", {})
    chosen.data_dir.mkdir()
    store = SqlStore(ledger_url(chosen))
    await store.migrate()
    hour = int(time.time() * 1000) // HOUR_MS * HOUR_MS - HOUR_MS
    about: dict[str, Any] = {"ts_ms": hour + 1000, "model": "near", "end_user": "u1", "rule": ODD}
    await store.append([entry(f"r{n}", **about, cost_nano=10_000_000, baseline_nano=200_000_000) for n in range(2)])
    for minute in range(11):
        await economics.keep_count(store, chosen.config.models, hour + minute * 60_000)
    await store.close()


def run(config: Path, *words: str) -> Result:
    result = CliRunner().invoke(app, ["report", "--since", "24h", "--config", str(config), *words])
    assert result.exit_code == 0, result.output
    return result


def test_saved_is_net_of_what_the_machine_cost_idle(config: Path) -> None:
    shown = run(config).output
    assert "spent $0.10 (idle machines $0.08 of it) where the baseline would have cost $0.40: saved $0.30" in shown
    assert re.search(r"near +0\.60 +0\.2 +0\.02 +0\.08 +20\.0% +288 +72", shown)
    assert "1 end users, $0.02 each, margin $" in shown
    assert "$50.00 per thousand requests" in shown


def test_programs_get_the_statement_too(config: Path) -> None:
    told = json.loads(run(config, "--json", "--verify").output)
    statement = told["statement"]
    assert (statement["idle_nano"], statement["saved_nano"]) == (80_000_000, 300_000_000)
    assert statement["machines"][0]["busy_nano"] + statement["machines"][0]["idle_nano"] == 100_000_000
    assert told["wrong"] == []


def test_the_page_needs_nothing_else_and_runs_nothing(config: Path) -> None:
    page = config.with_name("report.html")
    run(config, "--html", str(page))
    text = page.read_text()
    assert "saved $0.30" in text
    assert "idle machines" in text
    assert not re.search(r"(?:src|href)=|url\(|@import|<script", text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_an_empty_ledger_has_a_report_and_a_page(tmp_path: Path) -> None:
    settings(tmp_path, [NEAR], [POLICY])
    chosen = load(tmp_path / "gateway.yaml", {})
    chosen.data_dir.mkdir()

    async def make() -> None:
        store = SqlStore(ledger_url(chosen))
        await store.migrate()
        await store.close()

    asyncio.run(make())
    config = tmp_path / "gateway.yaml"
    assert "0 requests" in run(config, "--html", str(tmp_path / "empty.html")).output
    assert "saved $0.00" in (tmp_path / "empty.html").read_text()


def test_books_of_many_days_are_verified_by_several_processes(config: Path) -> None:
    chosen = load(config, {})

    async def write() -> None:
        store = SqlStore(ledger_url(chosen))
        now = int(time.time() * 1000)
        await store.append([entry(f"d{n}", ts_ms=now - n * 24 * HOUR_MS, cost_nano=n) for n in range(8)])
        async with store._engine.begin() as connection:
            await connection.exec_driver_sql("UPDATE rollup_day SET cost_nano = 99 WHERE cost_nano = 6 AND cut = 30")
        await store.close()

    asyncio.run(write())
    told: list[tuple[int, int]] = []
    wrong = asyncio.run(recount.verify(ledger_url(chosen), lambda done, total: told.append((done, total))))
    assert [(one.table, one.rollup and one.rollup.cost_nano) for one in wrong] == [("rollup_day", 99)]
    assert told[0][0] == 0
    assert told[-1] == (8, 8)
    result = CliRunner().invoke(app, ["report", "--verify", "--json", "--config", str(config)])
    assert result.exit_code == 1
    assert len(json.loads(result.stdout)["wrong"]) == 1, result.output
