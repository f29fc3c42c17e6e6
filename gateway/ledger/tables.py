"""The tables of the books, as SQLAlchemy Core sees them. How they come about: :mod:`gateway.ledger.migrations`.

Money is BIGINT nano-dollars, times are epoch milliseconds, ``tags`` and ``detail`` are JSON text (text, because it is
only ever read back whole). The rollups name what they count by a ``series``: one combination of the values a report
groups by, interned so that a rollup row is narrow and found by two integers.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

from gateway.ledger.rollups import COUNTERS, DAY_MS, DIMENSIONS, HOUR_MS

metadata = MetaData()


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _whole(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


ledger = Table(
    "ledger",
    metadata,
    Column("request_id", Text, primary_key=True),
    _whole("ts_ms"),
    *(_text(name) for name in ("organisation", "team", "key_id", "end_user", "tags", "session", "policy", "rule")),
    *(_text(name) for name in ("requested_model", "model", "provider", "served", "cache")),
    Column("similarity", Double),
    _text("cache_entry"),
    Column("stream", Boolean, nullable=False),
    _text("status"),
    Column("http_status", Integer, nullable=False),
    _text("error"),
    *(_whole(name) for name in ("prompt_tokens", "completion_tokens", "cached_tokens")),
    *(_whole(name) for name in ("cache_write_tokens", "reasoning_tokens")),
    _text("usage_source"),
    *(_whole(name) for name in ("cost_nano", "baseline_nano", "saved_nano", "reserved_nano")),
    Column("unpriced", Boolean, nullable=False),
    _text("price_source"),
    _text("price_date"),
    Column("ttft_ms", Double),
    Column("duration_ms", Double, nullable=False),
    Column("overhead_ms", Double, nullable=False),
    Column("tokens_per_s", Double),
    Column("difficulty", Double),
    _text("degraded"),
    _text("detail"),
    Index("ledger_ts_ms", "ts_ms"),
)

keys = Table(
    "keys",
    metadata,
    Column("hash", Text, primary_key=True),
    *(_text(name) for name in ("id", "prefix", "name", "organisation", "team", "tags")),
    *(Column(name, BigInteger) for name in ("rpm", "tpm", "concurrency", "budget_nano")),
    _whole("created_ms"),
    Column("expires_ms", BigInteger),
    Column("revoked_ms", BigInteger),
    Index("keys_id", "id"),
)

series = Table(
    "series",
    metadata,
    Column("id", Integer, primary_key=True),
    *(_text(name) for name in DIMENSIONS),
    UniqueConstraint(*DIMENSIONS, name="series_dimensions"),
)


def _rollup(name: str) -> Table:
    return Table(
        name,
        metadata,
        Column("start_ms", BigInteger, primary_key=True, autoincrement=False),
        Column("series", Integer, ForeignKey("series.id"), primary_key=True, autoincrement=False),
        *(_whole(counter) for counter in COUNTERS),
        _text("latency"),
        _text("ttft"),
    )


rollup_hour = _rollup("rollup_hour")
rollup_day = _rollup("rollup_day")
ROLLUPS = ((rollup_hour, HOUR_MS), (rollup_day, DAY_MS))
