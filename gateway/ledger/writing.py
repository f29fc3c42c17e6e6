"""One transaction of the writer: rows, and the rollups they change, together or not at all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from gateway.ledger import histogram, memory, months, statements
from gateway.ledger.rollups import CUTS, DIMENSIONS, EVERY, Cells, Place, fold
from gateway.ledger.rows import Row
from gateway.ledger.statements import is_sqlite, many
from gateway.ledger.tables import ENTRY_COLUMNS, ledger
from gateway.types import DAY_MS

_CUT_NAMES = {cut.number: cut.names for cut in CUTS}
# A request's two rows, the settled and the swept one, carry the same time; clocks of two machines may differ.
_APART_MS = 2 * DAY_MS


def append(connection: Connection, rows: Iterable[Row]) -> int:
    """Insert what is new; a ``crashed`` row gives way to a settled one. Returns the number of new requests."""
    wanted = _one_each(rows)
    if not wanted:
        return 0
    months.ensure(connection, {months.month_of(row.ts_ms) for row in wanted.values()})
    known = _known(connection, wanted)
    wrong = [name for name, status in known.items() if status == "crashed" and not wanted[name].crashed]
    new = [row for name, row in wanted.items() if name not in known]
    change(connection, new + [wanted[name] for name in wrong], _rows(connection, wrong))
    return len(new)


def rate(connection: Connection, scores: Mapping[str, float]) -> list[str]:
    """Put feedback on rows; the last one counts. Returns the requests that have no row."""
    old = _rows(connection, list(scores))
    at = ENTRY_COLUMNS.index("feedback")
    new = [Row((*row.values[:at], scores[row.request_id], *row.values[at + 1 :])) for row in old]
    changed = [(before, after) for before, after in zip(old, new, strict=True) if before.values != after.values]
    change(connection, [after for _, after in changed], [before for before, _ in changed])
    return sorted(scores.keys() - {row.request_id for row in old})


def change(connection: Connection, added: Sequence[Row], removed: Sequence[Row]) -> None:
    """Rows that go and rows that come, with what that does to the rollups."""
    if not added and not removed:
        return
    for table, some in _by_table(connection, removed).items():
        statement = f"DELETE FROM {table} WHERE request_id = ? AND ts_ms = ?"
        many(connection, statement, [row.values[:2] for row in some])
    hours, days = fold([row.facts for row in added], [row.facts for row in removed])
    ids = series_ids(connection, hours.keys() | days.keys())
    of_names = {values: ids[name_of(cut, values)] for cut, _, values in hours if cut == EVERY.number}
    for table, some in _by_table(connection, added).items():
        many(connection, statements.insert_row(table), [(*row.values, of_names[row.names]) for row in some])
    add_cells(connection, "rollup_hour", hours, ids)
    add_cells(connection, "rollup_day", days, ids)
    if removed:
        drop_empty(connection, hours, days)
    memory.changed(connection, {start for _, start, _ in days})


def name_of(cut: int, values: tuple[str, ...]) -> str:
    return msgspec.json.encode((cut, *values)).decode()


def series_ids(connection: Connection, places: Collection[Place]) -> dict[str, int]:
    """``{name: id}`` of the series of these places; those not seen before are made."""
    named = {name_of(cut, values): (cut, values) for cut, values in {(cut, values) for cut, _, values in places}}
    ids = statements.series_ids(connection, list(named))
    missing = [name for name in named if name not in ids]
    if missing:
        rows = [_series_row(name, *named[name]) for name in missing]
        many(connection, statements.insert("series", statements.SERIES_COLUMNS), rows)
        ids |= statements.series_ids(connection, missing)
    return ids


def _series_row(name: str, cut: int, values: tuple[str, ...]) -> tuple[Any, ...]:
    given = dict(zip(_CUT_NAMES[cut], values, strict=True))
    return (name, cut, *(given.get(dimension, "") for dimension in DIMENSIONS))


def add_cells(connection: Connection, table: str, cells: Cells, ids: Mapping[str, int]) -> None:
    """Add changes to the cells there are, which keep their histograms as one value each."""
    if not cells:
        return
    placed = [((cut, start, ids[name_of(cut, values)]), cell) for (cut, start, values), cell in cells.items()]
    known = statements.histograms(connection, table, [place for place, _ in placed])
    rows = []
    for place, cell in placed:
        if place in known:
            for mine, theirs in zip((cell.latency, cell.ttft), known[place], strict=True):
                histogram.merge(mine, histogram.decode(theirs))
        rows.append((*place, *cell.sums, histogram.encode(cell.latency), histogram.encode(cell.ttft)))
    many(connection, statements.add_to_cell(table), rows)


def drop_empty(connection: Connection, hours: Cells, days: Cells) -> None:
    """A cell that came out empty goes: its only request was corrected away."""
    for table, cells in (("rollup_hour", hours), ("rollup_day", days)):
        starts = {(cut, start) for cut, start, _ in cells}
        many(connection, f"DELETE FROM {table} WHERE cut = ? AND start_ms = ? AND requests = 0", list(starts))


def _one_each(rows: Iterable[Row]) -> dict[str, Row]:
    """The first row of each request, unless that says ``crashed`` and a later one knows better."""
    kept: dict[str, Row] = {}
    for row in rows:
        old = kept.get(row.request_id)
        if old is None or (old.crashed and not row.crashed):
            kept[row.request_id] = row
    return kept


def _known(connection: Connection, wanted: Mapping[str, Row]) -> dict[str, str]:
    """``{request_id: status}`` of those that have a row."""
    times = [row.ts_ms for row in wanted.values()]
    since, until = min(times) - _APART_MS, max(times) + _APART_MS
    known: dict[str, str] = {}
    tables = months.within(connection, since, until) if is_sqlite(connection) else ["ledger"]
    for table in tables:
        known |= statements.statuses(connection, table, list(wanted), since, until)
    return known


def _by_table(connection: Connection, rows: Sequence[Row]) -> dict[str, list[Row]]:
    if not is_sqlite(connection):
        return {"ledger": list(rows)} if rows else {}
    ends = {months.month_of(at(row.ts_ms for row in rows)) for at in (min, max)} if rows else set()
    if len(ends) == 1:
        return {ends.pop(): list(rows)}
    tables: dict[str, list[Row]] = {}
    for row in rows:
        tables.setdefault(months.month_of(row.ts_ms), []).append(row)
    return tables


def _rows(connection: Connection, request_ids: Sequence[str]) -> list[Row]:
    """The rows of a few requests."""
    if not request_ids:
        return []
    columns = [ledger.c[name] for name in ENTRY_COLUMNS]
    found = connection.execute(select(*columns).where(ledger.c.request_id.in_(request_ids)))
    return [Row(tuple(row)) for row in found]
