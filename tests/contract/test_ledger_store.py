"""One contract over both databases: SQLite in a file and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import msgspec
import pytest
from sqlalchemy import text

from gateway.ledger import months
from gateway.ledger.answers import Period
from gateway.ledger.errors import LedgerAway, LedgerRefused
from gateway.ledger.rollups import CUTS
from gateway.ledger.store import SqlStore
from gateway.types import DAY_MS, HOUR_MS, Content, LedgerEntry
from tests.support.ledger import NOON, entry, key_record
from tests.support.pace import allowed

DAY = NOON - NOON % DAY_MS


async def test_a_row_comes_back_as_it_was(store: SqlStore) -> None:
    kept = entry(
        "r1",
        tags=("a", "ü"),
        similarity=0.987,
        stream=True,
        unpriced=True,
        ttft_ms=12.5,
        cost_nano=9_007_199_254_740_993,
        difficulty=0.25,
        detail={"targets": [{"model": "m", "why": 'say "no"'}], "score": 0.5},
    )
    assert await store.append([kept]) == 1
    assert await store.get("r1") == kept
    assert await store.get("r2") is None


async def test_the_same_request_counts_once(store: SqlStore) -> None:
    assert await store.append([entry("r1", cost_nano=5), entry("r1", cost_nano=7)]) == 1
    assert await store.append([entry("r1", cost_nano=9), entry("r2", cost_nano=11)]) == 1
    total = (await store.summary(NOON, NOON + 1))["total"]
    assert (total["requests"], total["cost_nano"]) == (2, 16)
    assert await store.verify() == []


async def test_a_crashed_row_gives_way_to_the_settled_one_and_never_back(store: SqlStore) -> None:
    crashed = entry("r1", status="crashed", cost_nano=100, ts_ms=NOON, model="", duration_ms=30_000.0)
    settled = entry("r1", status="ok", cost_nano=40, ts_ms=NOON + HOUR_MS, duration_ms=12.0)
    await store.append([crashed, entry("r2")])
    assert await store.append([settled]) == 0
    assert await store.append([crashed]) == 0
    assert await store.get("r1") == settled
    summary = await store.summary(NOON, NOON + 2 * HOUR_MS)
    assert summary["total"]["requests"] == 2
    assert summary["statuses"] == {"ok": 2}
    assert summary["latency_ms"]["p99"] < 100
    assert await store.verify() == []


async def test_crashed_and_settled_in_one_batch_leave_the_settled_one(store: SqlStore) -> None:
    settled = entry("r1", cost_nano=40)
    assert await store.append([entry("r1", status="crashed", cost_nano=100), settled]) == 1
    assert await store.get("r1") == settled
    assert await store.verify() == []


async def test_recent_rows_newest_first(store: SqlStore) -> None:
    await store.append([entry(f"r{n}", ts_ms=NOON + n) for n in range(10)])
    assert [row.request_id for row in await store.recent(3)] == ["r9", "r8", "r7"]


async def test_rollups_equal_rows_whatever_came_in(store: SqlStore) -> None:
    chance = random.Random(7)
    entries = [_any_entry(chance, f"r{n % 700}") for n in range(1000)]
    for start in range(0, len(entries), 90):
        await store.append(entries[start : start + 90])
    assert await store.verify() == []
    rows = await store.recent(2000)
    summary = await store.summary(min(row.ts_ms for row in rows), max(row.ts_ms for row in rows) + 1)
    total = summary["total"]
    assert total["requests"] == len(rows) == 700
    assert total["cost_nano"] == sum(row.cost_nano for row in rows)
    assert total["saved_nano"] == sum(row.saved_nano for row in rows)
    assert sum(part["requests"] for part in summary["timeline"]) == 700
    assert sum(row["requests"] for row in summary["by_key"]) == 700
    assert await store.spent() == {
        key: sum(row.cost_nano for row in rows if row.key_id == key) for key in {row.key_id for row in rows}
    }


def _any_entry(chance: random.Random, request_id: str) -> LedgerEntry:
    return entry(
        request_id,
        ts_ms=NOON + chance.randrange(4 * DAY_MS),
        key_id=chance.choice(["k1", "k2"]),
        model=chance.choice(["local", "hosted"]),
        served=chance.choice(["local", "hosted", "cache"]),
        cache=chance.choice(["exact", "miss", "bypass"]),
        status=chance.choice(["ok", "crashed", "error", "cancelled"]),
        usage_source=chance.choice(["reported", "estimated"]),
        cost_nano=chance.randrange(10**12),
        saved_nano=chance.randrange(-(10**9), 10**9),
        duration_ms=chance.lognormvariate(5, 2),
        ttft_ms=chance.choice([None, chance.lognormvariate(3, 1)]),
    )


async def test_a_summary_covers_its_period_and_nothing_else(store: SqlStore) -> None:
    hours = [entry(f"r{n}", ts_ms=NOON + n * HOUR_MS) for n in range(-48, 96)]
    await store.append(hours)
    assert (await store.summary(NOON, NOON + HOUR_MS))["total"]["requests"] == 1
    assert (await store.summary(NOON, NOON + 3 * DAY_MS))["total"]["requests"] == 72
    assert (await store.summary(NOON + 1, NOON + HOUR_MS + 1))["total"]["requests"] == 2


async def test_verify_names_a_rollup_that_is_wrong(store: SqlStore) -> None:
    await store.append([entry("r1", cost_nano=5), entry("r2", ts_ms=NOON + DAY_MS)])
    async with store._engine.begin() as connection:
        await connection.execute(
            text("UPDATE rollup_hour SET cost_nano = cost_nano + 1 WHERE cut = 1 AND cost_nano = 5")
        )
        await connection.execute(text(f"DELETE FROM ledger_2026_01 WHERE ts_ms > {NOON}"))
    wrong = await store.verify()
    [first, *others] = wrong
    assert (first.table, first.start_ms, first.series) == ("rollup_hour", NOON, {"organisation": "default", "team": ""})
    assert first.rows is not None
    assert first.rollup is not None
    assert (first.rows.cost_nano, first.rollup.cost_nano) == (5, 6)
    assert {each.start_ms for each in others} == {NOON + DAY_MS, NOON + DAY_MS - NOON % DAY_MS}
    assert all(each.rows is None and each.rollup for each in others)
    await store.rebuild()
    assert await store.verify() == []
    assert (await store.totals(Period(NOON, NOON + 3 * DAY_MS))).cost_nano == 5


def _full_entry(chance: random.Random, request_id: str) -> LedgerEntry:
    """Of every kind there is, at the edges of what is counted."""
    return msgspec.structs.replace(
        _any_entry(chance, request_id),
        team=chance.choice(["", "red"]),
        tags=chance.choice([(), ("x", "y"), ("x", "x"), ("t" * 300,)]),
        project=chance.choice(["", "p"]),
        end_user=chance.choice(["", "u", "v"]),
        duration_ms=chance.choice([0.01, 0.125, 8.0, 3e9, chance.lognormvariate(5, 2)]),
        tokens_per_s=chance.choice([None, 0.0, 33.3, 1e-3]),
        completion_tokens=chance.choice([0, 1, 2, 900]),
        feedback=chance.choice([None, -1.0, 0.0, 0.3335, 1.0]),
        unpriced=chance.random() < 0.2,
        incomplete=chance.random() < 0.2,
        busy_us=chance.randrange(10**9),
    )


async def test_verify_counts_what_the_writer_counts(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(11)
    await store.append([_full_entry(chance, f"r{n}") for n in range(400)])
    told: list[tuple[int, int]] = []
    assert await store.verify(tell=lambda done, total: told.append((done, total))) == []
    assert told == [(done, 5) for done in range(6)]
    monkeypatch.setattr("gateway.ledger.verifying._AT_ONCE", 7)
    monkeypatch.setattr("gateway.ledger.places._MOST", 10)
    assert await store.verify() == []


async def test_verify_finds_one_nano_dollar_in_every_rollup_that_counts_it(store: SqlStore) -> None:
    chance, row = random.Random(12), {"tags": ("x",), "project": "p", "end_user": "u", "team": "red"}
    odd = entry("odd", ts_ms=NOON + DAY_MS, **row)
    await store.append([_full_entry(chance, f"r{n}") for n in range(100)] + [odd])
    await _do(store, "UPDATE ledger_2026_01 SET cost_nano = cost_nano + 1 WHERE request_id = 'odd'")
    wrong = await store.verify()
    found = sorted((each.table, *each.series) for each in wrong)
    hours = [("rollup_hour", *cut.names) for cut in CUTS if not cut.daily_only]
    assert found == sorted(hours + [("rollup_day", *cut.names) for cut in CUTS])
    assert {each.rows.cost_nano - each.rollup.cost_nano for each in wrong if each.rows and each.rollup} == {1}
    assert all(each.series.get("tag", "x") == "x" and each.series.get("end_user", "u") == "u" for each in wrong)


@pytest.mark.parametrize(
    ("harm", "table"),
    [
        ("UPDATE rollup_hour SET latency = ttft WHERE cut = 21", "rollup_hour"),
        ("UPDATE rollup_day SET ttft = latency WHERE cut = 22", "rollup_day"),
        ("UPDATE rollup_day SET rating_milli = rating_milli - 1 WHERE cut = 23", "rollup_day"),
        ("DELETE FROM rollup_hour WHERE cut = 20", "rollup_hour"),
        ("UPDATE rollup_hour SET series = series + 100000 WHERE cut = 24", "rollup_hour"),
        ("UPDATE ledger_2026_01 SET series = (SELECT max(id) FROM series)", "ledger"),
    ],
)
async def test_verify_finds_what_was_harmed_and_nothing_else(store: SqlStore, harm: str, table: str) -> None:
    row: dict[str, Any] = {"tags": ("x",), "project": "p", "end_user": "u", "ttft_ms": 3.0, "feedback": 1.0}
    await store.append([entry("r1", **row)])
    await _do(store, harm)
    assert {each.table for each in await store.verify()} == {table}
    await store.rebuild()
    assert await store.verify() == []


async def test_verify_runs_while_rows_are_written(store: SqlStore, url: str) -> None:
    reader, chance = SqlStore.reader(url), random.Random(13)
    await store.append([_full_entry(chance, f"r{n}") for n in range(200)])
    written, enough = 0, asyncio.Event()

    async def write() -> None:
        nonlocal written
        while not enough.is_set():
            await store.append([_full_entry(chance, f"w{written}-{n}") for n in range(5)])
            written += 1

    writing = asyncio.create_task(write())
    while written < 4:
        assert not writing.done()
        assert await reader.verify() == []
    enough.set()
    await writing
    assert await reader.verify() == []
    await reader.close()


async def _do(store: SqlStore, statement: str) -> None:
    async with store._engine.begin() as connection:
        await connection.execute(text(statement))


async def test_keys_are_put_replaced_and_listed(store: SqlStore) -> None:
    first = key_record("k1", tags=["a"], budget_nano=5 * 10**9)
    await store.put_key(first)
    await store.put_key(key_record("k2"))
    assert [record["id"] for record in await store.keys()] == ["k1", "k2"]
    assert (await store.keys())[0] == first
    await store.put_key(first | {"revoked_ms": NOON})
    assert (await store.keys())[0]["revoked_ms"] == NOON


async def test_a_rotated_key_has_two_definitions(store: SqlStore) -> None:
    await store.put_key(key_record("k1", revoked_ms=NOON))
    await store.put_key(key_record("k1", hash="f" * 64))
    assert [record["revoked_ms"] for record in await store.keys()] == [NOON, None]


@pytest.mark.parametrize("change", [{"colour": "blue"}, {"rpm": "many"}])
async def test_what_is_not_a_key_is_refused(store: SqlStore, change: dict[str, Any]) -> None:
    with pytest.raises(LedgerRefused):
        await store.put_key(key_record("k1") | change)


async def test_a_nul_byte_from_a_client_does_not_cost_the_row(store: SqlStore) -> None:
    await store.append([entry("r1", end_user="a\0b", tags=("x\0",), detail={"a": "\0"})])
    row = await store.get("r1")
    assert row is not None
    assert (row.end_user, row.tags, row.detail) == ("a\ufffdb", ("x\0",), {"a": "\0"})


async def test_a_value_the_database_cannot_hold_is_refused_whole(store: SqlStore) -> None:
    with pytest.raises(LedgerRefused):
        await store.append([entry("r1"), entry("r2", cost_nano=2**70)])
    assert await store.recent() == []
    assert await store.verify() == []


async def test_a_reader_sees_what_was_written_and_cannot_write(store: SqlStore, url: str) -> None:
    await store.append([entry("r1")])
    reader = SqlStore.reader(url)
    assert await reader.get("r1") is not None
    if url.startswith("sqlite"):
        with pytest.raises(LedgerAway):
            await reader.append([entry("r2")])
    await reader.close()


async def test_before_the_first_migration_the_ledger_is_away(empty_url: str) -> None:
    reader = SqlStore.reader(empty_url)
    with pytest.raises(LedgerAway):
        await reader.recent()
    await reader.close()


async def test_migrating_again_changes_nothing(store: SqlStore) -> None:
    await store.append([entry("r1")])
    await store.migrate()
    assert await store.get("r1") is not None


async def test_the_migrations_lead_to_the_tables_the_code_uses(store: SqlStore) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from gateway.ledger.tables import metadata

    def mine(name: str | None, kind: str, _: object) -> bool:
        """A month is no table of the model, and SQLite's ledger is a view over them."""
        return kind != "table" or not (months.NAME.fullmatch(name or "") or (sqlite and name == "ledger"))

    async with store._engine.connect() as connection:
        sqlite = connection.dialect.name == "sqlite"
        options = {"include_name": mine, "include_object": lambda _, name, kind, *__: mine(name, kind, None)}
        found = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync, opts=options), metadata)
        )
    assert found == []


