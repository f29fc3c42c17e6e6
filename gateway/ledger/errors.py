"""What can go wrong with the books. :mod:`gateway.ledger.store` translates the database drivers' errors into these."""

from __future__ import annotations


class LedgerAway(Exception):
    """The database is locked, unreachable or not there yet: the same call may succeed later."""


class LedgerRefused(Exception):
    """The database will never take this value: trying again is no use."""
