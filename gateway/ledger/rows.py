"""A row on its way: as a worker wrote it, as the tables take it, as readers get it back."""

from __future__ import annotations

import hashlib
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.ledger import rollups
from gateway.ledger.rollups import Facts
from gateway.ledger.tables import ENTRY_COLUMNS
from gateway.types import LedgerEntry

if TYPE_CHECKING:
    from collections.abc import Mapping

_NUL = b"\\u0000"
_LONGEST = 256
_values = attrgetter(*ENTRY_COLUMNS)
_TAGS, _DETAIL, _USER = (ENTRY_COLUMNS.index(name) for name in ("tags", "detail", "end_user"))
_facts = itemgetter(*(ENTRY_COLUMNS.index(name) for name in rollups.FACTS))


class _Raw(LedgerEntry, frozen=True, kw_only=True):
    """A LedgerEntry whose JSON parts are left as they are: they are stored as JSON again."""

    tags: msgspec.Raw = msgspec.Raw(b"[]")  # type: ignore[assignment]
    detail: msgspec.Raw = msgspec.Raw(b"{}")  # type: ignore[assignment]


_decoder = msgspec.json.Decoder(_Raw)


class Row:
    """``values`` in the order of the table's columns, but for the series; ``facts`` are what is counted of them."""

    __slots__ = ("facts", "request_id", "ts_ms", "values")

    def __init__(self, values: tuple[Any, ...]) -> None:
        self.values = values
        self.facts: Facts = _facts(values)
        self.request_id: str = values[0]
        self.ts_ms: int = values[1]

    @property
    def names(self) -> tuple[str, ...]:
        """The values of its series."""
        return self.facts[rollups.NAMES]

    @property
    def crashed(self) -> bool:
        return bool(self.facts[rollups.STATUS] == "crashed")


def parse(message: bytes) -> Row:
    """The row in a message (JSON of a LedgerEntry). Raises msgspec.DecodeError."""
    raw = _decoder.decode(message)
    values = list(_values(raw))
    values[_TAGS] = str(raw.tags, "utf-8")
    values[_DETAIL] = str(raw.detail, "utf-8")
    if len(values[_USER]) > _LONGEST:
        values[_USER] = shortened(values[_USER])
    if _NUL in message:
        values = _without_nul(values)
    return Row(tuple(values))


def entry_of(columns: Mapping[str, Any]) -> LedgerEntry:
    """The entry that a row was made from."""
    fields = {name: columns[name] for name in ENTRY_COLUMNS}
    fields["tags"] = msgspec.json.decode(fields["tags"], type=tuple[str, ...])
    fields["detail"] = msgspec.json.decode(fields["detail"])
    return LedgerEntry(**fields)


def shortened(text: str) -> str:
    """A client's text that would be too long for an index, still told apart from any other."""
    if len(text) <= _LONGEST:
        return text
    return f"{text[:200]}…{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def _without_nul(values: list[Any]) -> list[Any]:
    """PostgreSQL refuses NUL in text, and a client can send one (as ``user``): a row of money is not lost over it."""
    return [value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in values]