async def test_two_writers_at_once_count_each_row_once(store: SqlStore, url: str) -> None:
    other = SqlStore(url)
    batches = [[entry(f"r{n}-{m}") for m in range(20)] for n in range(10)]
    new = await asyncio.gather(*(each.append(batch) for batch in batches for each in (store, other)))
    assert sum(new) == 200
    assert await store.verify() == []
    await other.close()


async def test_a_thousand_rows_are_written_in_one_go(store: SqlStore) -> None:
    # 90 ms on SQLite and 160 on PostgreSQL where the machine is free; row by row it would be seconds.
    best = 9.0
    for turn in range(5):
        batch = [msgspec.structs.replace(_any_entry(random.Random(n), f"{turn}-{n}"), ts_ms=NOON) for n in range(1000)]
        started = time.perf_counter()
        await store.append(batch)
        best = min(best, time.perf_counter() - started)
    print(f"1,000 rows: {best * 1000:.1f} ms")
    assert best < allowed(1.0)


async def test_rows_of_the_same_millisecond_are_not_lost_between_pages(store: SqlStore) -> None:
    at = DAY + 40 * DAY_MS
    await store.append([entry(f"same{number:02}", ts_ms=at) for number in range(25)])
    period = Period(at, at + 1)
    first = await store.rows(period, limit=10)
    second = await store.rows(period, after=first.next, limit=10)
    third = await store.rows(period, after=second.next, limit=10)
    names = [row.request_id for page in (first, second, third) for row in page.rows]
    assert names == [f"same{number:02}" for number in reversed(range(25))]


