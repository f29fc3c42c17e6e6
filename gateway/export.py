"""Consented rows for use elsewhere: ``csv`` and ``jsonl`` of the books, ``sft`` as OpenAI's format for fine-tuning.

Only rows with ``consented`` leave. A prompt and an answer go with them where a policy had them kept; encrypted ones
where there is the key.
"""

from __future__ import annotations

import csv
from collections import Counter
from typing import IO, TYPE_CHECKING, Any

import msgspec

from gateway.keeping import messages
from gateway.ledger.reports import dollars
from gateway.sealing import Sealed, readable
from gateway.types import LedgerEntry

if TYPE_CHECKING:
    from gateway.ledger.answers import Period
    from gateway.ledger.store import SqlStore
    from gateway.sealing import Seal

FORMATS = ("sft", "csv", "jsonl")
# Who asked is not what was consented to.
_LEFT_OUT = {"detail", "key_id", "end_user", "session", "cache_entry"}
_COLUMNS = tuple(name for name in LedgerEntry.__struct_fields__ if name not in _LEFT_OUT)
_json = msgspec.json.Encoder(decimal_format="number")


class Written(msgspec.Struct):
    """How many rows, and how many ``sft`` had to leave out; why conversations could not be read, and how many."""

    rows: int = 0
    skipped: int = 0
    sealed: Counter[str] = msgspec.field(default_factory=Counter)


async def write(store: SqlStore, period: Period, form: str, file: IO[str], seal: Seal | None = None) -> Written:
    """Write a period's consented rows, oldest first.

    Raises:
        LedgerAway
    """
    written = Written()
    table = csv.DictWriter(file, [*_columns()], lineterminator="\n") if form == "csv" else None
    if table is not None:
        table.writeheader()
    async for some in store.scan(period):
        for row in some:
            if not row.consented:
                continue
            if table is not None:
                table.writerow(_flat(row))
            elif (line := _line(row, await _conversation(store, row, seal, written.sealed), form)) is not None:
                file.write(line + "\n")
            else:
                written.skipped += 1
                continue
            written.rows += 1
    return written


def _columns() -> list[str]:
    return [name.replace("_nano", "_usd") for name in _COLUMNS]


def _shown(row: LedgerEntry) -> dict[str, Any]:
    """The columns that leave, money in US dollars as exact decimals."""
    shown: dict[str, Any] = dollars({name: getattr(row, name) for name in _COLUMNS})
    return shown


def _flat(row: LedgerEntry) -> dict[str, Any]:
    shown = _shown(row) | {"tags": ",".join(row.tags)}
    return {name: _harmless(value) for name, value in shown.items()}


def _harmless(value: Any) -> Any:
    """A spreadsheet takes text that begins with one of these for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


async def _conversation(store: SqlStore, row: LedgerEntry, seal: Seal | None, sealed: Counter[str]) -> list[Any] | None:
    """None where it is not kept, or not to be read."""
    content = await store.content(row.request_id)
    try:
        return None if content is None else messages(readable(content, seal))
    except Sealed as reason:
        sealed[str(reason)] += 1
        return None


def _line(row: LedgerEntry, conversation: list[Any] | None, form: str) -> str | None:
    if form == "sft":  # an answer that was broken off would teach that
        return None if conversation is None or row.status != "ok" else _encoded({"messages": conversation})
    return _encoded(_shown(row) | ({} if conversation is None else {"messages": conversation}))


def _encoded(line: dict[str, Any]) -> str:
    return _json.encode(line).decode()
