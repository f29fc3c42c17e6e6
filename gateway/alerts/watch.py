"""Looks, and tells each thing once: what is being told is kept in Redis, so that neither a restart nor a second process
tells it again.

A finding is told when it appears; a state once more every ``repeat_hours`` for as long as it lasts, and as resolved
once it has been gone for a while. What no channel took is tried again at the next look.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec

from gateway import economics
from gateway.alerts import rules
from gateway.alerts.channels import deliver
from gateway.alerts.rules import BudgetState, Finding
from gateway.cache.stats import PSI_ALARM, stats
from gateway.config import Settings, socket_path
from gateway.experiments.state import states
from gateway.ledger.answers import Period
from gateway.types import DAY_MS, HOUR_MS, Frozen, LedgerEntry
from gateway.watching import routing
from gateway.watching.findings import changed_models, unfit_routing
from gateway.watching.probes import targets

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from gateway.config import AlertsConfig, ModelConfig
    from gateway.ledger.store import SqlStore
    from gateway.redis_io import Keys

ROWS_MAX = 1000
RESOLVED_AFTER_MS = 60_000
FORGOTTEN_AFTER_MS = DAY_MS
_PROBE_S = 2.0
_WEEK = 7 * DAY_MS

Budgets = Callable[[], Awaitable[Iterable[BudgetState]]]


class Told(Frozen, frozen=True, kw_only=True):
    """A finding that was told: when first, when last, and when it was last seen; epoch milliseconds."""

    kind: rules.Kind
    title: str
    text: str
    severity: str
    since_ms: int
    told_ms: int
    seen_ms: int


class Watch:
    """``look`` is called every half minute by the background process."""

    def __init__(self, redis: Redis, keys: Keys, store: SqlStore, budgets: Budgets) -> None:
        self._redis, self._keys, self._store, self._budgets = redis, keys, store, budgets

    async def look(self, settings: Settings, now_ms: int | None = None) -> list[Finding]:
        """Find, tell and resolve. Returns what was told now.

        Raises:
            LedgerAway, redis.RedisError: try again later; nothing was told twice.
        """
        now = int(time.time() * 1000) if now_ms is None else now_ms
        told = await active(self._redis, self._keys)
        found = await self._find(settings, told, now)
        news = [finding for finding in found if self._due(told.get(finding.key), settings.config.alerts, now)]
        for finding in found:
            await self._tell(finding, told.get(finding.key), settings.config.alerts, now, due=finding in news)
        gone = {key: one for key, one in told.items() if key not in {finding.key for finding in found}}
        return news + await self._resolve(gone, settings.config.alerts, now)

    async def _find(self, settings: Settings, told: Mapping[str, Told], now: int) -> list[Finding]:
        config = settings.config.alerts
        recent = await self._recent(now)
        week = Period(now - _WEEK, now + 1)
        hours = await self._store.timeline(week, step_ms=HOUR_MS)
        return [
            *rules.budgets(await self._budgets(), config),
            *rules.forecast(await economics.forecast(self._store, now), config, now),
            *rules.spike(hours, config),
            *rules.errors(recent, config),
            *rules.down(recent, await silent(settings), _hosted_down(settings, told)),
            *rules.stopped(await states(self._redis, self._keys), now),
            *rules.drift((await stats(self._redis, now, self._keys, most=0)).psi, PSI_ALARM),
            *changed_models(await targets(self._redis, self._keys), now),
            *await self._unfit(settings, now),
        ]

    async def _unfit(self, settings: Settings, now: int) -> list[Finding]:
        told = await routing.latest(self._redis, self._keys)
        return unfit_routing(told, settings.config.monitoring, now) if told else []

    async def _recent(self, now: int) -> Sequence[LedgerEntry]:
        page = await self._store.rows(Period(now - rules.RECENT_MS, now + 1), limit=ROWS_MAX)
        return [entry for entry in page.rows if entry.ts_ms > now - rules.RECENT_MS]

    @staticmethod
    def _due(before: Told | None, config: AlertsConfig, now: int) -> bool:
        lasts = before is not None and before.kind in rules.STATES
        return before is None or (lasts and now - before.told_ms >= config.repeat_hours * HOUR_MS)

    async def _tell(self, finding: Finding, before: Told | None, config: AlertsConfig, now: int, *, due: bool) -> None:
        """Tell it if it is due; note that it was seen."""
        if due:
            outcome = await deliver(finding, config)
            others = [result for channel, result in outcome.items() if channel != "log"]
            if others and "sent" not in others:
                return
        told = Told(
            kind=finding.kind,
            title=finding.title,
            text=finding.text,
            severity=finding.severity,
            since_ms=before.since_ms if before else now,
            told_ms=now if due or before is None else before.told_ms,
            seen_ms=now,
        )
        await self._redis.hset(self._keys.told, finding.key, msgspec.json.encode(told))

    async def _resolve(self, gone: Mapping[str, Told], config: AlertsConfig, now: int) -> list[Finding]:
        """States that are over are told so; the rest is kept for a while, so that what wavers is told once."""
        told = []
        for key, before in gone.items():
            if before.kind in rules.STATES and now - before.seen_ms >= RESOLVED_AFTER_MS:
                minutes = max(1, round((before.seen_ms - before.since_ms) / 60_000))
                text = f"It lasted {minutes} minutes." if minutes > 1 else ""
                over = Finding(key=key, kind=before.kind, title=f"Resolved: {before.title}", text=text, severity="info")
                await deliver(over, config)
                told.append(over)
                await self._redis.hdel(self._keys.told, key)
            elif now - before.seen_ms >= FORGOTTEN_AFTER_MS:
                await self._redis.hdel(self._keys.told, key)
        return told


def _hosted_down(settings: Settings, told: Mapping[str, Told]) -> list[str]:
    """Hosted models that were told to be down: without a call nobody knows better."""
    models = [model.name for model in settings.config.models if model.local is None]
    return [name for name in models if rules.down_key(name) in told]


async def active(redis: Redis, keys: Keys) -> dict[str, Told]:
    """What has been told and not resolved, by key; the newest last."""
    found: Any = await redis.hgetall(keys.told)
    told = {key.decode(): msgspec.json.decode(value, type=Told) for key, value in found.items()}
    return dict(sorted(told.items(), key=lambda item: item[1].since_ms))


async def send_test(config: AlertsConfig) -> dict[str, str]:
    """Send a test message now: ``{"log", "webhook", "email": "sent" | why not | "not configured"}``."""
    text = "If you can read this, alerts of this gateway arrive here."
    finding = Finding(key="test", kind="test", title="Test alert", text=text, severity="info")
    return {"webhook": "not configured", "email": "not configured"} | await deliver(finding, config)


async def silent(settings: Settings) -> dict[str, str]:
    """Local models that do not answer, and how."""
    models = [model for model in settings.config.models if model.local is not None]
    answers = await asyncio.gather(*(_answers(model, settings) for model in models))
    return {model.name: "Its process does not answer." for model, here in zip(models, answers, strict=True) if not here}


async def _answers(model: ModelConfig, settings: Settings) -> bool:
    socket = None if model.url else socket_path(settings.data_dir, f"chat-{model.local}")
    base = model.url.rstrip("/").removesuffix("/v1") if model.url else "http://local"
    connector = aiohttp.UnixConnector(str(socket)) if socket else None
    timeout = aiohttp.ClientTimeout(total=_PROBE_S)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.get(f"{base}/healthz") as reply,
        ):
            return reply.status < 500
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return False
