"""An index for the first of many keys, as end users have one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_RANKED = ("requests", "errors", "cost_nano", "saved_nano", "prompt_tokens", "completion_tokens")
_KEY = sa.text("cut = 2")


def upgrade() -> None:
    columns = ("series", "start_ms", *_RANKED)
    op.create_index("rollup_day_key_id", "rollup_day", [*columns], sqlite_where=_KEY, postgresql_where=_KEY)


def downgrade() -> None:
    op.drop_index("rollup_day_key_id", "rollup_day")