async def test_feedback_goes_onto_the_row_and_into_the_rollups(store: SqlStore) -> None:
    await store.append([entry("r1"), entry("r2")])
    assert await store.rate({"r1": 1.0, "unknown": 1.0}) == ["unknown"]
    assert await store.rate({"r1": -0.5}) == []
    row = await store.get("r1")
    assert row is not None
    assert row.feedback == -0.5
    total = await store.totals(Period(NOON, NOON + 1))
    assert (total.requests, total.rated, total.rating) == (2, 1, -0.5)
    assert await store.verify() == []


async def test_months_go_whole_and_their_days_stay(store: SqlStore) -> None:
    january = 1_767_225_600_000
    entries = [_any_entry(random.Random(n), f"r{n:03}") for n in range(-30, 30)]
    entries = [msgspec.structs.replace(one, ts_ms=january + n * DAY_MS) for n, one in enumerate(entries, -30)]
    await store.append(entries)
    before = await store.totals(Period(0, DAY + 60 * DAY_MS))
    gone = await store.forget(january + 5 * DAY_MS, now_ms=NOON)
    assert gone == ["ledger_2025_12"]
    left = [one for one in entries if one.ts_ms >= january]
    assert [one async for batch in store.scan(Period(0, 2**42)) for one in batch] == sorted(
        left, key=lambda one: (one.ts_ms, one.request_id)
    )
    assert await store.totals(Period(0, DAY + 60 * DAY_MS)) == before
    assert await store.verify() == []
    assert await store.forget(january + 5 * DAY_MS, now_ms=NOON) == []
    await store.append([entry("late", ts_ms=january - DAY_MS)])
    assert await store.get("late") is not None


