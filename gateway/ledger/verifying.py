"""Whether the rollups say what the rows say: a day's rows are counted again, apart from the code that wrote them.

Rows come in pieces and leave as sums, so that a day takes no more memory than its cells do. Only where something
differs are cells looked at one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sqlalchemy import Connection, text

from gateway.ledger import pages, tally
from gateway.ledger.answers import Difference, Measures
from gateway.ledger.places import FOLLOWED, Numbers, Places
from gateway.ledger.reading import measures
from gateway.ledger.rollups import (
    COMBINED,
    COUNTERS,
    CUTS,
    END_USER,
    EVERY,
    FINE,
    HITS,
    PROJECT,
    TAG,
    Cell,
    Cut,
    tags_of,
)
from gateway.ledger.tables import rollup_day, rollup_hour
from gateway.ledger.tally import Ints, Tally
from gateway.types import DAY_MS, HOUR_MS

_HOUR, _DAY = str(rollup_hour.name), str(rollup_day.name)
_AT_ONCE = 20_000
_HOURS = 24
_FLAGS = ("CASE WHEN usage_source = 'estimated' THEN 1 ELSE 0 END", "CASE WHEN unpriced THEN 1 ELSE 0 END")
_ROW = (
    *("ts_ms", "series", *COMBINED, "project", "end_user", "tags"),
    *(*COUNTERS[4:16], *_FLAGS, "CASE WHEN incomplete THEN 1 ELSE 0 END"),
    *("coalesce(tokens_per_s, 0.0)", "coalesce(feedback, -9.0)", "duration_ms", "coalesce(ttft_ms, -1.0)"),
)
_NAMES, _AMOUNTS, _FLAGGED = slice(2, 11), slice(14, 26), slice(26, 29)
_COMPLETION = COUNTERS.index("completion_tokens")
_CACHE, _STATUS = COMBINED.index("cache"), COMBINED.index("status")

Counted = dict[int, list[Tally]]
"""By the number of a cut."""


def verify_day(connection: Connection, day: int, places: Places) -> list[Difference]:
    """Where the rollups of a day (its first ms) are wrong, and rows that carry a series that is not theirs."""
    hours, days, wrong = _Rows(connection, day, places).counted()
    for table, counted in ((_HOUR, hours), (_DAY, days)):
        for cut in CUTS:
            if table == _DAY or not cut.daily_only:
                kept = _kept(connection, table, cut, day, places)
                wrong += _differences(table, day, places.cuts[cut.number], counted[cut.number], kept)
    return wrong


class _Rows:
    """A day's rows, and what they come to by every cut."""

    def __init__(self, connection: Connection, day: int, places: Places) -> None:
        self._connection, self._day, self._places = connection, day, places

    def counted(self) -> tuple[dict[int, Tally], dict[int, Tally], list[Difference]]:
        """By the hour and by the day, by the number of a cut; and rows with another's series."""
        parts: Counted = {cut.number: [] for cut in (EVERY, PROJECT, TAG, END_USER)}
        wrong: list[Difference] = []
        for table in pages.tables(self._connection, self._day, self._day + DAY_MS):
            query = text(f"SELECT {', '.join(_ROW)} FROM {table.name} WHERE ts_ms >= :since AND ts_ms < :until")
            within = {"since": self._day, "until": self._day + DAY_MS}
            found = self._connection.execute(query.execution_options(yield_per=_AT_ONCE), within)
            for some in found.partitions():
                wrong += self._count(list(zip(*some, strict=True)), parts)
        hours = {number: tally.together(some) for number, some in parts.items()}
        days = {END_USER.number: hours.pop(END_USER.number)}
        self._follow(hours)
        days |= {number: each.recoded(each.codes // _HOURS) for number, each in hours.items()}
        self._follow(days)
        return hours, days, wrong

    def _follow(self, counted: dict[int, Tally]) -> None:
        """Add the cuts that follow from those there are; a code is a place, by the hour × 24 + the hour."""
        by_hour = END_USER.number not in counted
        for source, _ in FOLLOWED:
            if source.number not in counted:
                continue
            wide = counted[source.number]
            for other, leads in self._places.cuts[source.number].narrower():
                if other.cut.number in counted:
                    continue
                codes = leads[wide.codes // _HOURS] * _HOURS + wide.codes % _HOURS if by_hour else leads[wide.codes]
                counted[other.cut.number] = wide.recoded(codes)

    def _count(self, columns: Sequence[Sequence[Any]], parts: Counted) -> list[Difference]:
        """One piece, column by column."""
        every = self._places.every
        numbers = np.fromiter(map(every.__getitem__, zip(*columns[_NAMES], strict=True)), dtype=np.int64)
        hours = (np.array(columns[0], dtype=np.int64) - self._day) // HOUR_MS
        sums, marks = _facts(columns, numbers, every)
        ones = np.ones(len(marks), dtype=np.int64)
        parts[EVERY.number].append(tally.tally(numbers * _HOURS + hours, sums, marks, ones))
        owners = list(zip(columns[2], columns[3], strict=True))
        project, user, tags = columns[11:14]
        for cut, found in (
            (PROJECT, [(at, (*owners[at], each)) for at, each in enumerate(project) if each]),
            (END_USER, [(at, (*owners[at], each)) for at, each in enumerate(user) if each]),
            (TAG, [(at, (*owners[at], tag)) for at, some in enumerate(tags) if len(some) > 2 for tag in tags_of(some)]),
        ):
            if found:
                which = np.array([at for at, _ in found], dtype=np.int64)
                place = np.array([self._places.cuts[cut.number][values] for _, values in found], dtype=np.int64)
                codes = place if cut is END_USER else place * _HOURS + hours[which]
                parts[cut.number].append(_some(codes, which, sums, marks))
        return self._misplaced(columns[1], numbers, hours)

    def _misplaced(self, series: Sequence[int], numbers: Ints, hours: Ints) -> list[Difference]:
        """Rows that pages would look for under other values than theirs."""
        theirs = self._places.of_series(self._connection, EVERY, series)
        wrong, counts = np.unique(((numbers * _HOURS) + hours)[theirs != numbers], return_counts=True)
        names = self._places.every.values_of
        return [
            Difference(
                table="ledger",
                start_ms=self._day + code % _HOURS * HOUR_MS,
                series=dict(zip(EVERY.names, names[code // _HOURS], strict=True)),
                rows=Measures(requests=count),
                rollup=None,
            )
            for code, count in zip(wrong.tolist(), counts.tolist(), strict=True)
        ]


def _facts(columns: Sequence[Sequence[Any]], numbers: Ints, every: Numbers) -> tuple[Ints, Ints]:
    """What is summed up of each row, in the order of ``COUNTERS``, and its marks."""
    kinds = np.array([(v[_STATUS] not in FINE, v[_CACHE] in HITS, v[_CACHE] == "miss") for v in every.values_of])
    answered = np.array([values[_STATUS] == "ok" for values in every.values_of])[numbers]
    rate, feedback, duration, ttft = (np.array(column, dtype=np.float64) for column in columns[29:33])
    amounts = tally.columns(columns[_AMOUNTS])
    decoded = np.where(rate != 0, np.maximum(amounts[:, _COMPLETION - 4] - 1, 0), 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        decode_us = np.where(decoded > 0, np.rint(decoded / rate * 1e6), 0).astype(np.int64)
    rated = feedback >= -1
    rating = np.where(rated, np.rint(feedback * 1000), 0).astype(np.int64)
    one = np.ones((len(numbers), 1), dtype=np.int64)
    sums = np.column_stack(
        (one, kinds[numbers], amounts, decoded, decode_us, tally.columns(columns[_FLAGGED]), rated, rating)
    )
    return sums, tally.row_marks(duration, ttft, answered)


def _some(codes: Ints, which: Ints, sums: Ints, marks: Ints) -> Tally:
    """The rows at ``which`` (ascending; one may be there more than once), each under its code."""
    order = np.argsort(marks >> 9, kind="stable")
    marks = marks[order]
    begin, end = np.searchsorted(marks >> 9, which), np.searchsorted(marks >> 9, which, side="right")
    many = end - begin
    taken = np.arange(many.sum()) + np.repeat(begin - (np.cumsum(many) - many), many)
    own = np.repeat(np.arange(len(which)), many) << 9 | marks[taken] & 511
    return tally.tally(codes, sums[which], own, np.ones(len(own), dtype=np.int64))


def _kept(connection: Connection, table: str, cut: Cut, day: int, places: Places) -> Tally:
    """A cut's cells of a day."""
    counters = ", ".join(COUNTERS)
    query = text(
        f"SELECT start_ms, series, {counters}, latency, ttft FROM {table}"
        " WHERE cut = :cut AND start_ms >= :since AND start_ms < :until"
    )
    parts = []
    within = {"cut": cut.number, "since": day, "until": day + DAY_MS}
    for some in connection.execute(query.execution_options(yield_per=_AT_ONCE), within).partitions():
        start, series, *sums, latency, ttft = zip(*some, strict=True)
        codes = places.of_series(connection, cut, series)
        if table == _HOUR:
            codes = codes * _HOURS + (np.array(start, dtype=np.int64) - day) // HOUR_MS
        parts.append(tally.tally(codes, tally.columns(sums), *tally.stored_marks(latency, ttft)))
    return tally.together(parts)


def _differences(table: str, day: int, names: Numbers, rows: Tally, kept: Tally) -> list[Difference]:
    if rows.same(kept):
        return []
    expected, found = rows.cells(), kept.cells()
    hours = _HOURS if table == _HOUR else 1
    wrong = [code for code in expected.keys() | found.keys() if expected.get(code) != found.get(code)]
    return [
        Difference(
            table=table,
            start_ms=day + code % hours * HOUR_MS,
            series=dict(zip(names.cut.names, names.values_of[code // hours], strict=True)),
            rows=_told(expected.get(code)),
            rollup=_told(found.get(code)),
        )
        for code in sorted(wrong, key=lambda code: (code % hours, names.values_of[code // hours]))
    ]


def _told(cell: Cell | None) -> Measures | None:
    return None if cell is None else measures(tuple(cell.sums), cell.latency, cell.ttft)
