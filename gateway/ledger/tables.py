"""The tables of the books, as SQLAlchemy Core sees them. How they come about: :mod:`gateway.ledger.migrations`.

Money is BIGINT nano-dollars, times are epoch milliseconds, ``tags`` and ``detail`` are JSON text (text, because it is
only ever read back whole). Rows are kept by month, so that one goes in a single step: ``ledger`` is a partitioned table
in PostgreSQL and a view over one table a month in SQLite; :mod:`gateway.ledger.months` makes and drops them.

The rollups name what they count by a ``series``: one combination of the values of a cut's dimensions, interned so that
a rollup row is narrow and found by integers. ``name`` is that combination as JSON, the only thing looked up while
writing. A row of the ledger carries its series of the cut ``every``.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
)

from gateway.ledger.rollups import BY_KEY, COMBINED, COUNTERS, DIMENSIONS, END_USER
from gateway.types import LedgerEntry

metadata = MetaData()
ENTRY_COLUMNS = LedgerEntry.__struct_fields__


def _text(*names: str) -> list[Column[str]]:
    return [Column(name, Text, nullable=False) for name in names]


def _whole(*names: str) -> list[Column[int]]:
    return [Column(name, BigInteger, nullable=False) for name in names]


def _maybe_real(*names: str) -> list[Column[float]]:
    return [Column(name, Double) for name in names]


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False)


def ledger_columns() -> list[Column[Any]]:
    """The columns of a month of rows: those of a LedgerEntry, in its order, and the series."""
    columns: list[Column[Any]] = [
        *_text("request_id"),
        *_whole("ts_ms"),
        *_text("organisation", "team", "key_id", "project", "end_user", "tags", "session", "policy", "rule"),
        *_text("requested_model", "model", "provider", "served", "cache"),
        *_maybe_real("similarity"),
        *_text("cache_entry"),
        _flag("stream"),
        *_text("status"),
        Column("http_status", Integer, nullable=False),
        *_text("error"),
        *_whole("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens"),
        *_text("usage_source"),
        *_whole("busy_us", "cost_nano", "embedding_nano", "verification_nano", "abandoned_nano"),
        *_whole("baseline_nano", "saved_nano", "reserved_nano"),
        _flag("unpriced"),
        _flag("incomplete"),
        *_text("price_source", "price_date"),
        *_maybe_real("ttft_ms"),
        Column("duration_ms", Double, nullable=False),
        Column("overhead_ms", Double, nullable=False),
        *_maybe_real("tokens_per_s", "difficulty"),
        *_text("degraded"),
        _flag("consented"),
        *_maybe_real("feedback"),
        *_text("detail"),
        Column("series", Integer, nullable=False),
    ]
    return columns


ledger = Table(
    "ledger",
    metadata,
    *ledger_columns(),
    sa.PrimaryKeyConstraint("request_id", "ts_ms"),
    postgresql_partition_by="RANGE (ts_ms)",
)
Index("ledger_ts_ms", ledger.c.ts_ms)
Index("ledger_series", ledger.c.series, ledger.c.ts_ms)
_END_USER = ledger.c.end_user != ""
Index("ledger_end_user", ledger.c.end_user, ledger.c.ts_ms, sqlite_where=_END_USER, postgresql_where=_END_USER)

keys = Table(
    "keys",
    metadata,
    Column("hash", Text, primary_key=True),
    *_text("id", "prefix", "name", "organisation", "team", "tags"),
    *_text("project", "role", "models", "policies", "allowed_tags"),
    *(Column(name, BigInteger) for name in ("rpm", "tpm", "concurrency", "budget_nano")),
    *_whole("created_ms"),
    Column("expires_ms", BigInteger),
    Column("revoked_ms", BigInteger),
    Index("keys_id", "id"),
)

definitions = Table("definitions", metadata, Column("field", Text, primary_key=True), *_text("value"))

series = Table(
    "series",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("cut", SmallInteger, nullable=False),
    *_text(*DIMENSIONS),
    *(Index(f"series_{name}", "cut", name) for name in ("key_id", "tag", "end_user")),
    Index("series_combined", "cut", *COMBINED),
)


def _rollup(name: str) -> Table:
    return Table(
        name,
        metadata,
        Column("cut", SmallInteger, primary_key=True, autoincrement=False),
        Column("start_ms", BigInteger, primary_key=True, autoincrement=False),
        Column("series", Integer, primary_key=True, autoincrement=False),
        *_whole(*COUNTERS),
        Column("latency", LargeBinary, nullable=False),
        Column("ttft", LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )


rollup_hour = _rollup("rollup_hour")
rollup_day = _rollup("rollup_day")
RANKED = ("requests", "errors", "cost_nano", "saved_nano", "prompt_tokens", "completion_tokens")
"""What the first of many are chosen by: of keys and end users these are read from an index, one after another."""
MANY = {"key_id": BY_KEY, "end_user": END_USER}
for _name, _cut in MANY.items():
    _theirs = rollup_day.c.cut == sa.literal_column(str(_cut.number))
    Index(
        f"rollup_day_{_name}",
        *(rollup_day.c[name] for name in ("series", "start_ms", *RANKED)),
        sqlite_where=_theirs,
        postgresql_where=_theirs,
    )

contents = Table(
    "contents",
    metadata,
    Column("request_id", Text, primary_key=True),
    *_whole("ts_ms"),
    *_text("organisation", "team", "key_id", "end_user", "form"),
    Column("prompt", LargeBinary, nullable=False),
    Column("answer", LargeBinary, nullable=False),
    *_whole("expires_ms"),
    Index("contents_expires_ms", "expires_ms"),
    Index("contents_end_user", "end_user"),
    Index("contents_key_id", "key_id"),
)

state = Table(
    "ledger_state",
    metadata,
    Column("name", Text, primary_key=True),
    *_text("value"),
)
