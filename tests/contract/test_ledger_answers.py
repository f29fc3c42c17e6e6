"""What the books answer, over both databases: whatever is asked, it is what adding up the rows by hand gives."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import pytest
import pytest_asyncio

from gateway.ledger.answers import Dimension, Measures, Order, Period, Where
from gateway.ledger.store import SqlStore
from gateway.types import DAY_MS, HOUR_MS, LedgerEntry
from tests.support.ledger import NOON, entry
from tests.support.postgres import emptied

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIDNIGHT = NOON - NOON % DAY_MS
SPAN = Period(MIDNIGHT - 20 * DAY_MS + 5 * HOUR_MS, MIDNIGHT + 30 * DAY_MS + 7 * HOUR_MS)
FINE = ("ok", "cancelled")


def any_entry(chance: random.Random, number: int) -> LedgerEntry:
    team = chance.choice(["red", "blue", ""])
    return entry(
        f"r{number:05}",
        ts_ms=chance.randrange(MIDNIGHT - 22 * DAY_MS, MIDNIGHT + 33 * DAY_MS),
        team=team,
        key_id=f"k{team}{chance.randrange(3)}",
        project=chance.choice(["", "", "apollo", "gemini"]),
        end_user=chance.choice(["", *(f"user {index}" for index in range(12))]),
        tags=tuple(chance.sample(["a", "b", 'say "no"', "50%_x\\"], chance.randrange(3))),
        rule=chance.choice(["easy", "hard"]),
        model=chance.choice(["small", "big", "huge"]),
        served=chance.choice(["local", "hosted", "cache"]),
        cache=chance.choice(["exact", "semantic", "miss", "bypass"]),
        status=chance.choice(["ok", "ok", "ok", "error", "cancelled", "crashed"]),
        usage_source=chance.choice(["reported", "estimated"]),
        unpriced=chance.random() < 0.1,
        completion_tokens=chance.randrange(50),
        cost_nano=chance.randrange(10**12),
        saved_nano=chance.randrange(-(10**9), 10**9),
        busy_us=chance.randrange(10**6),
        tokens_per_s=chance.choice([None, chance.uniform(1, 90)]),
        duration_ms=chance.lognormvariate(5, 2),
        ttft_ms=chance.choice([None, chance.lognormvariate(5, 1)]),
        feedback=chance.choice([None, None, -1.0, 0.5]),
    )


@pytest.fixture(scope="module")
def entries() -> list[LedgerEntry]:
    chance = random.Random(11)
    return [any_entry(chance, number) for number in range(1200)]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('books') / 'ledger.sqlite3'}"
    return await emptied(request.getfixturevalue("postgres"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def store(url: str, entries: list[LedgerEntry]) -> AsyncIterator[SqlStore]:
    """Only read from: what changes the books has them to itself, in ``test_ledger_store``."""
    made = SqlStore(url)
    await made.migrate()
    for start in range(0, len(entries), 400):
        await made.append(entries[start : start + 400])
    yield made
    await made.close()


def chosen(entries: Iterable[LedgerEntry], period: Period, where: Where | None = None) -> list[LedgerEntry]:
    return [
        one
        for one in entries
        if period.since_ms <= one.ts_ms < period.until_ms
        and all(set(values) & set(values_of(one, name)) for name, values in (where or {}).items())
    ]


def values_of(one: LedgerEntry, name: str) -> Sequence[str]:
    return one.tags if name == "tag" else (getattr(one, name),)


def by_hand(entries: Sequence[LedgerEntry]) -> dict[str, Any]:
    decoded = [one for one in entries if one.tokens_per_s and one.completion_tokens > 1]
    return {
        "requests": len(entries),
        "errors": sum(one.status not in FINE for one in entries),
        "hits": sum(one.cache in ("exact", "semantic") for one in entries),
        "misses": sum(one.cache == "miss" for one in entries),
        "completion_tokens": sum(one.completion_tokens for one in entries),
        "cost_nano": sum(one.cost_nano for one in entries),
        "saved_nano": sum(one.saved_nano for one in entries),
        "busy_us": sum(one.busy_us for one in entries),
        "decode_tokens": sum(one.completion_tokens - 1 for one in decoded),
        "estimated": sum(one.usage_source == "estimated" for one in entries),
        "unpriced": sum(one.unpriced for one in entries),
        "rated": sum(one.feedback is not None for one in entries),
        "rating_milli": sum(round((one.feedback or 0) * 1000) for one in entries),
    }


def shown(measures: Measures) -> dict[str, Any]:
    return {name: getattr(measures, name) for name in by_hand([])}


QUESTIONS: list[Where] = [
    {},
    {"team": ("red",)},
    {"team": ("",), "model": ("big", "huge")},
    {"status": ("error", "crashed"), "cache": ("miss",), "rule": ("hard",)},
    {"tag": ("a",)},
    {"tag": ("50%_x\\",), "team": ("blue", "red")},
    {"project": ("apollo",)},
    {"key_id": ("kred1",)},
    {"key_id": ("nobody",)},
]


@pytest.mark.parametrize("where", QUESTIONS, ids=str)
async def test_totals_are_those_of_the_rows(store: SqlStore, entries: list[LedgerEntry], where: Where) -> None:
    for period in (SPAN, Period(NOON, NOON + 1), Period(NOON - 30 * HOUR_MS, NOON + 30 * HOUR_MS)):
        assert shown(await store.totals(period, where)) == by_hand(chosen(entries, period, where))


async def test_percentiles_and_shares_are_those_of_answered_requests(
    store: SqlStore, entries: list[LedgerEntry]
) -> None:
    found = await store.totals(SPAN, {"team": ("red",)})
    answered = [one for one in chosen(entries, SPAN, {"team": ("red",)}) if one.status == "ok"]
    times = sorted(one.duration_ms for one in answered)
    assert found.latency_ms.p50 == pytest.approx(times[len(times) // 2], rel=0.1)
    firsts = [one.ttft_ms for one in answered if one.ttft_ms is not None]
    assert found.ttft_ms.under_100 == pytest.approx(sum(each < 100 for each in firsts) / len(firsts), abs=0.02)
    assert found.ttft_ms.under_300 == pytest.approx(sum(each < 300 for each in firsts) / len(firsts), abs=0.02)


@pytest.mark.parametrize(
    ("by", "where", "order"),
    [
        ("model", {}, "cost_nano"),
        ("key_id", {"team": ("red",)}, "requests"),
        ("key_id", {"model": ("big",), "status": ("ok",)}, "saved_nano"),
        ("tag", {}, "requests"),
        ("end_user", {"team": ("blue",)}, "completion_tokens"),
        ("organisation", {"model": ("big",)}, "cost_nano"),
        ("team", {}, "errors"),
    ],
)
async def test_a_breakdown_has_the_first_and_the_rest(
    store: SqlStore, entries: list[LedgerEntry], by: Dimension, where: Where, order: Order
) -> None:
    period = Period(MIDNIGHT - 10 * DAY_MS, MIDNIGHT + 10 * DAY_MS)
    found = await store.breakdown(period, by, where, order=order, limit=2)
    rows = chosen(entries, period, where)
    names = {name for one in rows for name in values_of(one, by)} - ({""} if by in ("tag", "end_user") else set())
    expected = {name: by_hand([one for one in rows if name in values_of(one, by)]) for name in names}
    best = sorted(names, key=lambda name: (-expected[name][order], name))[:2]
    assert [group.name for group in found.groups] == best
    assert [shown(group.measures) for group in found.groups] == [expected[name] for name in best]
    assert found.distinct == len(names)
    others = [expected[name] for name in names if name not in best]
    assert found.rest.cost_nano == sum(each["cost_nano"] for each in others)
    assert found.rest.requests == sum(each["requests"] for each in others)


@pytest.mark.parametrize("step", [HOUR_MS, DAY_MS])
async def test_a_timeline_has_every_step_and_adds_up(store: SqlStore, entries: list[LedgerEntry], step: int) -> None:
    period = Period(MIDNIGHT - 2 * DAY_MS + 5 * HOUR_MS, MIDNIGHT + 3 * DAY_MS)
    found = await store.timeline(period, "model", order="requests", limit=2, step_ms=step)
    rows = chosen(entries, period)
    assert found.starts[0] == period.since_ms - period.since_ms % step
    assert found.starts[-1] + step == period.until_ms
    assert found.rest is not None
    for index, start in enumerate(found.starts):
        within = [one for one in rows if start <= one.ts_ms < start + step]
        for line in found.lines:
            assert shown(line.points[index]) == by_hand([one for one in within if one.model == line.name])
        in_all = [line.points[index].requests for line in (*found.lines, found.rest)]
        assert sum(in_all) == len(within)


@pytest.mark.parametrize("by", ["model", "key_id", "tag", "end_user"])
async def test_a_brief_timeline_like_a_breakdown_says_what_the_whole_one_does(store: SqlStore, by: Dimension) -> None:
    whole = await store.timeline(SPAN, by, limit=2)
    split = await store.breakdown(SPAN, by, limit=5)
    brief = await store.timeline(SPAN, by, limit=2, brief=True, like=split)
    assert [line.name for line in brief.lines] == [line.name for line in whole.lines]
    assert (brief.rest is None) == (whole.rest is None)
    for mine, full in zip([*brief.lines, brief.rest], [*whole.lines, whole.rest], strict=True):
        if mine is not None and full is not None:
            for name in ("requests", "errors", "cost_nano", "baseline_nano", "saved_nano"):
                assert [getattr(p, name) for p in mine.points] == [getattr(p, name) for p in full.points]


async def test_a_timeline_of_everything_is_one_line(store: SqlStore, entries: list[LedgerEntry]) -> None:
    found = await store.timeline(Period(NOON, NOON + DAY_MS))
    assert (found.step_ms, len(found.starts), found.rest) == (HOUR_MS, 24, None)
    [line] = found.lines
    assert sum(point.requests for point in line.points) == len(chosen(entries, Period(NOON, NOON + DAY_MS)))
    assert (await store.timeline(Period(NOON, NOON + 3 * DAY_MS))).step_ms == DAY_MS


@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (lambda store: store.totals(SPAN, {"tag": ("a",), "model": ("big",)}), "not kept by model, tag"),
        (lambda store: store.breakdown(SPAN, "colour"), "no such dimension: colour"),
        (lambda store: store.timeline(SPAN, step_ms=1000), "whole hours"),
        (lambda store: store.timeline(Period(0, NOON), step_ms=HOUR_MS), "more than"),
        (lambda store: store.rows(SPAN, after="there"), "where to go on"),
    ],
)
async def test_what_cannot_be_answered_is_said(store: SqlStore, ask: Callable[[SqlStore], Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        await ask(store)


@pytest.mark.parametrize(
    "where",
    [
        *QUESTIONS,
        {"end_user": ("user 3",)},
        {"end_user": ("user 3",), "model": ("big",), "tag": ("a", "b")},
        {"tag": ('say "no"',), "status": ("ok",)},
    ],
    ids=str,
)
async def test_pages_lead_through_every_row_once_newest_first(
    store: SqlStore, entries: list[LedgerEntry], where: Where
) -> None:
    expected = sorted(chosen(entries, SPAN, where), key=lambda one: (one.ts_ms, one.request_id), reverse=True)
    found: list[LedgerEntry] = []
    page = await store.rows(SPAN, where, limit=40)
    turns = 0
    while True:
        found += page.rows
        turns += 1
        if page.next is None:
            break
        page = await store.rows(SPAN, where, after=page.next, limit=40)
    assert found == expected
    assert turns <= len(expected) / 40 + 60


async def test_a_scan_gives_all_rows_in_the_order_of_time(store: SqlStore, entries: list[LedgerEntry]) -> None:
    where: Where = {"team": ("red",)}
    batches = [batch async for batch in store.scan(SPAN, where, batch=100)]
    expected = sorted(chosen(entries, SPAN, where), key=lambda one: (one.ts_ms, one.request_id))
    assert [one for batch in batches for one in batch] == expected
    assert [len(batch) for batch in batches[:-1]] == [100] * (len(batches) - 1)
