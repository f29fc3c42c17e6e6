"""Cuts without teams; indexes to tell series apart and for the first of many end users. The rollups are made anew."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_RANKED = ("requests", "errors", "cost_nano", "saved_nano", "prompt_tokens", "completion_tokens")
_COMBINED = ("organisation", "team", "key_id", "policy", "rule", "model", "served", "cache", "status")
_END_USER = sa.text("cut = 22")


def upgrade() -> None:
    op.create_index("series_combined", "series", ["cut", *_COMBINED])
    columns = ("series", "start_ms", *_RANKED)
    op.create_index("rollup_day_end_user", "rollup_day", [*columns], sqlite_where=_END_USER, postgresql_where=_END_USER)
    some = "SELECT 'rebuild', 'wanted' WHERE EXISTS (SELECT 1 FROM rollup_day)"
    op.execute(f"INSERT INTO ledger_state (name, value) {some} ON CONFLICT (name) DO NOTHING")


def downgrade() -> None:
    op.drop_index("series_combined", "series")
    op.drop_index("rollup_day_end_user", "rollup_day")
    op.execute("DELETE FROM rollup_hour WHERE cut = 24 OR cut >= 30")
    op.execute("DELETE FROM rollup_day WHERE cut = 24 OR cut >= 30")
