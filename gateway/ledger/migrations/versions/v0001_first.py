"""The rows, the definitions of keys, and the rollups."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _text(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=False) for name in names]


def _whole(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]


def _maybe_whole(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger) for name in names]


def _maybe_real(*names: str) -> list[sa.Column[float]]:
    return [sa.Column(name, sa.Double) for name in names]


def upgrade() -> None:
    _ledger()
    _keys()
    _rollups()


def _ledger() -> None:
    op.create_table(
        "ledger",
        sa.Column("request_id", sa.Text, primary_key=True),
        *_whole("ts_ms"),
        *_text("organisation", "team", "key_id", "end_user", "tags", "session", "policy", "rule"),
        *_text("requested_model", "model", "provider", "served", "cache"),
        *_maybe_real("similarity"),
        *_text("cache_entry"),
        sa.Column("stream", sa.Boolean, nullable=False),
        *_text("status"),
        sa.Column("http_status", sa.Integer, nullable=False),
        *_text("error"),
        *_whole("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens"),
        *_text("usage_source"),
        *_whole("cost_nano", "baseline_nano", "saved_nano", "reserved_nano"),
        sa.Column("unpriced", sa.Boolean, nullable=False),
        *_text("price_source", "price_date"),
        *_maybe_real("ttft_ms"),
        sa.Column("duration_ms", sa.Double, nullable=False),
        sa.Column("overhead_ms", sa.Double, nullable=False),
        *_maybe_real("tokens_per_s", "difficulty"),
        *_text("degraded", "detail"),
    )
    op.create_index("ledger_ts_ms", "ledger", ["ts_ms"])


def _keys() -> None:
    op.create_table(
        "keys",
        sa.Column("hash", sa.Text, primary_key=True),
        *_text("id", "prefix", "name", "organisation", "team", "tags"),
        *_maybe_whole("rpm", "tpm", "concurrency", "budget_nano"),
        *_whole("created_ms"),
        *_maybe_whole("expires_ms", "revoked_ms"),
    )
    op.create_index("keys_id", "keys", ["id"])


def _rollups() -> None:
    dimensions = ("organisation", "team", "key_id", "policy", "rule", "model", "served", "cache", "status")
    op.create_table(
        "series",
        sa.Column("id", sa.Integer, primary_key=True),
        *_text(*dimensions),
        sa.UniqueConstraint(*dimensions, name="series_dimensions"),
    )
    for name in ("rollup_hour", "rollup_day"):
        op.create_table(
            name,
            sa.Column("start_ms", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("series", sa.Integer, sa.ForeignKey("series.id"), primary_key=True, autoincrement=False),
            *_whole("requests", "prompt_tokens", "completion_tokens", "cached_tokens"),
            *_whole("cost_nano", "baseline_nano", "saved_nano", "estimated", "unpriced"),
            *_text("latency", "ttft"),
        )


def downgrade() -> None:
    for name in ("rollup_day", "rollup_hour", "series", "keys", "ledger"):
        op.drop_table(name)