async def test_contents_are_kept_apart_until_their_time_is_over(store: SqlStore) -> None:
    kept = [
        Content(request_id=f"r{n}", ts_ms=NOON, expires_ms=NOON + n, prompt=b"\0\xff?", answer=b"!", key_id="k1")
        for n in range(1, 1203)
    ]
    await store.put_contents(kept)
    await store.put_contents([Content(request_id="r2", ts_ms=0, expires_ms=0, prompt=b"other", answer=b"")])
    assert await store.content("r2") == kept[1]
    assert await store.content("none") is None
    await store.forget(0, now_ms=NOON + 1201)
    assert await store.content("r1201") is None
    assert await store.content("r1202") == kept[-1]


@pytest.mark.parametrize("who", ["end_user", "key_id"])
async def test_whoever_is_erased_leaves_the_days_whose_rows_have_gone_as_well(store: SqlStore, who: str) -> None:
    january = 1_767_225_600_000
    about: dict[str, Any] = {"key_id": "k1", "end_user": "u1", who: "planted"}
    times = {"gone": january - DAY_MS, "kept": january, "only-gone": january - 2 * DAY_MS}
    await store.append([entry(name, ts_ms=at, cost_nano=7, **about) for name, at in times.items()])
    await store.append([entry("other", ts_ms=january - DAY_MS, cost_nano=5, end_user="u2", key_id="k2")])
    await store.forget(january + DAY_MS, now_ms=NOON)
    span = Period(january - 5 * DAY_MS, january + 5 * DAY_MS)
    by: Any = who
    await store.breakdown(span, by)  # what a reader keeps of it goes, too
    erased = await store.erase(end_user="planted") if who == "end_user" else await store.erase(key_id="planted")
    assert erased.rows == 1
    found = await store.breakdown(span, by)
    assert [(group.name[:7], group.measures.cost_nano) for group in found.groups] == [
        ("erased-", 21),
        ("u2" if who == "end_user" else "k2", 5),
    ]
    async with store._engine.connect() as connection:
        assert "planted" not in str((await connection.execute(text("SELECT * FROM series"))).all())
    assert await store.verify() == []
    await store.append([entry("again", ts_ms=january, cost_nano=1, **about)])
    assert await store.verify() == []


