"""Where the books are."""

from __future__ import annotations

from gateway.config import Settings


def ledger_url(settings: Settings) -> str:
    """The configured SQLAlchemy address, or SQLite in the data folder."""
    return settings.config.ledger.url or f"sqlite+aiosqlite:///{settings.data_dir / 'ledger.sqlite3'}"
