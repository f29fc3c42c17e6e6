"""The cache: what it answers and what that saves, what it holds, and how close its hits are to what was asked."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.cache.stats import CacheStats, Checked, Kept, Top, bounds, posterior
from gateway.dashboard.page import Ask, Page
from gateway.dashboard.tables import Column, Table

_TIERS = {
    "exact": "The same request",
    "semantic": "A question that means the same",
    "coalesced": "Shared with one in flight",
    "miss": "Nothing stored",
    "bypass": "Not asked",
}
_TIER_COLUMNS = (
    Column("tier", "Cache"),
    Column("title", "What it did", minor=True),
    Column("requests", "Requests", "count"),
    Column("share", "Share", "share"),
    Column("saved_nano", "Saved, net", "money"),
    Column("latency_p50_ms", "p50", "duration", minor=True),
)
_SIMILARITY_COLUMNS = (
    Column("similarity", "Similarity"),
    Column("hits", "This week", "count"),
    Column("before", "The week before", "count"),
)
_PROMISE_COLUMNS = (
    Column("policy", "Policy"),
    Column("mode", "Mode", minor=True),
    Column("budget", "Budget", "share"),
    Column("checked", "Checked", "count"),
    Column("wrong", "Wrong", "count"),
    Column("low", "95 % from", "share"),
    Column("high", "to", "share"),
    Column("kept", "Kept"),
    Column("partitions", "Partitions", "count", minor=True),
    Column("closed", "Closed", "count", minor=True),
)
_PARTITION_COLUMNS = (Column("partition", "Partition", "code"), *(one for one in _PROMISE_COLUMNS[:-2]))
_POSTERIOR_COLUMNS = (
    Column("said", "Said to be right"),
    Column("served", "Served this week", "count"),
    Column("afresh", "Answered afresh", "count"),
    Column("same", "Was the same", "share"),
)
_TOP_COLUMNS = (
    Column("prompt", "Question"),
    Column("hits", "Hits", "count"),
    Column("saved_nano", "Saved", "money"),
    Column("model", "Model", minor=True),
    Column("entry", "Entry", "code", minor=True),
    Column("created_ms", "Made", "time", minor=True),
)


async def cache(ask: Ask) -> Page:
    found = await ask.store.breakdown(ask.span, "cache", order="requests")
    total = sum(group.measures.requests for group in found.groups)
    tiers: list[dict[str, Any]] = [
        {
            "tier": group.name,
            "title": _TIERS.get(group.name, group.name),
            "requests": group.measures.requests,
            "share": group.measures.requests / total,
            "saved_nano": group.measures.saved_nano,
            "latency_p50_ms": group.measures.latency_ms.p50,
        }
        for group in found.groups
    ]
    told = ask.facts["cache"]
    held = None if told is None else msgspec.convert(told["held"], CacheStats)
    audited = None if told is None else msgspec.convert(told["audit"], Checked)
    rows = _similarities(held) if held else []
    top = [{"prompt": one.prompt or "(compared whole only)", **_row(one)} for one in held.top] if held else []
    tables = (
        Table("tiers", "What became of requests", _TIER_COLUMNS, tiers, empty="No requests in this period."),
        *_promises(audited),
        Table("posterior", "How sure it was", _POSTERIOR_COLUMNS, _sure(held, audited), empty="No semantic hit yet."),
        Table("similarity", "Similarity of semantic hits", _SIMILARITY_COLUMNS, rows, empty="No semantic hit yet."),
        Table("top", "Answers that save most", _TOP_COLUMNS, top, empty="No stored answer has been used yet."),
    )
    figures = {} if held is None else {"entries": held.entries, "bytes": held.bytes, "psi": held.psi}
    return Page("cache", "Cache", {"held": held, "audited": audited}, tables, figures=figures)


def _promises(audited: Checked | None) -> tuple[Table, Table]:
    by_policy = [_kept(one) for one in audited.promises] if audited else []
    by_partition = [_kept(one) for one in audited.partitions] if audited else []
    empty = "Nothing was in doubt yet."
    return (
        Table("promises", "Wrong answers against the budget", _PROMISE_COLUMNS, by_policy, empty=empty),
        Table("partitions", "Where most was checked", _PARTITION_COLUMNS, by_partition, empty=empty),
    )


def _kept(one: Kept) -> dict[str, Any]:
    kept = "no" if one.exceeded else "yes" if one.checked else "not checked yet"
    return {**msgspec.structs.asdict(one), "partition": one.partition[:12], "kept": kept}


def _sure(held: CacheStats | None, audited: Checked | None) -> list[dict[str, Any]]:
    if held is None or audited is None:
        return []
    return [
        {"said": f"{low:g} – {high:g}", "served": served, "afresh": afresh, "same": same / afresh if afresh else None}
        for low, high, served, afresh, same in posterior(held, audited)
    ]


def _similarities(held: CacheStats) -> list[dict[str, Any]]:
    return [
        {"similarity": "{:.3f} – {:.3f}".format(*bounds(number)), "hits": now, "before": before}
        for number, (now, before) in enumerate(zip(held.similarity, held.similarity_before, strict=True))
        if now or before
    ]


def _row(one: Top) -> dict[str, Any]:
    return {name: getattr(one, name) for name in ("hits", "saved_nano", "model", "entry", "created_ms")}
