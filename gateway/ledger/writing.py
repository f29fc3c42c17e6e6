"""One transaction of the writer: rows, and the rollups they change, together or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Table, bindparam, delete, insert, select, tuple_, update

from gateway.ledger import histogram
from gateway.ledger.rollups import COUNTERS, DIMENSIONS, Cell, Dimensions, Place, dimensions, fold
from gateway.ledger.tables import ROLLUPS, ledger, series
from gateway.types import LedgerEntry

_Known = dict[tuple[int, int], Cell]


def append(connection: Connection, entries: Iterable[LedgerEntry]) -> int:
    """Insert what is new; a ``crashed`` row gives way to a settled one. Returns the number of new requests."""
    wanted = _one_each(entries)
    known = _known_entries(connection, list(wanted))
    replaced = [old for old in known.values() if _gives_way(old, wanted[old.request_id])]
    new = [entry for entry in wanted.values() if entry.request_id not in known]
    added = new + [wanted[old.request_id] for old in replaced]
    if not added:
        return 0
    if replaced:
        connection.execute(delete(ledger).where(ledger.c.request_id.in_([old.request_id for old in replaced])))
    connection.execute(insert(ledger), [to_row(entry) for entry in added])
    series_ids = _series_ids(connection, {dimensions(entry) for entry in added + replaced})
    for table, width_ms in ROLLUPS:
        _roll_up(connection, table, fold(added, replaced, width_ms), series_ids)
    return len(new)


def _one_each(entries: Iterable[LedgerEntry]) -> dict[str, LedgerEntry]:
    """The first row of each request, unless that says ``crashed`` and a later one knows better."""
    kept: dict[str, LedgerEntry] = {}
    for entry in map(_clean, entries):
        old = kept.get(entry.request_id)
        if old is None or _gives_way(old, entry):
            kept[entry.request_id] = entry
    return kept


def _gives_way(old: LedgerEntry, new: LedgerEntry) -> bool:
    return old.status == "crashed" and new.status != "crashed"


def _clean(entry: LedgerEntry) -> LedgerEntry:
    """PostgreSQL refuses NUL in text, and a client can send one (as ``user``): a row of money is not lost over it."""
    dirty = {
        name: value.replace("\0", "\ufffd")
        for name, value in msgspec.structs.asdict(entry).items()
        if isinstance(value, str) and "\0" in value
    }
    return msgspec.structs.replace(entry, **dirty) if dirty else entry


def _known_entries(connection: Connection, ids: Sequence[str]) -> dict[str, LedgerEntry]:
    rows = connection.execute(select(ledger).where(ledger.c.request_id.in_(ids)))
    return {row.request_id: from_row(row) for row in rows}


def _series_ids(connection: Connection, wanted: set[Dimensions]) -> dict[Dimensions, int]:
    known = _find_series(connection, wanted)
    missing = sorted(wanted - known.keys())
    if missing:
        connection.execute(insert(series), [dict(zip(DIMENSIONS, each, strict=True)) for each in missing])
        known |= _find_series(connection, set(missing))
    return known


def _find_series(connection: Connection, wanted: set[Dimensions]) -> dict[Dimensions, int]:
    columns = tuple_(*(series.c[name] for name in DIMENSIONS))
    rows = connection.execute(select(series).where(columns.in_(sorted(wanted))))
    return {tuple(row[1:]): row.id for row in rows}


def _roll_up(connection: Connection, table: Table, changes: dict[Place, Cell], ids: dict[Dimensions, int]) -> None:
    """Add the changes to the rollup rows; a row that comes out empty goes (its only request was corrected away)."""
    starts = {start for start, _ in changes}
    known = _cells(connection, table, starts, {ids[series_] for _, series_ in changes})
    fresh: _Known = {}
    changed: _Known = {}
    for (start, series_), change in changes.items():
        place = (start, ids[series_])
        if place in known:
            known[place].add(change)
            changed[place] = known[place]
        else:
            fresh[place] = change
    at = (table.c.start_ms == bindparam("at_start"), table.c.series == bindparam("at_series"))
    gone = [_at(place) for place, cell in changed.items() if cell.empty]
    kept = [_at(place) | _columns(cell) for place, cell in changed.items() if not cell.empty]
    if gone:
        connection.execute(delete(table).where(*at), gone)
    if kept:
        connection.execute(update(table).where(*at), kept)
    if fresh:
        rows = [{"start_ms": start, "series": id_} | _columns(cell) for (start, id_), cell in fresh.items()]
        connection.execute(insert(table), rows)


def _at(place: tuple[int, int]) -> dict[str, Any]:
    return {"at_start": place[0], "at_series": place[1]}


def _cells(connection: Connection, table: Table, starts: set[int], ids: set[int]) -> _Known:
    rows = connection.execute(select(table).where(table.c.start_ms.in_(starts), table.c.series.in_(ids)))
    return {(row.start_ms, row.series): cell(row) for row in rows}


def cell(row: Row[Any]) -> Cell:
    """The counted part of a rollup row."""
    fields = row._mapping
    return Cell(
        sums=[fields[name] for name in COUNTERS],
        latency=histogram.decode(fields["latency"]),
        ttft=histogram.decode(fields["ttft"]),
    )


def _columns(cell_: Cell) -> dict[str, Any]:
    sums = dict(zip(COUNTERS, cell_.sums, strict=True))
    return sums | {"latency": histogram.encode(cell_.latency), "ttft": histogram.encode(cell_.ttft)}


def to_row(entry: LedgerEntry) -> dict[str, Any]:
    row = {name: getattr(entry, name) for name in ledger.c.keys()}  # noqa: SIM118
    row["tags"] = msgspec.json.encode(entry.tags).decode()
    row["detail"] = msgspec.json.encode(entry.detail).decode()
    return row


def from_row(row: Row[Any]) -> LedgerEntry:
    """A row of the table, or those of its columns that were selected, as the value it was made from."""
    fields = dict(row._mapping)
    for name, type_ in (("tags", tuple[str, ...]), ("detail", dict[str, Any])):
        if name in fields:
            fields[name] = msgspec.json.decode(fields[name], type=type_)
    return LedgerEntry(**fields)
