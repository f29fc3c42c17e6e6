"""Single requests: a page of them, the newest as they come, and one with its explanation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from gateway.dashboard import periods, words
from gateway.dashboard.page import ROOT, Ask, Page, Wrong
from gateway.dashboard.tables import Column, Table
from gateway.ledger.answers import Period as Span
from gateway.types import DAY_MS, HOUR_MS, NANO, LedgerEntry

PAGE = 100
TAIL = 60
_ROW = (
    *(
        "key_id",
        "team",
        "organisation",
        "project",
        "end_user",
        "tags",
        "session",
        "requested_model",
        "model",
        "provider",
    ),
    *("policy", "rule", "cache", "similarity", "cache_entry", "stream", "http_status", "usage_source", "cached_tokens"),
    *("cache_write_tokens", "reasoning_tokens", "tokens_per_s", "overhead_ms", "price_source", "price_date"),
)
_BESIDE = (("embedding", "embedding"), ("verification", "verification"), ("abandoned", "abandoned tries"))
"""Parts of the cost that bought no answer."""
_COLUMNS = (
    Column("request_id", "Request", "code"),
    Column("ts_ms", "Time", "time"),
    Column("model", "Model"),
    Column("served", "Answered by", "badge"),
    Column("status", "Status", "status"),
    Column("rule", "Rule", minor=True),
    Column("prompt_tokens", "Tokens in", "count", minor=True),
    Column("completion_tokens", "out", "count", minor=True),
    Column("ttft_ms", "First token", "duration", minor=True),
    Column("duration_ms", "Total", "duration", minor=True),
    Column("cost_nano", "Cost", "money"),
    Column("saved_nano", "Saved, net", "money", minor=True),
    Column("key", "Key", minor=True),
    Column("tags", "Tags", "tags", minor=True),
)


async def requests(ask: Ask) -> Page:
    """The requests of a period that match the filters, a page at a time."""
    found = await ask.store.rows(ask.span, ask.where, after=ask.query.get("after"), limit=PAGE)
    values = {"filters": ask.filters, "next": found.next, "first": "after" not in ask.query}
    return Page("requests", "Requests", values, (requests_table(ask, found.rows),), every_s=0)


async def live(ask: Ask) -> Page:
    """The newest requests of the last day, asked for again every two seconds."""
    span = Span(ask.now_ms - DAY_MS, ask.now_ms + HOUR_MS)
    found = await ask.store.rows(span, ask.where, limit=TAIL)
    table = requests_table(
        ask, found.rows, empty="No request in the last 24 hours. The next one shows up here by itself."
    )
    return Page("live", "Live", {"filters": ask.filters}, (table,), every_s=2)


async def request(ask: Ask) -> Page:
    """One request and why it went where it went; the worker has found it already."""
    told = ask.facts.get("story")
    if told is None:
        raise Wrong(f"no request '{ask.query.get('id', '')}'", 404, "not_found")
    money = {name: _nano(told.get(f"{name}_usd")) for name in ("cost", "baseline", "saved", "reserved")}
    alternatives = [
        {"model": told["model"], "cost_nano": money["cost"], "note": "answered"},
        *({**_costs(each, "cost_usd"), "note": ""} for each in told["alternatives"]),
    ]
    expected = [_costs(each, "expected_usd") for each in told["expected"]]
    model, both = Column("model", "Model"), (Column("cold", "Not cached", "money"), Column("warm", "Cached", "money"))
    columns = (model, Column("cost_nano", "Would have cost", "money"), *both, Column("note", ""))
    attempts = (
        Column("model", "Model"),
        Column("started_ms", "Started", "time"),
        Column("duration_ms", "Took", "duration"),
        Column("status", "HTTP", "count"),
        Column("error", "Error"),
    )
    tables = (
        Table("alternatives", "What the same tokens cost elsewhere", columns, alternatives),
        Table("expected", "What the decision expected", (model, Column("cost_nano", "Cost", "money"), *both), expected),
        Table("attempts", "Upstream calls", attempts, told["attempts"], empty="None: nothing was sent upstream."),
    )
    hour = periods.read(words.iso(told["ts_ms"])[:13], ask.now_ms)
    values = {
        "told": told,
        "money": money,
        "beside": [(title, nano) for name, title in _BESIDE if (nano := _nano(told.get(f"{name}_usd")))],
        "not_taken": [*told["unmatched"], *told["rejected"]],
        "hour": hour.parents(),
        "row": [name for name in _ROW if name in told],
        "sealed": ask.facts.get("sealed", ""),
    }
    kept = {"messages": ask.facts["messages"]} if "messages" in ask.facts else {}
    return Page("request", f"Request {told['id']}", values, (*tables, _conversation(kept)), told | kept, every_s=0)


def _conversation(kept: Mapping[str, Any]) -> Table:
    """What an admin may read of it; who said what, a call of a tool as its JSON."""
    rows = [{"role": message.get("role", ""), "text": _said(message)} for message in kept.get("messages", ())]
    return Table("conversation", "What was said", (Column("role", "Who"), Column("text", "What")), rows)


def _said(message: Mapping[str, Any]) -> str:
    content = message.get("content") or message.get("refusal") or ""
    if not isinstance(content, str):
        content = " ".join(str(part.get("text", "")) for part in content)
    calls = [f"{call['function']['name']}({call['function']['arguments']})" for call in message.get("tool_calls", ())]
    return "\n".join(filter(None, (content, *calls)))


def _costs(told: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {
        "model": told["model"],
        "cost_nano": _nano(told[name]),
        "cold": _nano(told["cold_usd"]),
        "warm": _nano(told["warm_usd"]),
    }


def _nano(usd: float | None) -> int | None:
    """The story tells dollars as JSON numbers: through the digits they are written with."""
    return None if usd is None else int(Decimal(str(usd)) * NANO)


def requests_table(ask: Ask, rows: Sequence[LedgerEntry], empty: str = "No requests match.") -> Table:
    shown = [_shown(ask, row) for row in rows]

    def link(row: Any) -> str:
        return f"{ROOT}/requests/{quote(row['request_id'], safe='')}"

    return Table("requests", "Requests", _COLUMNS, shown, link=link, note=_remarks, empty=empty)


def _shown(ask: Ask, row: LedgerEntry) -> dict[str, Any]:
    return {
        "request_id": row.request_id,
        "ts_ms": row.ts_ms,
        "model": row.model,
        "served": row.cache if row.served == "cache" else row.served,
        "status": row.status,
        "rule": row.rule,
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "ttft_ms": row.ttft_ms,
        "duration_ms": row.duration_ms,
        "cost_nano": None if row.unpriced else row.cost_nano,
        "saved_nano": row.saved_nano,
        "key": ask.name("key_id", row.key_id),
        "tags": row.tags,
        "error": row.error,
        "degraded": row.degraded,
        "estimated": row.usage_source == "estimated",
        "unpriced": row.unpriced,
    }


def _remarks(row: Any) -> str:
    found = [row["error"][:120], f"degraded: {row['degraded'][:80]}" if row["degraded"] else ""]
    found += ["usage estimated" if row["estimated"] else "", "no known price" if row["unpriced"] else ""]
    return "; ".join(filter(None, found))