@pytest.mark.parametrize("who", ["end_user", "key_id"])
async def test_whoever_is_erased_may_have_a_row_that_came_after_its_month_had_gone(store: SqlStore, who: str) -> None:
    """Spooled for weeks, say: its day is told by rows and without them."""
    january = 1_767_225_600_000
    about: dict[str, Any] = {"key_id": "k1", "end_user": "u1", who: "planted", "tags": ("t",), "team": "red"}
    await store.append([entry("gone", ts_ms=january - DAY_MS, cost_nano=7, **about)])
    await store.forget(january + DAY_MS, now_ms=NOON)
    await store.append([entry("late", ts_ms=january - DAY_MS, cost_nano=5, **about)])
    span, by = Period(january - 5 * DAY_MS, january + 5 * DAY_MS), who
    before = await store.totals(span)
    erased = await store.erase(end_user="planted") if who == "end_user" else await store.erase(key_id="planted")
    assert erased.rows == 1
    found = await store.breakdown(span, by)  # type: ignore[arg-type]
    assert [(group.name[:7], group.measures.cost_nano) for group in found.groups] == [("erased-", 12)]
    assert found.groups[0].measures == before
    async with store._engine.connect() as connection:
        assert "planted" not in str((await connection.execute(text("SELECT * FROM series"))).all())


@pytest.mark.parametrize("who", ["end_user", "key_id"])
async def test_whoever_is_erased_is_found_nowhere_and_the_money_stays(store: SqlStore, url: str, who: str) -> None:
    planted = "Ada-Lovelace-1815"
    mark: dict[str, Any] = {who: planted, "tags": (f"{planted}-tag",), "session": planted, "detail": {"why": planted}}
    await store.append([entry(f"hers{n}", ts_ms=NOON + n * HOUR_MS, cost_nano=7, **mark) for n in range(520)])
    contents = [
        Content(
            request_id="hers1", ts_ms=NOON, expires_ms=2**42, prompt=planted.encode(), answer=b"", **{who: planted}
        ),
        Content(request_id="other", ts_ms=NOON, expires_ms=2**42, prompt=b"kept", answer=b""),
    ]
    await store.put_contents(contents)
    before = await store.totals(Period(0, 2**41))

    erased = await store.erase(end_user=planted) if who == "end_user" else await store.erase(key_id=planted)

    assert (erased.rows, erased.contents) == (520, 1)
    assert await store.content("hers1") is None
    assert await store.content("other") is not None
    assert await store.totals(Period(0, 2**41)) == before
    assert await store.verify() == []
    row = await store.get("hers1")
    assert row is not None
    assert row.cost_nano == 7
    assert planted not in str(row)
    assert not await mentions(store, planted)
    if url.startswith("sqlite"):
        file = url.partition("///")[2]
        for suffix in ("", "-wal"):
            with open(file + suffix, "rb") as data:
                assert planted.encode() not in data.read(), suffix


async def mentions(store: SqlStore, planted: str) -> list[str]:
    """Tables in which a text stands anywhere."""
    found = []
    async with store._engine.connect() as connection:
        for table in ("ledger", "series", "contents"):
            rows = (await connection.execute(text(f"SELECT * FROM {table}"))).all()
            if any(planted in str(row) for row in rows):
                found.append(table)
    return found
