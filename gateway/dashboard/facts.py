"""What only a worker knows: the targets' health, the policies in force, what budgets hold, one request's story."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
from redis.exceptions import RedisError

from gateway import story
from gateway.auth import KeyStore
from gateway.dashboard.session import LINK_DAYS
from gateway.http.meta import model_row
from gateway.types import NANO

if TYPE_CHECKING:
    from gateway.dashboard.access import Visitor
    from gateway.reload import Reloader
    from gateway.runtime import Runtime

MILD, BAD = 0.8, 1.0
BUDGETS_MAX = 500
_REDIS_S = 2.0


class Facts:
    """Plain values that travel to the dashboard's process."""

    def __init__(self, runtime: Runtime, reloader: Reloader) -> None:
        self._runtime, self._reloader = runtime, reloader
        self._keys = KeyStore(runtime.redis, runtime.keys)

    async def gather(self, page: str, visitor: Visitor, query: dict[str, str]) -> dict[str, Any]:
        """What the page needs."""
        if page in ("", "budgets"):
            return await self._budgets(visitor) | {"alerts": await self._alerts(visitor)}
        if page == "models":
            return {"models": self._models()}
        if page == "policies":
            return {"policies": self._policies()}
        if page == "request":
            return {"story": await self._story(visitor, query["id"])}
        return {}

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

    async def _budgets(self, visitor: Visitor) -> dict[str, Any]:
        """The budgets the visitor may see, the most used first."""
        try:
            async with asyncio.timeout(_REDIS_S):
                return {"budgets": await self._accounts(visitor), "away": ""}
        except (RedisError, OSError):
            return {"budgets": [], "away": "Redis is away: what budgets hold is not known at the moment."}

    async def _accounts(self, visitor: Visitor) -> list[dict[str, Any]]:
        records = await self._keys.list()
        wanted = [
            record
            for record in records
            if record["budget_usd"] is not None
            and record["revoked_ms"] is None
            and visitor.key_id in ("", record["id"])
        ][:BUDGETS_MAX]
        pipe = self._runtime.redis.pipeline(transaction=False)
        for record in wanted:
            pipe.hgetall(self._runtime.keys.budget(record["id"]))
        held = await pipe.execute() if wanted else []
        rows = [_budget(record, state) for record, state in zip(wanted, held, strict=True)]
        return sorted(rows, key=lambda row: -row["used"])

    async def _alerts(self, visitor: Visitor) -> list[dict[str, Any]]:
        """What has been told and is not over."""
        if visitor.role == "owner":
            return []
        from gateway.alerts import watch

        with suppress(RedisError, OSError):
            async with asyncio.timeout(_REDIS_S):
                told = await watch.active(self._runtime.redis, self._runtime.keys)
            return [msgspec.to_builtins(one) for one in told.values()]
        return []

    async def _story(self, visitor: Visitor, request_id: str) -> dict[str, Any] | None:
        entry = await self._runtime.find(request_id)
        if entry is None or visitor.key_id not in ("", entry.key_id):
            return None
        view = self._runtime.view
        return story.of_entry(entry, view.prices, [model.name for model in view.settings.config.models])


def _model(row: dict[str, Any]) -> dict[str, Any]:
    reason = row["unavailable"] or ""
    state = "ready" if not reason else "cooling down" if reason.startswith("cooling down") else "unavailable"
    price = row["price"] or {}
    shown = {name: price.get(name) for name in ("input", "output", "cached_input", "usd_per_hour", "source", "date")}
    return {"name": row["id"], "runs": row["runs"], "state": state, "reason": reason, "context": row["context"]} | shown


def _budget(record: dict[str, Any], held: dict[bytes, bytes]) -> dict[str, Any]:
    limit = round(record["budget_usd"] * NANO)
    spent, reserved = int(held.get(b"spent", 0)), int(held.get(b"reserved", 0))
    used = spent / limit if limit else 1.0
    return {
        "id": record["id"],
        "name": record["name"],
        "window": "",
        "limit_nano": limit,
        "spent_nano": spent,
        "reserved_nano": reserved,
        "left_nano": limit - spent - reserved,
        "used": used,
        "held": reserved / limit if limit else 0.0,
        "tone": "bad" if used >= BAD else "mild" if used >= MILD else "",
        "remark": "exhausted" if used >= BAD else "",
        "resets": "",
    }
