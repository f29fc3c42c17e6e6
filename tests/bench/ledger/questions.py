"""What the pages ask of the books, each timed: the middle of a few tries, after one that warms up."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable

import msgspec

from gateway.ledger.answers import Period, Where
from gateway.ledger.store import SqlStore
from gateway.types import DAY_MS, HOUR_MS

TRIES = 5
Ask = Callable[[SqlStore], Awaitable[object]]


class Timed(msgspec.Struct, frozen=True):
    """How long a question took, milliseconds: the first time, and the middle and worst of the tries after that.

    ``cpu_ms`` is what this process computed for one of those, whatever else the machine was doing.
    """

    question: str
    first_ms: float
    middle_ms: float
    worst_ms: float
    cpu_ms: float


def questions(until_ms: int) -> dict[str, Ask]:
    """The questions of the dashboard's pages, the hard ones among them, by name."""
    day, month = Period(until_ms - DAY_MS, until_ms), Period(until_ms - 30 * DAY_MS, until_ms)
    ever = Period(until_ms - 90 * DAY_MS, until_ms)
    off = Period(until_ms - 30 * DAY_MS + 5 * HOUR_MS, until_ms - 7 * HOUR_MS)
    one_key: Where = {"key_id": ("key-3-5",)}
    three: Where = {"team": ("team-0",), "status": ("ok",), "cache": ("miss",)}
    deep = f"{until_ms - 60 * DAY_MS}-"
    asked: dict[str, Ask] = {
        "totals, a month": lambda store: store.totals(month),
        "totals, 90 days": lambda store: store.totals(ever),
        "totals, a month that begins in the afternoon": lambda store: store.totals(off),
        "totals of a team's misses, 90 days": lambda store: store.totals(ever, three),
        "all answered, by model, 90 days": lambda store: store.breakdown(ever, "model", {"status": ("ok",)}),
        "timeline by model, a month": lambda store: store.timeline(month, "model"),
        "timeline by hour, a week by team": lambda store: store.timeline(
            Period(until_ms - 7 * DAY_MS, until_ms), "team", step_ms=HOUR_MS
        ),
        "timeline of a team by model, 90 days": lambda store: store.timeline(ever, "model", three),
        "rows, newest": lambda store: store.rows(month),
        "rows, 60 days back": lambda store: store.rows(ever, after=deep),
        "rows of one key": lambda store: store.rows(ever, one_key),
        "rows of one key's errors": lambda store: store.rows(ever, {**one_key, "status": ("error",)}),
        "rows of one tag": lambda store: store.rows(ever, {"tag": ("tag-10",)}),
        "rows of one end user": lambda store: store.rows(ever, {"end_user": ("user-3-5-69",)}),
        "rows of nobody": lambda store: store.rows(ever, {"key_id": ("nobody",)}),
        "one row": lambda store: store.get(f"req_{12345:024x}"),
        "summary, a month": lambda store: store.summary(month.since_ms, month.until_ms),
    }
    for by in ("team", "key_id", "model", "rule", "policy", "cache", "status", "served", "project", "tag", "end_user"):
        asked[f"by {by}, a month"] = lambda store, by=by: store.breakdown(month, by)  # type: ignore[misc]
        asked[f"by {by}, a day"] = lambda store, by=by: store.breakdown(day, by)  # type: ignore[misc]
    return asked


async def ask(store: SqlStore, until_ms: int) -> list[Timed]:
    timed = []
    for name, question in questions(until_ms).items():
        took, before = [], 0.0
        for _ in range(TRIES + 1):
            began = time.perf_counter()
            await question(store)
            took.append((time.perf_counter() - began) * 1000)
            before = before or time.process_time()
        computed = (time.process_time() - before) * 1000 / TRIES
        timed.append(Timed(name, took[0], statistics.median(took[1:]), max(took[1:]), computed))
    return timed
