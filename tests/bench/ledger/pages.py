"""Each page of the dashboard over HTTP, as HTML, as data and as exports: the first time, then again and again."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import get_args

import httpx

from gateway.dashboard.page import ALONE, DIMENSIONS
from gateway.ledger.answers import Order
from tests.bench.ledger.house import House
from tests.bench.ledger.questions import Timed

_NAMED = {
    "team": "team-0",
    "key_id": "key-3-5",
    "model": "model-7",
    "rule": "easy",
    "policy": "default@5c1f0e9ab2d7",
    "served": "hosted",
    "cache": "miss",
    "status": "error",
    "tag": "tag-10",
    "project": "project-3",
    "end_user": "user-3-5-69",
}


def addresses(now_ms: int, request_id: str) -> Iterator[str]:
    """Every page by every dimension, in each form; ``request_id`` is that of an old request."""
    at = datetime.fromtimestamp(now_ms / 1000 - 86_400, UTC)
    month, day, hour = (f"{at:{form}}" for form in ("%Y-%m", "%Y-%m-%d", "%Y-%m-%dT%H"))
    for period in ("today", "7d", "30d", "90d", "month", f"{at:%Y}", day):
        yield f"?period={period}"
    yield "/overview.json?period=90d"
    yield "/overview.csv?period=90d&table=by_key_id"
    for by in DIMENSIONS:
        for period in ("30d", "90d"):
            yield f"/explore?period={period}&by={by}"
        yield f"/explore.json?period=90d&by={by}"
        yield f"/explore.csv?period=90d&by={by}&table=by_{by}"
        beside = by if by in ALONE else "model" if by != "model" else "rule"
        yield f"/explore?period=90d&by={beside}&{by}={_NAMED[by]}"
        yield f"/requests?period=90d&{by}={_NAMED[by]}"
    for order in get_args(Order):
        yield f"/explore?period=30d&by=key_id&sort={order}"
    for period in ("7d", month, f"{at:%Y}", day, hour):
        yield f"/explore?period={period}"
    yield "/explore?period=90d&by=rule&team=team-0&status=error&cache=miss"
    yield "/explore?period=90d&by=model&key_id=key-3-5&rule=easy"
    yield "/explore?period=30d&by=key_id&model=model-7&status=ok"
    yield "/explore?period=90d&by=end_user&team=team-3"
    yield f"/explore?period={hour}&by=key_id&team=team-0"
    yield "/requests?period=90d"
    yield f"/requests?period=90d&after={now_ms - 60 * 86_400_000}-"
    yield "/requests?period=90d&key_id=key-3-5&status=error"
    yield "/requests?period=90d&tag=tag-10&status=error"
    yield "/requests.csv?period=90d&team=team-3"
    yield "/requests.json?period=90d"
    for form in ("", ".json"):
        yield f"/requests/{request_id}{form}"
    for page in ("live", "budgets", "models", "policies"):
        for form in ("", ".json"):
            yield f"/{page}{form}"
    yield "/live?team=team-19&status=error"


def time_pages(house: House, request_id: str, tries: int) -> Iterator[Timed]:
    """Page after page. Raises AssertionError for one that cannot be shown."""
    now_ms = int(time.time() * 1000)
    with house.client() as client:
        for address in addresses(now_ms, request_id):
            yield _timed(house, client, address, tries)


def _timed(house: House, client: httpx.Client, address: str, tries: int) -> Timed:
    took, cpu_s = [], 0.0
    for number in range(tries + 1):
        # The same address would be answered from memory within a second.
        began = time.perf_counter()
        reply = client.get(f"/dashboard{address}{'&' if '?' in address else '?'}again={number}")
        took.append((time.perf_counter() - began) * 1000)
        assert reply.status_code == 200, f"{address}: {reply.status_code} {reply.text[:500]}"
        cpu_s = cpu_s or house.cpu_s()
    computed = (house.cpu_s() - cpu_s) / tries * 1000
    return Timed(address, took[0], statistics.median(took[1:]), max(took[1:]), computed)
