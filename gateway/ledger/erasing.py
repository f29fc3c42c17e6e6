"""Taking a person out of the books: what was spent stays, who it was does not.

Rows keep their money, model, rule and time. The end user or the key is replaced by a name that says nothing, the
session, the tags and the inputs of the decision are emptied, kept contents are deleted.
"""

from __future__ import annotations

import secrets
from typing import Literal

from sqlalchemy import Connection, delete, insert, select, update

from gateway.ledger import histogram, memory, months, pages, statements, writing
from gateway.ledger.answers import Erased
from gateway.ledger.rollups import COUNTERS, CUTS, DIMENSIONS, EVERY, Cell, Cells
from gateway.ledger.rows import Row, shortened
from gateway.ledger.tables import ENTRY_COLUMNS, contents, rollup_day, series, state

Who = Literal["end_user", "key_id"]
UNWRITTEN = "erased_unwritten"
_ALWAYS = (0, 1 << 53)
_AT_ONCE = 500
_NAMES = {cut.number: cut.names for cut in CUTS}
_WHEN = ENTRY_COLUMNS.index("ts_ms")


def erase(connection: Connection, who: Who, name: str) -> Erased:
    """Erase an end user or a key. The database's own leavings are seen to by the store."""
    name = shortened(name)
    gone = connection.execute(delete(contents).where(contents.c[who] == name)).rowcount
    replacement = f"erased-{secrets.token_hex(6)}"
    count, touched = 0, set[str]()
    while rows := _some(connection, who, name):
        writing.change(connection, [_blank(row, who, replacement) for row in rows], rows)
        count += len(rows)
        touched |= {months.month_of(int(row.values[_WHEN])) for row in rows}
    connection.execute(delete(series).where(series.c.id.not_in(select(rollup_day.c.series))))
    _rename_left(connection, who, name, replacement)
    return Erased(rows=count, contents=gone, months=_unwritten(connection, touched))


def _rename_left(connection: Connection, who: Who, name: str, replacement: str) -> None:
    """Days outlive their rows: where those went with their month, the days alone still said who."""
    columns = (series.c.id, series.c.cut, *(series.c[dimension] for dimension in DIMENSIONS))
    left = connection.execute(select(*columns).where(series.c[who] == name)).all()
    if left:
        memory.changed(connection, [0])
    for number, cut, *values in left:
        named = dict(zip(DIMENSIONS, values, strict=True)) | {who: replacement}
        own = tuple(named[dimension] for dimension in _NAMES[cut])
        text = writing.name_of(cut, own)
        other = statements.series_ids(connection, [text])
        if not other:
            connection.execute(update(series).where(series.c.id == number).values({"name": text, who: replacement}))
        else:
            writing.add_cells(connection, "rollup_day", _days_of(connection, number, cut, own), other)
            connection.execute(delete(rollup_day).where(rollup_day.c.cut == cut, rollup_day.c.series == number))
            connection.execute(delete(series).where(series.c.id == number))


def _days_of(connection: Connection, number: int, cut: int, values: tuple[str, ...]) -> Cells:
    """The days of a series, as those of ``values``: a row that came late may have made the same day of these."""
    columns = (rollup_day.c[name] for name in ("start_ms", "latency", "ttft", *COUNTERS))
    query = select(*columns).where(rollup_day.c.cut == cut, rollup_day.c.series == number)
    return {
        (cut, start, values): Cell([*map(int, sums)], histogram.decode(latency), histogram.decode(ttft))
        for start, latency, ttft, *sums in connection.execute(query)
    }


def _unwritten(connection: Connection, touched: set[str]) -> tuple[str, ...]:
    """Months whose files still hold what was erased, from an earlier try on, should the writing anew fail."""
    before = connection.execute(select(state.c.value).where(state.c.name == UNWRITTEN)).scalar()
    names = sorted(touched | set(filter(None, (before or "").split(","))))
    connection.execute(delete(state).where(state.c.name == UNWRITTEN))
    if names:
        connection.execute(insert(state), [{"name": UNWRITTEN, "value": ",".join(names)}])
    return tuple(name for name in names if name in months.existing(connection))


def _some(connection: Connection, who: Who, name: str) -> list[Row]:
    rows: list[Row] = []
    for table in pages.tables(connection, *_ALWAYS):
        query = select(*(table.c[column] for column in ENTRY_COLUMNS))
        if who == "end_user":
            query = query.where(table.c.end_user == name, table.c.end_user != "")
        else:
            theirs = select(series.c.id).where(series.c.cut == EVERY.number, series.c.key_id == name)
            query = query.where(table.c.series.in_(theirs))
        found = connection.execute(query.limit(_AT_ONCE - len(rows)))
        rows += [Row(tuple(row)) for row in found]
        if len(rows) == _AT_ONCE:
            break
    return rows


def _blank(row: Row, who: Who, replacement: str) -> Row:
    blank = {who: replacement, "session": "", "tags": "[]", "detail": "{}", "error": "", "cache_entry": ""}
    return Row(tuple(blank.get(name, value) for name, value in zip(ENTRY_COLUMNS, row.values, strict=True)))
