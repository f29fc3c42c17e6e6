"""``gateway reconcile`` over a real ledger: what is planted in a sample invoice is found."""

from __future__ import annotations

import asyncio
import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gateway.cli.app import app
from gateway.config import load
from gateway.ledger.store import SqlStore
from gateway.ledger.where import ledger_url
from gateway.types import DAY_MS
from tests.support.ledger import NOON, entry
from tests.support.visits import settings

FIRST = date(2026, 1, 1)
DAYS = 7
HEADER = (
    "start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,quantity,quantity_unit,line_item\n"
)
MINI: Any = {"name": "mini", "provider": "openai", "upstream_model": "gpt-4o-mini", "api_key": "${K}"}
CLAUDE: Any = {
    "name": "claude",
    "provider": "litellm",
    "upstream_model": "anthropic/claude-haiku-4-5",
    "api_key": "${K}",
}
NEAR: Any = {"name": "near", "local": "smollm2-135m-instruct", "usd_per_hour": 0.04}
POLICY = {"name": "default", "rules": [{"name": "all", "use": ["mini", "claude", "near"]}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A week of books: 20 requests a day to OpenAI, of 1,000 and 500 tokens; others, a cache hit and a local answer."""
    settings(tmp_path, [MINI, CLAUDE, NEAR], [POLICY])
    asyncio.run(_write(tmp_path))
    return tmp_path


async def _write(folder: Path) -> None:
    chosen = load(folder / "gateway.yaml", {})
    chosen.data_dir.mkdir()
    store = SqlStore(ledger_url(chosen))
    await store.migrate()
    for day in range(DAYS):
        at = NOON + day * DAY_MS
        hosted = {"ts_ms": at, "served": "hosted", "provider": "openai", "model": "mini"}
        tokens = {"prompt_tokens": 1000, "completion_tokens": 500, "cost_nano": 450_000}
        await store.append([entry(f"m{day}-{n}", **hosted, **tokens) for n in range(20)])
        await store.append(
            [
                entry(f"h{day}", **(hosted | {"served": "cache"}), cache="exact", prompt_tokens=1000, cost_nano=0),
                entry(f"c{day}", **(hosted | {"model": "claude"}), cost_nano=777),
                entry(f"l{day}", **(hosted | {"model": "near", "served": "local"}), cost_nano=99),
            ]
        )
    await store.close()


def line(day: int, kind: str, tokens: int, cost: str) -> str:
    at = FIRST + timedelta(days=day)
    return f'1,2,{at}T00:00:00,{at}T00:00:00,{cost},usd,{tokens},tokens,"gpt-4o-mini-2024-07-18, {kind}"\n'


def usual(day: int, price: float = 1.0) -> str:
    return line(day, "input", 20_000, f"{0.003 * price:.6f}") + line(day, "output", 10_000, f"{0.006 * price:.6f}")


def run(folder: Path, text: str, *words: str) -> Result:
    (folder / "openai.csv").write_text(HEADER + text)
    command = ["reconcile", "--invoice", str(folder / "openai.csv"), "--config", str(folder / "gateway.yaml"), *words]
    return CliRunner().invoke(app, command)


def test_a_bill_that_agrees_is_fine(folder: Path) -> None:
    result = run(folder, "".join(usual(day) for day in range(DAYS)))
    assert result.exit_code == 0, result.output
    assert "invoice $0.063, books $0.063: difference $0.00, in 0 findings" in result.output


def test_a_missing_day_a_double_charge_and_a_price_change_are_found(folder: Path) -> None:
    text = usual(0) + usual(1) + line(1, "output", 10_000, "0.006000")
    text += "".join(usual(day, 1.5 if day >= 4 else 1.0) for day in range(3, DAYS))
    result = run(folder, text, "--json")
    assert result.exit_code == 1
    told = json.loads(result.output)
    found = [(one["kind"], one["since"], one["until"], one["amount_usd"]) for one in told["differences"]]
    assert found == [
        ("double_charge", "2026-01-02", "2026-01-02", 0.006),
        ("missing_day", "2026-01-03", "2026-01-03", -0.009),
        ("price_change", "2026-01-05", "2026-01-07", 0.0135),
    ]
    assert told["totals"]["difference_usd"] == 0.0105
    assert told["within_tolerance"] is False
    shown = run(folder, text).output
    assert "2026-01-05 … 2026-01-07" in shown
    assert "1.5000 times the price" in shown


def test_a_tolerance_is_in_dollars(folder: Path) -> None:
    text = "".join(usual(day, 1.5 if day == 6 else 1.0) for day in range(DAYS))
    assert run(folder, text, "--tolerance", "0.004").exit_code == 1
    assert run(folder, text, "--tolerance", "0.005").exit_code == 0


def test_only_the_days_asked_for(folder: Path) -> None:
    text = "".join(usual(day) for day in range(DAYS) if day != 3)
    assert run(folder, text, "--until", "2026-01-03").exit_code == 0
    assert run(folder, usual(2), "--since", "2026-01-02", "--tolerance", "0").exit_code == 1


def test_an_export_of_tokens_is_priced_by_the_price_book(folder: Path) -> None:
    text = "start_time,start_time_iso,model,input_tokens,output_tokens,num_model_requests\n"
    text += "".join(f"1,{FIRST + timedelta(days=day)},gpt-4o-mini,20000,10000,20.0\n" for day in range(DAYS))
    (folder / "usage.csv").write_text(text + "1,2026-01-07,gpt-4o-mini,1000000,0,1\n")
    command = ["reconcile", "--invoice", str(folder / "usage.csv"), "--config", str(folder / "gateway.yaml"), "--json"]
    told = json.loads(CliRunner().invoke(app, command).output)
    assert [(one["kind"], one["amount_usd"]) for one in told["differences"]] == [("usage", 0.15)]


@pytest.mark.parametrize(("text", "said"), [("", "no rows"), ("1,2,soon,x,1,usd,1,tokens,m\n", "line 2: 'soon'")])
def test_what_cannot_be_read_is_a_problem(folder: Path, text: str, said: str) -> None:
    result = run(folder, text)
    assert (result.exit_code, said in str(result.exception)) == (1, True)


EMBEDDED = (
    "embedder: {url: 'https://api.openai.com/v1', model: text-embedding-3-small, api_key: '${K}'}\n"
    "cache: {cross_encoder: {url: 'https://rerank.test/v1', model: rerank-1, price: {input: 0.05}}}\n"
)


@pytest.fixture
def helped(folder: Path) -> Path:
    """The same week, where a request, a hit and a local answer were embedded, and the cache was tended and judged."""
    file = folder / "gateway.yaml"
    file.write_text(file.read_text().replace("embedder:\n  enabled: false\n", "") + EMBEDDED)
    asyncio.run(_embed(folder))
    return folder


async def _embed(folder: Path) -> None:
    store = SqlStore(ledger_url(load(folder / "gateway.yaml", {})))
    shadow = {"key_id": "shadow", "served": "hosted"}
    for day in range(DAYS):
        at = NOON + day * DAY_MS
        # 31 tokens of embedding at 20 nano-dollars, 7 of the cross-encoder's at 50.
        part = {"ts_ms": at, "embedding_nano": 620, "verification_nano": 350}
        await store.append(
            [
                entry(f"he{day}", **part, served="cache", cache="semantic", model="mini", cost_nano=970),
                entry(f"le{day}", **part, served="local", model="near", cost_nano=99 + 970),
                entry(
                    *(f"up{day}",), **shadow, rule="cache-upkeep", model="text-embedding-3-small", ts_ms=at,
                    prompt_tokens=5000, completion_tokens=0, cost_nano=100_000, embedding_nano=100_000,
                ),
                entry(
                    *(f"ju{day}",), **shadow, rule="cache-judge", model="mini", ts_ms=at, prompt_tokens=200,
                    completion_tokens=1, cost_nano=30_600, verification_nano=30_600,
                ),
            ]
        )  # fmt: skip
    await store.close()


def embedded(day: int, times: int = 1) -> str:
    """A day's lines, to the nano-dollar: 20 requests and the judge, 5,062 tokens embedded."""
    mini = line(day, "input", 20_200, "0.003030000") + line(day, "output", 10_001, "0.006000600")
    at = FIRST + timedelta(days=day)
    small = f"1,2,{at}T00:00:00,{at}T00:00:00,0.000101240,usd,5062,tokens,text-embedding-3-small\n"
    return mini + small * times


def test_embeddings_and_the_judge_are_reconciled_to_the_nano_dollar(helped: Path) -> None:
    text = "".join(embedded(day) for day in range(DAYS))
    result = run(helped, text, "--tolerance", "0", "--json")
    told = json.loads(result.output)
    assert (result.exit_code, told["differences"]) == (0, [])
    assert told["totals"] == {"invoice_usd": 0.06392288, "books_usd": 0.06392288, "difference_usd": 0}


def test_an_embedding_charged_twice_and_one_forgotten_are_found(helped: Path) -> None:
    text = "".join(embedded(day, {2: 2, 4: 0}.get(day, 1)) for day in range(DAYS))
    told = json.loads(run(helped, text, "--json").output)
    assert [(one["kind"], one["since"], one["model"], one["amount_usd"]) for one in told["differences"]] == [
        ("double_charge", "2026-01-03", "text-embedding-3-small", 0.00010124),
        ("missing_model", "2026-01-05", "text-embedding-3-small", -0.00010124),
    ]


def test_another_amount_of_embeddings_is_told(helped: Path) -> None:
    text = "".join(embedded(day) for day in range(DAYS)).replace("0.000101240,usd,5062", "0.000141240,usd,7062", 1)
    [one] = json.loads(run(helped, text, "--json").output)["differences"]
    assert (one["kind"], one["amount_usd"], one["text"]) == ("amount", 0.00004, "the books have no tokens of it")


def test_an_activity_export_of_embeddings_is_priced(helped: Path) -> None:
    text = "start_time,start_time_iso,model,input_tokens,num_model_requests\n"
    days = (FIRST + timedelta(days=number) for number in range(DAYS))
    text += "".join(f"1,{day},text-embedding-3-small,5062,3\n" for day in days)
    (helped / "usage.csv").write_text(text)
    command = ["reconcile", "--invoice", str(helped / "usage.csv"), "--config", str(helped / "gateway.yaml"), "--json"]
    result = CliRunner().invoke(app, [*command, "--model", "embedder", "--tolerance", "0"])
    assert (result.exit_code, json.loads(result.output)["differences"]) == (0, [])


def test_a_cross_encoders_bill_is_another_vendors(helped: Path) -> None:
    text = "date,model,input_tokens,output_tokens,cost_usd\n"
    text += "".join(f"{FIRST + timedelta(days=day)},rerank-1,14,0,0.000000700\n" for day in range(DAYS))
    (helped / "other.csv").write_text(text)
    command = ["reconcile", "--invoice", str(helped / "other.csv"), "--config", str(helped / "gateway.yaml"), "--json"]
    result = CliRunner().invoke(app, [*command, "--model", "cache.cross_encoder", "--tolerance", "0"])
    assert (result.exit_code, json.loads(result.output)["differences"]) == (0, [])
