"""Consented rows for use elsewhere: ``csv`` and ``jsonl`` of the books, ``sft`` as OpenAI's format for fine-tuning.

Only rows with ``consented`` leave. A prompt and an answer go with them where a policy had them kept in readable form
(plain or redacted); encrypted ones stay.
"""

from __future__ import annotations

import csv
from typing import IO, TYPE_CHECKING, Any

import msgspec

from gateway.ledger.reports import dollars
from gateway.types import LedgerEntry

if TYPE_CHECKING:
    from gateway.ledger.answers import Period
    from gateway.ledger.store import SqlStore
    from gateway.types import Content

FORMATS = ("sft", "csv", "jsonl")
_READABLE = ("plain", "redacted")
# Who asked is not what was consented to.
_LEFT_OUT = {"detail", "key_id", "end_user", "session", "cache_entry"}
_COLUMNS = tuple(name for name in LedgerEntry.__struct_fields__ if name not in _LEFT_OUT)
_json = msgspec.json.Encoder(decimal_format="number")


async def write(store: SqlStore, period: Period, form: str, file: IO[str]) -> tuple[int, int]:
    """Write a period's consented rows, oldest first. Returns how many, and how many ``sft`` had to leave out.

    Raises:
        LedgerAway
    """
    written = skipped = 0
    table = csv.DictWriter(file, [*_columns()], lineterminator="\n") if form == "csv" else None
    if table is not None:
        table.writeheader()
    async for some in store.scan(period):
        for row in some:
            if not row.consented:
                continue
            if table is not None:
                table.writerow(_flat(row))
            elif (line := await _line(store, row, form)) is not None:
                file.write(line + "\n")
            else:
                skipped += 1
                continue
            written += 1
    return written, skipped


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


async def _line(store: SqlStore, row: LedgerEntry, form: str) -> str | None:
    content = _read(await store.content(row.request_id))
    if form == "sft":  # an answer that was broken off would teach that
        return None if content is None or row.status != "ok" else _json.encode({"messages": content}).decode()
    return _json.encode(_shown(row) | ({} if content is None else {"messages": content})).decode()


def _read(content: Content | None) -> list[Any] | None:
    """The conversation with its answer as messages; None where it is not kept, or not to be read."""
    if content is None or content.form not in _READABLE:
        return None
    asked = _decoded(content.prompt)
    messages = asked if isinstance(asked, list) else [{"role": "user", "content": asked}]
    answer = _decoded(content.answer)
    return [*messages, answer if isinstance(answer, dict) else {"role": "assistant", "content": answer}]


def _decoded(value: bytes) -> Any:
    """JSON where it is that (messages, a message), else the text as it is."""
    if value[:1] in (b"[", b"{"):
        try:
            return msgspec.json.decode(value)
        except msgspec.DecodeError:
            pass
    return value.decode(errors="replace")
