"""What the books have of the models on a bill, a day at a time, from the daily rollups.

A request's row has its model's cost and, in it, what was bought elsewhere for it: its embedding and a cross-encoder's
opinion are on the lines of those models, on the day of the request. The judge of the cache is a model like any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from gateway.arbiter import RULE as JUDGE
from gateway.ledger.answers import Measures, Period
from gateway.reconcile.match import Booked, Place
from gateway.reconcile.names import plain
from gateway.types import DAY_MS

if TYPE_CHECKING:
    from gateway.config import ModelConfig
    from gateway.ledger.answers import Where
    from gateway.ledger.store import SqlStore
    from gateway.protocols import Helper

_MODELS_MAX = 1000
_BILLED: Where = {"served": ("hosted", "none")}


async def booked(
    store: SqlStore,
    models: Iterable[ModelConfig],
    helpers: Mapping[Helper, ModelConfig],
    days: tuple[date, date],
) -> dict[Place, Booked]:
    """By day and :func:`plain` name. Raises LedgerAway."""
    upstream = {model.name: plain(model.upstream_name) for model in models}
    books: dict[Place, Booked] = {}
    for day, period in _each(days):
        judged = await _by_model(store, period, {"rule": (JUDGE,)})
        for name, measures in (await _by_model(store, period, _BILLED)).items():
            if name in upstream:
                place, own = (day, upstream[name]), judged.get(name, Measures()).verification_nano
                books[place] = _sum(books.get(place, Booked()), measures, own)
        if helpers:
            whole = await store.totals(period)
            opinions = whole.verification_nano - sum(each.verification_nano for each in judged.values())
            spent: dict[Helper, int] = {"embedder": whole.embedding_nano, "cross_encoder": opinions}
            for helper, model in helpers.items():
                place = (day, plain(model.upstream_name))
                books[place] = _helped(books.get(place, Booked()), spent[helper])
    return books


def _each(days: tuple[date, date]) -> Iterator[tuple[date, Period]]:
    day = days[0]
    while day <= days[1]:
        start = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
        yield day, Period(start, start + DAY_MS)
        day += timedelta(days=1)


async def _by_model(store: SqlStore, period: Period, where: Where) -> dict[str, Measures]:
    found = await store.breakdown(period, "model", where, limit=_MODELS_MAX)
    return {group.name: group.measures for group in found.groups}


def _sum(before: Booked, more: Measures, own_nano: int) -> Booked:
    """``own_nano``: of what was spent on verification, what this model itself was asked for."""
    elsewhere = more.embedding_nano + more.verification_nano - own_nano + more.abandoned_nano
    return Booked(
        requests=before.requests + more.requests,
        input_tokens=before.input_tokens + more.prompt_tokens,
        cached_tokens=before.cached_tokens + more.cached_tokens,
        output_tokens=before.output_tokens + more.completion_tokens,
        cost_nano=before.cost_nano + more.cost_nano - elsewhere,
        estimated=before.estimated + more.estimated,
        counted=before.counted,
    )


def _helped(before: Booked, spent_nano: int) -> Booked:
    if not spent_nano:
        return before
    return msgspec.structs.replace(before, cost_nano=before.cost_nano + spent_nano, counted=False)
