"""What experiments are judged by, added up by SQLite and by PostgreSQL: the same, and what a person would add up."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gateway.ledger.arms import By
from gateway.ledger.store import SqlStore
from gateway.types import DAY_MS, LedgerEntry
from tests.support.ledger import NOON, entry

RUN = "experiment:e@1a2b/"
LABELS = {"control": "default@c0", "arm": "cheap@a0"}
EVER = NOON + 40 * DAY_MS


def row(number: int, arm: str, **changes: Any) -> LedgerEntry:
    tags = ("blue", f"{RUN}{arm}")
    return entry(f"r{number}", policy=LABELS[arm], tags=tags, **changes)


ROWS = [
    row(1, "control", session="s1", cost_nano=100, duration_ms=math.e, feedback=1.0),
    row(2, "control", session="s1", cost_nano=300, duration_ms=math.e**2),
    row(3, "control", session="s2", end_user="ann", cost_nano=2**53 + 1, duration_ms=1.0, ts_ms=NOON + 35 * DAY_MS),
    row(4, "arm", end_user="ann", cost_nano=5, status="error"),
    row(5, "arm", end_user="ann", key_id="k2", cost_nano=7, duration_ms=0.0, feedback=-0.5),
    row(6, "arm", cost_nano=11, status="cancelled"),
]
OTHERS = [
    entry("o1", policy=LABELS["control"], cost_nano=10**6),
    entry("o2", policy=LABELS["arm"], tags=("experiment:e@9f9f/arm", "experiment:e2@1a2b/arm"), cost_nano=10**6),
    entry("o3", policy=LABELS["arm"], tags=("experimentXe@1a2b/arm", "experiment:e_1a2b/arm"), cost_nano=10**6),
]


async def found(store: SqlStore, by: By, since_ms: int | None = None, until_ms: int = EVER) -> Any:
    return (await store.experiment(RUN, by, since_ms, until_ms))[1]


async def test_units_are_added_up_each_for_itself(store: SqlStore) -> None:
    await store.append([*ROWS, *OTHERS])
    sums = await found(store, "session")
    assert set(sums) == set(LABELS.values())
    control, arm = sums[LABELS["control"]], sums[LABELS["arm"]]
    dear = float(2**53 + 1)
    assert control["cost"] == pytest.approx((2, 3, 400 + dear, 5, 800 + dear, 400**2 + dear**2))
    assert control["errors"] == (2, 3, 0, 5, 0, 0)
    assert control["latency"] == pytest.approx((2, 3, 3, 5, 6, 9))
    assert control["quality"] == (1, 1, 1, 1, 1, 1)
    assert arm["cost"] == (2, 3, 23, 5, 35, 12**2 + 11**2)
    assert arm["errors"] == (2, 3, 1, 5, 2, 1)
    assert arm["latency"] == pytest.approx((1, 1, math.log(0.001), 1, math.log(0.001), math.log(0.001) ** 2))
    assert arm["quality"] == (1, 1, -0.5, 1, -0.5, 0.25)


@pytest.mark.parametrize(("by", "units"), [("request", (3, 3)), ("session", (2, 2)), ("user", (2, 2)), ("key", (1, 2))])
async def test_a_unit_is_who_was_assigned(store: SqlStore, by: By, units: tuple[int, int]) -> None:
    await store.append(ROWS)
    sums = await found(store, by)
    assert tuple(sums[label]["cost"][0] for label in LABELS.values()) == units


async def test_a_time_may_be_cut_out(store: SqlStore) -> None:
    await store.append(ROWS)
    began, sums = await store.experiment(RUN, "request", None, NOON + DAY_MS)
    assert began == NOON - NOON % DAY_MS
    assert sums[LABELS["control"]]["cost"][1] == 2
    assert set(await found(store, "request", NOON + DAY_MS)) == {LABELS["control"]}
    assert await found(store, "request", None, NOON) == {}


async def test_a_run_that_has_no_rows_begins_now(store: SqlStore) -> None:
    assert await store.experiment(RUN, "session", None, NOON) == (NOON, {})
