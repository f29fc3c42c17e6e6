"""The first page: what was spent and saved, where the month is heading, how fast, by whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway import economics
from gateway.dashboard import charts, words
from gateway.dashboard.burn import burn_down
from gateway.dashboard.cards import cards
from gateway.dashboard.explore import breakdown_table, spend_chart, time_table
from gateway.dashboard.page import WHERE, Ask, Page, figures
from gateway.dashboard.tables import Column, Table
from gateway.economics import Machine
from gateway.ledger.answers import Breakdown, Dimension, Measures, Times
from gateway.ledger.answers import Period as Span

_TOP = 6
_MODELS_MAX = 1000
_SPLITS: tuple[Dimension, ...] = ("model", "team", "key_id")
_OWN_SPLITS: tuple[Dimension, ...] = ("model", "rule")
_SAVED_BY = {"cache": "Answered from the cache", "local": "Answered by local models", "hosted": "Cheaper hosted models"}


async def overview(ask: Ask) -> Page:
    store, span, own = ask.store, ask.span, ask.own
    total = await store.totals(span, own)
    before = await store.totals(Span(*ask.period.before()), own)
    over_time = await store.timeline(span, "model", own, limit=charts.SERIES_MAX, brief=True)
    served = await store.breakdown(span, "served", own)
    ahead = await economics.forecast(store, ask.now_ms, own)
    machines = await _machines(ask)
    idle_nano = sum(machine.idle_nano for machine in machines)
    steps = _waterfall(total, served, idle_nano)
    tables = [time_table(ask, over_time), _waterfall_table(steps), _served_table(total, served), _times_table(total)]
    tables.append(_machines_table(machines))
    splits = _OWN_SPLITS if ask.role == "owner" else _SPLITS
    tables += [breakdown_table(ask, await store.breakdown(span, by, own, limit=_TOP), brief=True) for by in splits]
    values = {
        "cards": cards(ask, total, before, ahead, idle_nano),
        "chart": spend_chart(ask, over_time),
        "steps": steps,
        "step_places": words.places(step.nano for step in steps),
        "split": _split(total, served),
        "burn": await burn_down(store, ask.facts["budgets"], ask.now_ms),
        "total": total,
        "budgets": ask.facts["budgets"],
        "alerts": ask.facts["alerts"],
        "empty": not (total.requests or before.requests or ahead.spent_nano),
    }
    net = {"idle_nano": idle_nano, "saved_nano": total.saved_nano - idle_nano, "forecast_nano": ahead.total_nano}
    return Page("overview", "Overview", values, tuple(tables), figures(total) | net)


async def _machines(ask: Ask) -> Sequence[Machine]:
    """What stands there and costs, used or not; nothing of a key owner's."""
    if ask.role == "owner":
        return ()
    hours = await ask.store.standing_days(ask.span.since_ms, ask.span.until_ms)
    if not hours:
        return ()
    where: dict[Dimension, Sequence[str]] = {"served": ("local", "hosted")}
    served = await ask.store.breakdown(ask.span, "model", where, limit=_MODELS_MAX)
    return economics.machines(hours, {group.name: group.measures for group in served.groups})


def _waterfall(total: Measures, served: Breakdown, idle_nano: int) -> list[charts.Step]:
    """From what the baseline would have cost to what was spent: each step is exact, and so is their sum."""
    by_kind = []
    for group in served.groups:
        each = group.measures
        change = each.cost_nano - _overheads(each) - each.baseline_nano
        title = _SAVED_BY.get(group.name, "Not answered")
        by_kind.append((title if change < 0 else title.replace("Cheaper", "Dearer"), change))
    overheads = (
        ("Embeddings", total.embedding_nano),
        ("Verification", total.verification_nano),
        ("Abandoned tries", total.abandoned_nano),
        ("Idle machines", idle_nano),
    )
    changes = [step for step in (*sorted(by_kind, key=lambda step: step[1]), *overheads) if step[1]]
    return charts.waterfall(total.baseline_nano, changes, "Spent")


def _overheads(measures: Measures) -> int:
    return measures.embedding_nano + measures.verification_nano + measures.abandoned_nano


def _waterfall_table(steps: list[charts.Step]) -> Table:
    columns = (Column("step", "Step"), Column("amount_nano", "Amount", "money"))
    rows = [{"step": step.title, "amount_nano": step.nano} for step in steps]
    return Table("savings", "Where the savings come from", columns, rows)


def _machines_table(machines: Sequence[Machine]) -> Table:
    columns = (
        Column("model", "Model"),
        Column("nano_per_hour_nano", "An hour", "money", minor=True),
        Column("busy_nano", "Busy", "money"),
        Column("idle_nano", "Idle", "money"),
        Column("busy_share", "Busy", "share"),
        Column("requests_per_day", "Requests a day", "rate", minor=True),
        Column("break_even_per_day", "Break-even a day", "count", minor=True),
    )
    rows = []
    for machine in machines:
        row = msgspec.structs.asdict(machine) | {"nano_per_hour_nano": machine.nano_per_hour}
        rows.append(row | {"busy_share": machine.busy_share, "requests_per_day": machine.requests_per_day})
    return Table("machines", "Machines", columns, rows)


def _split(total: Measures, served: Breakdown) -> list[dict[str, Any]]:
    """Shares of the requests, side by side, in per cent."""
    known = {group.name: group.measures.requests for group in served.groups}
    found, x = [], 0.0
    for name in WHERE:
        width = 100 * known.get(name, 0) / (total.requests or 1)
        found.append({"name": name, "x": round(x, 3), "width": round(width, 3)})
        x += width
    return found


def _served_table(total: Measures, served: Breakdown) -> Table:
    known: Mapping[str, Measures] = {group.name: group.measures for group in served.groups}
    rows = []
    for name, title in WHERE.items():
        each = known.get(name, Measures())
        if name != "none" or each.requests:
            part = each.requests / total.requests if total.requests else None
            rows.append({"name": title, "where": name, "share": part} | figures(each))
    columns = (
        Column("name", "Where"),
        Column("requests", "Requests", "count"),
        Column("share", "Share", "share"),
        Column("cost_nano", "Spent", "money"),
    )
    return Table("served", "Answered by", columns, rows)


def _times_table(total: Measures) -> Table:
    columns = (
        Column("name", "Time to"),
        *(Column(f"{rank}_ms", rank, "duration") for rank in ("p50", "p95", "p99")),
        Column("under_100", "< 100 ms", "share"),
        Column("under_300", "< 300 ms", "share"),
    )
    rows = [_times("first token", total.ttft_ms), _times("last token", total.latency_ms)]
    return Table("latency", "Latency", columns, rows)


def _times(name: str, times: Times) -> dict[str, Any]:
    found = msgspec.structs.asdict(times)
    return {"name": name} | {f"{rank}_ms": found.pop(rank) for rank in ("p50", "p95", "p99")} | found
