"""Rows by month, more columns, rollups by cuts, contents. Rows are kept; the rollups are made anew from them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_OLD = (
    *("request_id", "ts_ms", "organisation", "team", "key_id", "end_user", "tags", "session", "policy", "rule"),
    *("requested_model", "model", "provider", "served", "cache", "similarity", "cache_entry", "stream", "status"),
    *("http_status", "error", "prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens"),
    *("reasoning_tokens", "usage_source", "cost_nano", "baseline_nano", "saved_nano", "reserved_nano", "unpriced"),
    *("price_source", "price_date", "ttft_ms", "duration_ms", "overhead_ms", "tokens_per_s", "difficulty", "degraded"),
    "detail",
)
_NEW = {
    "project": "''",
    "busy_us": "0",
    "embedding_nano": "0",
    "verification_nano": "0",
    "abandoned_nano": "0",
    "incomplete": "false",
    "consented": "false",
    "series": "0",
}
_COUNTERS = (
    *("requests", "errors", "hits", "misses"),
    *("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens"),
    *("cost_nano", "embedding_nano", "verification_nano", "abandoned_nano", "baseline_nano", "saved_nano"),
    *("busy_us", "decode_tokens", "decode_us", "estimated", "unpriced", "incomplete", "rated", "rating_milli"),
)
_DIMENSIONS = (
    *("organisation", "team", "key_id", "policy", "rule", "model", "served", "cache", "status"),
    *("project", "tag", "end_user"),
)


def _text(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=False) for name in names]


def _whole(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]


def _real(*names: str) -> list[sa.Column[float]]:
    return [sa.Column(name, sa.Double) for name in names]


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False)


def upgrade() -> None:
    for name in ("rollup_hour", "rollup_day", "series"):
        op.drop_table(name)
    op.drop_index("ledger_ts_ms", "ledger")
    op.rename_table("ledger", "old_ledger")
    _rollups()
    _contents()
    op.create_table("ledger_state", sa.Column("name", sa.Text, primary_key=True), *_text("value"))
    months = _months()
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER INDEX IF EXISTS ledger_pkey RENAME TO old_ledger_pkey")
        _parent()
    for month in months:
        _month(month)
    if op.get_bind().dialect.name == "sqlite":
        _view(months)
    op.drop_table("old_ledger")
    if months:
        op.execute("INSERT INTO ledger_state (name, value) VALUES ('rebuild', 'wanted')")


def _months() -> list[str]:
    """Every month that has a row, as YYYY_MM."""
    found = op.get_bind().execute(sa.text("SELECT DISTINCT ts_ms / 86400000 FROM old_ledger"))
    return sorted({datetime.fromtimestamp(row[0] * 86400, UTC).strftime("%Y_%m") for row in found})


def _columns() -> list[sa.Column[Any]]:
    columns: list[sa.Column[Any]] = [
        *_text("request_id"),
        *_whole("ts_ms"),
        *_text("organisation", "team", "key_id", "project", "end_user", "tags", "session", "policy", "rule"),
        *_text("requested_model", "model", "provider", "served", "cache"),
        *_real("similarity"),
        *_text("cache_entry"),
        _flag("stream"),
        *_text("status"),
        sa.Column("http_status", sa.Integer, nullable=False),
        *_text("error"),
        *_whole("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens"),
        *_text("usage_source"),
        *_whole("busy_us", "cost_nano", "embedding_nano", "verification_nano", "abandoned_nano"),
        *_whole("baseline_nano", "saved_nano", "reserved_nano"),
        _flag("unpriced"),
        _flag("incomplete"),
        *_text("price_source", "price_date"),
        *_real("ttft_ms"),
        sa.Column("duration_ms", sa.Double, nullable=False),
        sa.Column("overhead_ms", sa.Double, nullable=False),
        *_real("tokens_per_s", "difficulty"),
        *_text("degraded"),
        _flag("consented"),
        *_real("feedback"),
        *_text("detail"),
        sa.Column("series", sa.Integer, nullable=False),
    ]
    return columns


def _indexes(table: str) -> None:
    op.create_index(f"{table}_ts_ms", table, ["ts_ms"])
    op.create_index(f"{table}_series", table, ["series", "ts_ms"])
    some = sa.text("end_user <> ''")
    op.create_index(f"{table}_end_user", table, ["end_user", "ts_ms"], sqlite_where=some, postgresql_where=some)


def _parent() -> None:
    op.create_table(
        "ledger",
        *_columns(),
        sa.PrimaryKeyConstraint("request_id", "ts_ms"),
        postgresql_partition_by="RANGE (ts_ms)",
    )
    _indexes("ledger")


def _month(month: str) -> None:
    """Make a month and move its rows there."""
    year, number = int(month[:4]), int(month[5:])
    ends = datetime(year, number, 1, tzinfo=UTC), datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
    begin, end = (int(at.timestamp() * 1000) for at in ends)
    name = f"ledger_{month}"
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"CREATE TABLE {name} PARTITION OF ledger FOR VALUES FROM ({begin}) TO ({end})")
    else:
        op.create_table(name, *_columns(), sa.PrimaryKeyConstraint("request_id", "ts_ms"))
        _indexes(name)
    columns, values = ", ".join((*_OLD, *_NEW)), ", ".join((*_OLD, *_NEW.values()))
    within = f"ts_ms >= {begin} AND ts_ms < {end}"
    op.execute(f"INSERT INTO {name} ({columns}) SELECT {values} FROM old_ledger WHERE {within}")


def _view(months: list[str]) -> None:
    names = [column.name for column in _columns()]
    columns = ", ".join(names)
    nothing = "SELECT " + ", ".join(f"NULL AS {name}" for name in names) + " WHERE 0"
    parts = [f"SELECT {columns} FROM ledger_{month}" for month in months] or [nothing]
    op.execute("CREATE VIEW ledger AS " + " UNION ALL ".join(parts))


def _rollups() -> None:
    op.create_table(
        "series",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("cut", sa.SmallInteger, nullable=False),
        *_text(*_DIMENSIONS),
    )
    for name in ("key_id", "tag", "end_user"):
        op.create_index(f"series_{name}", "series", ["cut", name])
    for name in ("rollup_hour", "rollup_day"):
        op.create_table(
            name,
            sa.Column("cut", sa.SmallInteger, primary_key=True, autoincrement=False),
            sa.Column("start_ms", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("series", sa.Integer, primary_key=True, autoincrement=False),
            *_whole(*_COUNTERS),
            sa.Column("latency", sa.LargeBinary, nullable=False),
            sa.Column("ttft", sa.LargeBinary, nullable=False),
            sqlite_with_rowid=False,
        )


def _contents() -> None:
    op.create_table(
        "contents",
        sa.Column("request_id", sa.Text, primary_key=True),
        *_whole("ts_ms"),
        *_text("organisation", "team", "key_id", "end_user", "form"),
        sa.Column("prompt", sa.LargeBinary, nullable=False),
        sa.Column("answer", sa.LargeBinary, nullable=False),
        *_whole("expires_ms"),
    )
    for name in ("expires_ms", "end_user", "key_id"):
        op.create_index(f"contents_{name}", "contents", [name])


def downgrade() -> None:
    raise NotImplementedError("rows by month do not go back into one table; restore the backup made before")
