"""The end of a request, however it came: its costs, its row, and what is learned of it. Step 10."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway import storing
from gateway.arbiter import Arbiter
from gateway.billing import bill
from gateway.cache import exact
from gateway.cache.hits import Hits
from gateway.entry import ledger_entry
from gateway.shadows import Shadows
from gateway.upkeep import Upkeep
from gateway.warmth import Warmth

if TYPE_CHECKING:
    from gateway.books import Books
    from gateway.cache.semantic import SemanticCache
    from gateway.metrics import Metrics
    from gateway.types import LedgerEntry, Where
    from gateway.view import View
    from gateway.visit import Visit


class Settling:
    """Each request is settled once, in a task of its own, so that nothing can cut it short.

    ``expected`` knows what the exact tier has been given. ``settled`` is called with every row.
    """

    def __init__(
        self, books: Books, semantic: SemanticCache, metrics: Metrics, settled: Callable[[LedgerEntry], None]
    ) -> None:
        self._books, self._semantic, self._metrics = books, semantic, metrics
        self._settled = settled
        self.expected = exact.Expected()
        self.shadows = Shadows(books)
        self.arbiter = Arbiter(books)
        self.upkeep = Upkeep(books)
        self.warmth = Warmth(books)
        self.hits = Hits(books.link, books.keys, books.spawn)

    def settle(self, view: View, visit: Visit) -> None:
        """Begin to, unless that has been done."""
        if not visit.settled:
            visit.settled = True
            if visit.listener is not None:
                visit.listener.leave()
            self._books.spawn(self._settle(view, visit))

    def leave(self, view: View, visit: Visit) -> None:
        """The client has gone; a request that had not come to its end is settled as cancelled.

        Who pays for a call that others still listen to is settled when that is over.
        """
        if visit.settled:
            return
        if visit.listener is not None:
            visit.listener.leave()
            if visit.pays and not visit.listener.call.over:
                visit.gone = True
                return
        visit.leave()
        self.settle(view, visit)

    def call_over(self, view: View, visit: Visit) -> None:
        """The call is over, and whoever pays for it may have left before."""
        if visit.gone and not visit.settled:
            visit.leave()
            self.settle(view, visit)

    async def _settle(self, view: View, visit: Visit) -> None:
        await visit.count()
        amount = bill(visit, view.prices)
        provider, served = _answered_by(view, visit)
        entry = ledger_entry(visit, amount, provider=provider, served=served)
        store = storing.cache_write(visit, entry)
        if visit.context and (store is not None or visit.cache == "exact"):
            self.expected.add(visit.context)
        if visit.hit is not None:
            similarity = visit.hit.similarity if visit.hit.tier == "semantic" else None
            self.hits.note(visit.hit.entry.id, entry.saved_nano, similarity, visit.hit.p_same)
        self._settled(entry)
        self._metrics.observe(entry)
        if visit.pays and visit.status == "ok":
            self.shadows.cast(view, visit)
        self.warmth.note(visit, entry, view.prices)
        await self._books.settle(visit, entry, store)
        if visit.pays and visit.listener is not None:
            visit.listener.call.settle()
        if store is not None and visit.context and _learns(view, visit):
            used = self.upkeep.of(view.prices, visit.principal.organisation)
            await self._semantic.remember(visit.context, visit.vector, self.arbiter.of(view, visit), used)


def _answered_by(view: View, visit: Visit) -> tuple[str, Where]:
    """The provider, and where what the client got was made."""
    model = view.settings.model(visit.model)
    provider = "cache" if visit.given else (model.kind if model else "")
    if visit.given and (visit.hit is not None or visit.first_byte is not None):
        return provider, "cache"
    if visit.first_byte is None or model is None:
        return provider, "none"
    return provider, "local" if model.is_local else "hosted"


def _learns(view: View, visit: Visit) -> bool:
    return visit.policy.policy.cache.semantic and (view.embedder_local or not visit.local_only)
