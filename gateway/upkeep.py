"""What the cache's upkeep costs where the embedder is hosted: embedding the questions whose answers it stores.

No request waits for that, and one call embeds those of several. It is booked ten minutes at a time, in rows of its own
under the key ``shadow``, and charged to no budget. A worker that is killed takes what is not booked yet with it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING

from gateway.helped import Help, help_by, nano_of
from gateway.types import SHADOW_KEY, LedgerEntry

if TYPE_CHECKING:
    from gateway.books import Books
    from gateway.pricing import PriceBook
    from gateway.protocols import Helper, Used
    from gateway.types import Usage

RULE = "cache-upkeep"
EVERY_S = 600.0
CALLS_MAX = 10_000
"""Booked before their ten minutes are over."""


class Upkeep:
    """Of one worker, by organisation."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._open: dict[str, _Account] = {}

    def of(self, prices: PriceBook, organisation: str = "default") -> Used | None:
        """Who is to be told what an organisation's upkeep takes; None where nothing of it is hosted."""
        if not prices.helpers:
            return None
        account = self._open.get(organisation)
        if account is None:
            account = self._open[organisation] = _Account(self._books, organisation, prices)
        account.prices = prices
        return account.used

    def flush(self) -> None:
        """Book what has come together."""
        for account in self._open.values():
            account.flush()


class _Account:
    def __init__(self, books: Books, organisation: str, prices: PriceBook) -> None:
        self._books, self._organisation, self.prices = books, organisation, prices
        self._used: list[tuple[Helper, Usage]] = []
        self._due: asyncio.TimerHandle | None = None

    def used(self, helper: Helper, usage: Usage) -> None:
        self._used.append((helper, usage))
        if len(self._used) >= CALLS_MAX:
            self.flush()
        elif self._due is None:
            self._due = asyncio.get_running_loop().call_later(EVERY_S, self.flush)

    def flush(self) -> None:
        if self._due is not None:
            self._due.cancel()
        used, self._used, self._due = self._used, [], None
        now_ms = int(time.time() * 1000)
        for one in help_by(used, self.prices, now_ms):
            model = self.prices.helpers[one.helper].model
            self._books.spawn(self._books.enter(_row(one, model.upstream_name, model.kind, self._organisation, now_ms)))


def _row(one: Help, model: str, provider: str, organisation: str, now_ms: int) -> LedgerEntry:
    return LedgerEntry(
        request_id=f"{secrets.token_hex(12)}-{RULE}",
        ts_ms=now_ms,
        organisation=organisation,
        key_id=SHADOW_KEY,
        tags=(SHADOW_KEY, RULE),
        rule=RULE,
        requested_model=model,
        model=model,
        provider=provider,
        served="hosted",
        cache="bypass",
        prompt_tokens=one.tokens,
        usage_source=one.source,
        cost_nano=one.cost_nano,
        embedding_nano=nano_of([one], "embedder"),
        verification_nano=nano_of([one], "cross_encoder"),
        saved_nano=-one.cost_nano,
        price_source=one.price.source,
        price_date=one.price.date,
        detail={"helped": (one,)},
    )
