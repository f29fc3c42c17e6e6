"""What the arms of an experiment came to, unit by unit: sums from which means and their variances follow.

A unit is what was assigned to an arm: a session, a user, a key or a single request. The database adds up each unit's
requests, and then what the units came to and its squares, so that a million rows leave it as one row an arm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from sqlalchemy import Case, ColumnElement, Connection, Double, Subquery, case, cast, func, select

from gateway.ledger.rollups import LEAN
from gateway.ledger.tables import ledger, rollup_day, series

METRICS = ("cost", "errors", "latency", "quality")
By = Literal["key", "session", "user", "request"]
Sums = tuple[float, ...]
"""Units, requests, what they came to, and the sums of the squares and the product of these two."""

_BY_TAG = next(cut.number for cut in LEAN if cut.own == ("tag",))
_FINE = ("ok", "cancelled")
_LEAST_MS = 0.001


def began(connection: Connection, prefix: str) -> int | None:
    """The day (epoch ms) of the first row with a tag that begins so; None where there is none."""
    days = select(func.min(rollup_day.c.start_ms)).join_from(rollup_day, series, series.c.id == rollup_day.c.series)
    tagged = series.c.tag.startswith(prefix, autoescape=True)
    found = connection.execute(days.where(rollup_day.c.cut == _BY_TAG, series.c.cut == _BY_TAG, tagged))
    return found.scalar()


def sums(connection: Connection, prefix: str, by: By, since_ms: int, until_ms: int) -> Mapping[str, Mapping[str, Sums]]:
    """By the label of the policy that decided, and by metric, of the rows with a tag that begins so.

    ``cost`` is in nano-dollars, ``errors`` counts requests that failed, ``latency`` is the natural logarithm of the
    milliseconds that answered requests took, ``quality`` the feedback (-1 to 1) of those that have one.
    """
    units = _units(prefix, by, since_ms, until_ms)
    columns: list[ColumnElement[Any]] = []
    for metric in METRICS:
        n, x = units.c[f"{metric}_n"], units.c[f"{metric}_x"]
        columns += [func.sum(case((n > 0, 1), else_=0)), func.sum(n), func.sum(x)]
        columns += [func.sum(n * n), func.sum(n * x), func.sum(x * x)]
    rows = connection.execute(select(units.c.policy, *columns).group_by(units.c.policy))
    return {label: _by_metric([float(value or 0) for value in values]) for label, *values in rows}


def _by_metric(values: list[float]) -> dict[str, Sums]:
    return {metric: tuple(values[6 * index : 6 * index + 6]) for index, metric in enumerate(METRICS)}


def _units(prefix: str, by: By, since_ms: int, until_ms: int) -> Subquery:
    row = ledger.c
    fine, answered = row.status.in_(_FINE), row.status == "ok"
    slow = case((row.duration_ms > _LEAST_MS, row.duration_ms), else_=_LEAST_MS)
    metrics: dict[str, tuple[ColumnElement[Any], ColumnElement[Any]]] = {
        "cost": (func.count(), func.sum(row.cost_nano)),
        "errors": (func.count(), func.sum(case((fine, 0), else_=1))),
        "latency": (func.sum(case((answered, 1), else_=0)), func.sum(case((answered, func.ln(slow)), else_=0.0))),
        "quality": (func.count(row.feedback), func.coalesce(func.sum(row.feedback), 0.0)),
    }
    columns = [
        cast(value, Double).label(f"{metric}_{name}")
        for metric, pair in metrics.items()
        for name, value in zip(("n", "x"), pair, strict=True)
    ]
    within = (row.ts_ms >= since_ms, row.ts_ms < until_ms)
    # Tags are a JSON array in text: what is looked for is the beginning of a string in it.
    tagged = row.tags.contains(msgspec.json.encode(prefix).decode()[:-1], autoescape=True)
    query = select(row.policy, *columns).where(*within, tagged)
    return query.group_by(row.policy, _unit(by)).subquery()


def _unit(by: By) -> ColumnElement[str]:
    """Who was assigned: as :func:`gateway.policy.situation.identities` has it."""
    row = ledger.c
    user: Case[str] = case((row.end_user != "", row.end_user), else_=row.key_id)
    session: Case[str] = case((row.session != "", row.session), else_=user)
    units: dict[By, ColumnElement[str]] = {
        "request": row.request_id,
        "session": session,
        "user": user,
        "key": row.key_id,
    }
    return units[by]
