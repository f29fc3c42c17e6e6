"""The first page: what was spent and saved, where the month is heading, how fast, by whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.dashboard import charts, words
from gateway.dashboard.burn import burn_down
from gateway.dashboard.explore import breakdown_table, spend_chart, time_table
from gateway.dashboard.forecast import DAYS, Forecast, forecast
from gateway.dashboard.page import WHERE, Ask, Page, figures
from gateway.dashboard.tables import Column, Table
from gateway.ledger.answers import Breakdown, Dimension, Measures, Times
from gateway.ledger.answers import Period as Span

_TOP = 6
_SPLITS: tuple[Dimension, ...] = ("model", "team", "key_id")
_OWN_SPLITS: tuple[Dimension, ...] = ("model", "rule")
_SAVED_BY = {"cache": "Answered from the cache", "local": "Answered by local models", "hosted": "Cheaper hosted models"}


@dataclass(frozen=True)
class Card:
    """One figure at the top. ``tone``: good, bad or ''; ``exact`` is what hovering shows."""

    name: str
    title: str
    text: str
    note: str
    tone: str = ""
    exact: str = ""
    href: str = ""


async def overview(ask: Ask) -> Page:
    store, span, own = ask.store, ask.span, ask.own
    total = await store.totals(span, own)
    before = await store.totals(Span(*ask.period.before()), own)
    over_time = await store.timeline(span, "model", own, limit=charts.SERIES_MAX)
    served = await store.breakdown(span, "served", own)
    ahead = await forecast(store, own, ask.now_ms)
    steps = _waterfall(total, served)
    tables = [time_table(ask, over_time), _waterfall_table(steps), _served_table(total, served), _times_table(total)]
    splits = _OWN_SPLITS if ask.role == "owner" else _SPLITS
    tables += [breakdown_table(ask, await store.breakdown(span, by, own, limit=_TOP), brief=True) for by in splits]
    values = {
        "cards": _cards(ask, total, before, ahead),
        "chart": spend_chart(ask, over_time),
        "steps": steps,
        "split": _split(total, served),
        "burn": await burn_down(store, ask.facts.get("budgets", ()), ask.now_ms),
        "total": total,
        "budgets": ask.facts.get("budgets", ()),
        "empty": not (total.requests or before.requests or ahead.spent_nano),
    }
    return Page("overview", "Overview", values, tuple(tables), figures(total) | msgspec.structs.asdict(ahead))


def _cards(ask: Ask, total: Measures, before: Measures, ahead: Forecast) -> list[Card]:
    cheaper = total.saved_nano >= 0
    saved = total.saved_nano / total.baseline_nano if total.baseline_nano else None
    errors = total.errors / total.requests if total.requests else None
    notes = [
        f"{total.estimated:,} estimated" if total.estimated else "",
        f"{total.unpriced:,} unpriced" if total.unpriced else "",
    ]
    cards = [
        Card(
            "spent",
            "Spent",
            words.money(total.cost_nano),
            _compared(total.cost_nano, before.cost_nano),
            exact=_exact(total.cost_nano),
        ),
        Card(
            "saved",
            "Saved, net" if cheaper else "Dearer than the baseline by",
            words.money(abs(total.saved_nano)),
            f"{words.share(saved)} of the baseline's {words.money(total.baseline_nano)}"
            if saved is not None
            else "no baseline",
            tone="good" if total.saved_nano > 0 else "" if cheaper else "bad",
            exact=_exact(total.saved_nano),
        ),
        Card(
            "forecast",
            f"Forecast, {ahead.month}",
            words.money(ahead.total_nano),
            f"{words.money(ahead.spent_nano)} so far + {words.money(ahead.day_nano)} a day"
            if ahead.days
            else "after the first whole day",
            exact=f"the daily average of the last {ahead.days} of {DAYS} whole days, to the end of the month (UTC)",
        ),
        Card(
            "requests",
            "Requests",
            words.compact(total.requests),
            ", ".join(filter(None, notes)) or _compared(total.requests, before.requests),
            exact=words.count(total.requests),
            href=ask.href("requests"),
        ),
        Card(
            "hit-rate",
            "Cache hit rate",
            words.share(total.hit_rate),
            f"{words.compact(total.hits)} of {words.compact(total.hits + total.misses)} look-ups",
        ),
        Card(
            "errors",
            "Errors",
            words.share(errors),
            f"{total.errors:,} requests" if total.errors else "none",
            tone="bad" if errors and errors >= 0.01 else "",
            href=ask.href("explore", by="status"),
        ),
        Card("speed", "Tokens a second", words.rate(total.tokens_per_s), "mean decode rate of streamed answers"),
    ]
    if total.rating is None:
        cards.append(Card("quality", "Quality", words.NOTHING, "no feedback yet: POST /v1/feedback"))
    else:
        rating = f"{total.rating:+.2f}".replace("-", words.MINUS)
        cards.append(
            Card(
                "quality",
                "Quality",
                rating,
                f"mean of {total.rated:,} ratings, −1 to +1",
                tone="good" if total.rating > 0 else "bad",
            )
        )
    return cards


def _exact(nano: int) -> str:
    return f"${words.exact(nano)}"


def _compared(now: int, before: int) -> str:
    if not before:
        return "nothing in the period before"
    change = (now - before) / before
    if abs(change) < 0.0005:
        return "as in the period before"
    return f"{words.share(abs(change))} {'more' if change > 0 else 'less'} than the period before"


def _waterfall(total: Measures, served: Breakdown) -> list[charts.Step]:
    """From what the baseline would have cost to what was spent: each step is exact, and so is their sum."""
    changes = []
    for group in served.groups:
        each = group.measures
        change = each.cost_nano - _overheads(each) - each.baseline_nano
        title = _SAVED_BY.get(group.name, "Not answered")
        if change:
            changes.append(
                (title if change < 0 or group.name == "none" else title.replace("Cheaper", "Dearer"), change)
            )
    extras = (
        ("Embeddings", total.embedding_nano),
        ("Verification", total.verification_nano),
        ("Abandoned tries", total.abandoned_nano),
    )
    changes = sorted(changes, key=lambda item: item[1]) + [item for item in extras if item[1]]
    return charts.waterfall(total.baseline_nano, changes, "Spent")


def _overheads(measures: Measures) -> int:
    return measures.embedding_nano + measures.verification_nano + measures.abandoned_nano


def _waterfall_table(steps: list[charts.Step]) -> Table:
    columns = (Column("step", "Step"), Column("amount_nano", "Amount", "money"))
    return Table(
        "savings", "Where the savings come from", columns, [{"step": s.title, "amount_nano": s.nano} for s in steps]
    )


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
        Column("under_100", "under 100 ms", "share"),
        Column("under_300", "under 300 ms", "share"),
    )
    rows = [_times("the first token", total.ttft_ms), _times("the last token", total.latency_ms)]
    return Table("latency", "Latency", columns, rows)


def _times(name: str, times: Times) -> dict[str, Any]:
    found = msgspec.structs.asdict(times)
    return {"name": name} | {f"{rank}_ms": found.pop(rank) for rank in ("p50", "p95", "p99")} | found
