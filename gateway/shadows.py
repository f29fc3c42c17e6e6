"""Shadow requests: what other models would have answered, for comparison. Nobody waits for them or sees them.

A rule's shadows have a budget of their own for each UTC day, taken before the call at its worst case. Each is a row in
the books under the key ``shadow``, never charged to the budget of who asked; ``detail.shadow_of`` names the request.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from gateway.budget.limits import Admission
from gateway.budget.purse import Purse
from gateway.entry import route_name
from gateway.errors import RedisAway
from gateway.features import EXPERIMENT_TAG
from gateway.routing import worst_nano
from gateway.types import NANO, SHADOW_KEY, Principal
from gateway.unattended import Allowance, ask
from gateway.visit import Visit

if TYPE_CHECKING:
    from gateway.books import Books
    from gateway.types import ChatRequest, Features
    from gateway.view import View

_RUNNING_MAX = 64
_PATIENCE_S = 120.0
_log = logging.getLogger(__name__)


class Shadows:
    """Asks the shadows of a worker's requests, a bounded number at a time; beyond it they are left out."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._asking: set[asyncio.Task[None]] = set()

    def cast(self, view: View, visit: Visit) -> None:
        """Begin what the decision wishes for; returns at once."""
        decision = visit.decision
        if decision is None or not decision.shadow or visit.local_only:
            return
        rule = visit.policy.rule(decision.rule)
        if rule is None or (shadow := rule.shadow) is None:
            return
        for name in decision.shadow:
            if len(self._asking) >= _RUNNING_MAX or view.fleet.unavailable(name) or view.prices.price(name) is None:
                continue
            task = asyncio.create_task(self._ask(view, visit, name, round(shadow.usd_per_day * NANO)))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def close(self) -> None:
        """Break off what is under way; it is in the books all the same."""
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    async def _ask(self, view: View, of: Visit, name: str, limit_nano: int) -> None:
        purse = Purse(self._books.link, f"{self._books.keys.prefix}{SHADOW_KEY}:{of.policy.name}:{route_name(of)}")
        allowance = Allowance(purse, limit_nano, worst_nano(view, of, name) or 0)
        detail = {"shadow_of": of.request.id}
        try:
            await ask(self._books, view, _visit(of, name), allowance, deadline_s=_PATIENCE_S, detail=detail)
        except RedisAway:
            _log.debug("no shadow of %s: its budget cannot be checked", of.request.id)


def _visit(of: Visit, name: str) -> Visit:
    principal = Principal(key_id=SHADOW_KEY, name=SHADOW_KEY, organisation=of.principal.organisation)
    visit = Visit(_plain(of.request, name), principal, of.policy, _tagged(of.features))
    visit.decision, visit.model, visit.admission = of.decision, name, Admission(known=False)
    return visit


def _plain(request: ChatRequest, name: str) -> ChatRequest:
    """The same question, to be answered in one piece."""
    fields = {key: raw for key, raw in request.fields.items() if key not in ("stream", "stream_options")}
    return msgspec.structs.replace(request, id=f"{request.id}-{SHADOW_KEY}-{name}", fields=fields, stream=False)


def _tagged(features: Features) -> Features:
    """Not in the experiment of the request they shadow: nobody got their answer."""
    kept = (tag for tag in features.tags if not tag.startswith(EXPERIMENT_TAG))
    return msgspec.structs.replace(features, tags=tuple(sorted({*kept, SHADOW_KEY})))
