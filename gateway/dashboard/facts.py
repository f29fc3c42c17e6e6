"""What only a worker knows: the targets' health, the policies in force, what budgets hold, one request's story."""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
from redis.exceptions import RedisError

from gateway import story
from gateway.auth import KeyStore
from gateway.cache.stats import checked, stats
from gateway.dashboard import budgets, experiments, watching
from gateway.dashboard.session import LINK_DAYS
from gateway.http.meta import model_row
from gateway.keeping import messages
from gateway.ledger.errors import LedgerAway
from gateway.sealing import Sealed, readable

if TYPE_CHECKING:
    from gateway.dashboard.access import Visitor
    from gateway.reload import Reloader
    from gateway.runtime import Runtime

_REDIS_S = 2.0
_BOOKS, _ALERTS = "gateway.ledger.store", "gateway.alerts.watch"


class Facts:
    """Plain values that travel to the dashboard's process."""

    def __init__(self, runtime: Runtime, reloader: Reloader) -> None:
        self._runtime, self._reloader = runtime, reloader
        self._keys = KeyStore(runtime.redis, runtime.keys)

    async def gather(self, page: str, visitor: Visitor, query: dict[str, str]) -> dict[str, Any]:
        """What the page needs."""
        if page in ("", "budgets"):
            held, alerts = await asyncio.gather(self._budgets(visitor), self._alerts(visitor))
            return {**held, "alerts": alerts}
        if page == "cache":
            return {"cache": await self._cache()}
        if page == "models":
            return {"models": self._models(), "watched": await self._watched(visitor)}
        if page == "policies":
            return {"policies": self._policies(), "experiments": await self._experiments()}
        if page == "request":
            return await self._request(visitor, query["id"])
        return {}

    async def _cache(self) -> dict[str, Any] | None:
        """What the cache holds; None while Redis is away."""
        with suppress(RedisError, OSError):
            async with asyncio.timeout(_REDIS_S):
                found = await stats(self._runtime.redis, int(time.time() * 1000), self._runtime.keys)
                audited = await checked(self._runtime.redis, self._runtime.keys)
            return {"held": msgspec.to_builtins(found), "audit": msgspec.to_builtins(audited)}
        return None

    def _models(self) -> list[dict[str, Any]]:
        view = self._runtime.view
        return [_model(model_row(model, view)) for model in view.settings.config.models]

    def _policies(self) -> dict[str, Any]:
        view, error = self._runtime.view, self._reloader.error
        rows = []
        for each in view.policies.policies.values():
            cache = each.policy.cache
            kinds = [name for name, on in (("exact", cache.exact), ("semantic", cache.semantic)) if on]
            rows.append(
                {
                    "label": each.label,
                    "baseline": each.policy.baseline or "",
                    "rules": len(each.rules),
                    "cache": f"{' and '.join(kinds)}, per {cache.scope}, {cache.ttl}" if kinds else "off",
                    "file": each.document.file,
                    "warnings": list(each.warnings),
                }
            )
        return {
            "policies": rows,
            "default": view.policies.default,
            "loaded_ms": view.loaded_ms,
            "last_error": None if error is None else str(error),
            "link_days": list(LINK_DAYS),
        }

    async def _experiments(self) -> list[dict[str, Any]]:
        with suppress(RedisError, OSError):
            async with asyncio.timeout(_REDIS_S):
                return await experiments.arms(self._runtime)
        return []

    async def _watched(self, visitor: Visitor) -> dict[str, Any]:
        """Golden prompts and the last day of routing; {} while Redis is away."""
        if visitor.role == "owner":
            return {}
        with suppress(RedisError, OSError):
            async with asyncio.timeout(_REDIS_S):
                return await watching.facts(self._runtime)
        return {}

    async def _budgets(self, visitor: Visitor) -> dict[str, Any]:
        """The budgets the visitor may see, the most used first."""
        try:
            async with asyncio.timeout(_REDIS_S):
                records = await self._keys.list()
                rows = await budgets.held(self._runtime.redis, self._runtime.keys, records, visitor.key_id)
                return {"budgets": rows, "away": ""}
        except (RedisError, OSError):
            return {"budgets": [], "away": "Redis is away: what budgets hold is not known at the moment."}

    async def _alerts(self, visitor: Visitor) -> list[dict[str, Any]]:
        """What has been told and is not over."""
        if visitor.role == "owner":
            return []
        await _imported(_ALERTS)
        from gateway.alerts import watch

        with suppress(RedisError, OSError):
            async with asyncio.timeout(_REDIS_S):
                told = await watch.active(self._runtime.redis, self._runtime.keys)
            return [msgspec.to_builtins(one) for one in told.values()]
        return []

    async def _request(self, visitor: Visitor, request_id: str) -> dict[str, Any]:
        """Its story, and for an admin what was kept of it: decrypted here, where the keys are."""
        await _imported(_BOOKS)
        entry = await self._runtime.find(request_id)
        if entry is None or visitor.key_id not in ("", entry.key_id):
            return {"story": None}
        told = {"story": story.of_entry(entry, self._runtime.view)}
        return told | await self._conversation(request_id) if visitor.role == "admin" else told

    async def _conversation(self, request_id: str) -> dict[str, Any]:
        """``messages``, or why they cannot be read (``sealed``); {} where nothing is kept, or not in SQL yet."""
        with suppress(LedgerAway):
            content = await (await self._runtime.store()).content(request_id)
            if content is None:
                return {}
            try:
                return {"messages": messages(readable(content, self._runtime.view.seal))}
            except Sealed as reason:
                return {"sealed": str(reason)}
        return {}


async def _imported(module: str) -> None:
    """A third of a second of imports or more, the first time, which requests must not wait for."""
    if module not in sys.modules:
        await asyncio.to_thread(importlib.import_module, module)


def _model(row: dict[str, Any]) -> dict[str, Any]:
    reason = row["unavailable"] or ""
    state = "ready" if not reason else "cooling down" if reason.startswith("cooling down") else "unavailable"
    price = row["price"] or {}
    shown = {name: price.get(name) for name in ("input", "output", "cached_input", "usd_per_hour", "source", "date")}
    return {"name": row["id"], "runs": row["runs"], "state": state, "reason": reason, "context": row["context"]} | shown
