"""Definitions of organisations, teams and budgets in SQL, and what rows cost whom a budget is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, Select, delete, insert, select

from gateway.ledger.errors import LedgerRefused
from gateway.ledger.tables import definitions, ledger

EACH = "*"
_COLUMN = {
    "organisation": ledger.c.organisation,
    "team": ledger.c.team,
    "key": ledger.c.key_id,
    "user": ledger.c.end_user,
    "model": ledger.c.model,
}

Steps = dict[str, dict[int, int]]


def put(connection: Connection, field: str, value: str) -> None:
    """Insert or replace one, such as ``team:default/red``; an empty value takes it away."""
    connection.execute(delete(definitions).where(definitions.c.field == field))
    if value:
        try:
            msgspec.json.decode(value)
        except msgspec.DecodeError as error:
            raise LedgerRefused(f"not a definition: {error}") from None
        connection.execute(insert(definitions), [{"field": field, "value": value}])


def everything(connection: Connection) -> dict[str, str]:
    """Every definition, JSON by field."""
    rows = connection.execute(select(definitions.c.field, definitions.c.value))
    return {row.field: row.value for row in rows}


def spent(connection: Connection, budget: Mapping[str, Any], since_ms: int, width_ms: int | None) -> Steps:
    """Nano-dollars of the rows since a time that a budget counts, by subject and by steps of ``width_ms``.

    ``budget``: its ``scope``, ``subject`` (``*``: each of them) and ``organisation``. All in step 0 without a width.
    """
    rows = select(ledger.c.ts_ms, ledger.c.cost_nano).where(ledger.c.ts_ms >= since_ms, ledger.c.cost_nano != 0)
    rows = rows.where(ledger.c.organisation == budget["organisation"])
    if budget["scope"] == "tag":
        return _by_tag(connection, rows, budget["subject"], width_ms)
    column = _COLUMN[budget["scope"]]
    rows = rows.where(column != "" if budget["subject"] == EACH else column == budget["subject"])
    found: Steps = {}
    for subject, ts_ms, nano in connection.execute(rows.with_only_columns(column, ledger.c.ts_ms, ledger.c.cost_nano)):
        _add(found, subject, ts_ms, nano, width_ms)
    return found


def _by_tag(connection: Connection, rows: Select[Any], subject: str, width_ms: int | None) -> Steps:
    """Tags are JSON in a row: it is charged to each of its tags."""
    found: Steps = {}
    tagged = rows.where(ledger.c.tags != "[]").with_only_columns(ledger.c.tags, ledger.c.ts_ms, ledger.c.cost_nano)
    for tags, ts_ms, nano in connection.execute(tagged):
        for tag in set(msgspec.json.decode(tags)):
            if subject in (EACH, tag):
                _add(found, tag, ts_ms, nano, width_ms)
    return found


def _add(found: Steps, subject: str, ts_ms: int, nano: int, width_ms: int | None) -> None:
    steps = found.setdefault(subject, {})
    step = 0 if width_ms is None else ts_ms // width_ms
    steps[step] = steps.get(step, 0) + nano
