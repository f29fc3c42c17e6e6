"""The ledger as commands read it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.options import Problem

if TYPE_CHECKING:
    from gateway.config import Settings
    from gateway.ledger.answers import Period
    from gateway.ledger.store import SqlStore

Since = Annotated[str, typer.Option(metavar="today|24h|7d", help="The period, up to now")]


def period(since: str) -> Period:
    """What ``--since`` says. Raises typer.BadParameter."""
    from gateway.ledger import reports
    from gateway.ledger.answers import Period

    try:
        return Period(*reports.period(since, int(time.time() * 1000)))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since") from None


@asynccontextmanager
async def opened(chosen: Settings) -> AsyncIterator[SqlStore]:
    """To read. What the ledger refuses inside is raised as a Problem."""
    from gateway.ledger.errors import LedgerAway, LedgerRefused
    from gateway.ledger.store import SqlStore
    from gateway.ledger.where import ledger_url

    store = SqlStore.reader(ledger_url(chosen))
    try:
        yield store
    except (LedgerAway, LedgerRefused) as error:
        raise Problem(f"the ledger cannot be read: {error}") from None
    finally:
        await store.close()
