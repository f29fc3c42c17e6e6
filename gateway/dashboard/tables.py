"""A table of a page, once: shown as HTML, and exported as CSV and JSON with nothing rounded."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from gateway.dashboard import words
from gateway.ledger.reports import usd
from gateway.types import NANO

Kind = Literal[
    "text", "code", "count", "money", "duration", "share", "rate", "time", "badge", "status", "tags", "price"
]
Row = Mapping[str, Any]

_NUMBERS = frozenset({"count", "money", "duration", "share", "rate", "price"})
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Column:
    """``key`` names the value in a row; ``minor``: left out where the screen is narrow."""

    key: str
    title: str
    kind: Kind = "text"
    minor: bool = False
    sortable: bool = False

    @property
    def number(self) -> bool:
        return self.kind in _NUMBERS


@dataclass(frozen=True)
class Cell:
    """A value as it is shown; ``hint`` says it exactly where ``text`` is rounded."""

    column: Column
    value: Any
    text: str
    hint: str = ""
    href: str = ""
    note: str = ""


class Table:
    """``rows`` map the keys of ``columns`` to values: money in nano-dollars, times in epoch ms, durations in ms.

    The first column heads its row: ``link`` gives the address its cell leads to ('' for none), ``note`` a line below.
    """

    def __init__(
        self,
        name: str,
        title: str,
        columns: Sequence[Column],
        rows: Sequence[Row],
        *,
        key: str = "",
        link: Callable[[Row], str] = lambda _: "",
        note: Callable[[Row], str] = lambda _: "",
        empty: str = "Nothing in this period.",
    ) -> None:
        self.name, self.title, self.columns, self.rows, self.empty = name, title, tuple(columns), list(rows), empty
        self._key, self._link, self._note = key or self.columns[0].key, link, note
        money = [column for column in self.columns if column.kind == "money"]
        self._places = {column.key: words.places(row.get(column.key) for row in self.rows) for column in money}

    def shown(self) -> list[tuple[str, list[Cell]]]:
        """Each row's key and cells."""
        return [(str(row.get(self._key, "")), self._cells(row)) for row in self.rows]

    def _cells(self, row: Row) -> list[Cell]:
        cells = [self._cell(column, row.get(column.key)) for column in self.columns]
        first = cells[0]
        cells[0] = Cell(first.column, first.value, first.text, first.hint, self._link(row), self._note(row))
        return cells

    def _cell(self, column: Column, value: Any) -> Cell:
        if column.kind == "money":
            exact = "" if value is None else f"${words.exact(value)}"
            return Cell(column, value, words.money(value, self._places[column.key]), exact)
        return Cell(column, value, _SHOWN[column.kind](value))

    def csv(self) -> bytes:
        """RFC 4180, money in exact dollars, times in ISO 8601. A text that a spreadsheet would run is quoted."""
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow([_exported(column) for column in self.columns])
        for row in self.rows:
            writer.writerow([_written(column, row.get(column.key)) for column in self.columns])
        return out.getvalue().encode()

    def json(self) -> list[dict[str, Any]]:
        return [
            {_exported(column): _plain(column, row.get(column.key)) for column in self.columns} for row in self.rows
        ]


def _exported(column: Column) -> str:
    unit = {"money": "_usd", "duration": "_ms"}.get(column.kind, "")
    return column.key.removesuffix("_nano").removesuffix("_ms").removesuffix(unit) + unit


def _plain(column: Column, value: Any) -> Any:
    if value is None:
        return None
    if column.kind == "money":
        return Decimal(value) / NANO
    return words.iso(value) if column.kind == "time" else value


def _written(column: Column, value: Any) -> Any:
    if value is None:
        return ""
    if column.kind == "money":
        return usd(value)
    if column.kind == "tags":
        value = " ".join(value)
    value = _plain(column, value)
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _text(value: Any) -> str:
    return words.NOTHING if value in (None, "") else str(value)


_SHOWN: dict[Kind, Callable[[Any], str]] = {
    "text": _text,
    "code": _text,
    "badge": _text,
    "status": _text,
    "price": lambda value: words.NOTHING if value is None else f"${value}",
    "count": words.count,
    "duration": words.duration,
    "share": words.share,
    "rate": words.rate,
    "time": lambda value: words.NOTHING if value is None else words.utc(value),
    "tags": lambda value: " ".join(value or ()),
}
