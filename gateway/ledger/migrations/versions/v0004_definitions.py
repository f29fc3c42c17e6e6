"""Organisations, teams and budgets; what a key may ask for, and for whom."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_KEY_COLUMNS = {"project": "''", "role": "'user'", "models": "'[]'", "policies": "'[]'", "allowed_tags": "'[]'"}


def upgrade() -> None:
    op.create_table(
        "definitions",
        sa.Column("field", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    for name, default in _KEY_COLUMNS.items():
        op.add_column("keys", sa.Column(name, sa.Text, nullable=False, server_default=sa.text(default)))


def downgrade() -> None:
    op.drop_table("definitions")
    for name in _KEY_COLUMNS:
        op.drop_column("keys", name)
