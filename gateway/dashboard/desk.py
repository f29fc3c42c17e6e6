"""The dashboard's process at work: each question becomes a page, and the page HTML, JSON or CSV."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gateway import log
from gateway.dashboard import cache, explore, in_force, overview, requests
from gateway.dashboard.page import Ask, Page, Wrong
from gateway.dashboard.reader import Answer, Question
from gateway.dashboard.render import Renderer, failure, table_csv, whole_json
from gateway.ledger.errors import LedgerAway
from gateway.ledger.store import SqlStore

PAGES: Mapping[str, Callable[[Ask], Awaitable[Page]]] = {
    "": overview.overview,
    "explore": explore.explore,
    "requests": requests.requests,
    "request": requests.request,
    "live": requests.live,
    "cache": cache.cache,
    "budgets": in_force.budgets,
    "policies": in_force.policies,
    "models": in_force.models,
}
_KEYS_FRESH_S = 10.0
_log = log.get(__name__)


class Desk:
    """Keeps the connection to the books and the names of keys between questions."""

    def __init__(self) -> None:
        self._render = Renderer()
        self._store: SqlStore | None = None
        self._address = ""
        self._keys: dict[str, str] = {}
        self._keys_at = float("-inf")

    async def answer(self, question: Question) -> Answer:
        """Never raises: what goes wrong is a page that says so."""
        try:
            return await self._answer(question)
        except Wrong as error:
            return failure(self._render, question, error.status, str(error), error.code)
        except ValueError as error:
            return failure(self._render, question, 400, str(error), "invalid_query")
        except LedgerAway as error:
            message = f"the ledger cannot be read at the moment: {error}"
            return failure(self._render, question, 503, message, "ledger_away")
        except Exception:  # the process's edge: one page's bug must not end it
            _log.exception("a page could not be made", page=question.page)
            return failure(
                self._render, question, 500, "this page could not be made; the log says why", "internal_error"
            )

    async def close(self) -> None:
        if self._store is not None:
            await self._store.close()
            self._store = None

    async def _answer(self, question: Question) -> Answer:
        store = await self._books(question.ledger)
        ask = Ask(
            store=store,
            page=question.page,
            query=question.query,
            role=question.role,
            key_id=question.key_id,
            facts=question.facts,
            now_ms=int(time.time() * 1000),
            keys=await self._key_names(store),
        )
        page = await PAGES[question.page](ask)
        if question.form == "csv":
            return table_csv(ask, page)
        if question.form == "json":
            return whole_json(ask, page)
        return Answer(status=200, content_type="text/html; charset=utf-8", body=self._render.page(ask, page))

    async def _books(self, address: str) -> SqlStore:
        if self._store is None or address != self._address:
            await self.close()
            self._store, self._address = SqlStore.reader(address), address
        return self._store

    async def _key_names(self, store: SqlStore) -> dict[str, str]:
        if time.monotonic() - self._keys_at > _KEYS_FRESH_S:
            found: list[dict[str, Any]] = await store.keys()
            self._keys = {row["id"]: row["name"] or row["id"] for row in found}
            self._keys_at = time.monotonic()
        return self._keys
