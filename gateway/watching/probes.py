"""Which targets are due for a round of golden prompts, and what is known of each; kept in Redis by target.

Only digests of answers are kept, no text.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from gateway import log
from gateway.errors import RedisAway
from gateway.redis_io import RedisLink, redis_url
from gateway.types import HOUR_MS, Frozen
from gateway.watching.standing import Change, Level, Standing, after_round, begun

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from gateway.config import ModelConfig, Settings
    from gateway.redis_io import Keys
    from gateway.watching.golden import Observation
    from gateway.watching.prober import Prober

AGAIN_MS = 300_000
"""How soon a round is asked, at the latest, where the last one was skipped or looked suspicious."""
SUSPICIOUS = 1e-3
"""Evidence, as a share of an alarm's, that is not waited with: when a round is asked changes nothing of the test."""
_CONNECT_S = 2.0
_log = log.get(__name__)


class Kept(Frozen, frozen=True, kw_only=True):
    """What is kept of a target. ``skipped``: why its last round was not asked, '' where it was."""

    standing: Standing
    tried_ms: int = 0
    skipped: str = ""


class Target(Frozen, frozen=True, kw_only=True):
    """What people are told of a target that is probed. ``evidence`` of a change: 1 is an alarm."""

    name: str
    rounds: int
    since_ms: int
    last_ms: int
    evidence: float
    changes: int
    skipped: str
    usual: Level | None
    last: Level | None
    changed: Change | None


async def targets(redis: Redis, keys: Keys) -> list[Target]:
    """All of them by name. Raises redis.RedisError."""
    held: Any = await redis.hvals(_told_name(keys))
    found = []
    for value in held:
        with contextlib.suppress(msgspec.MsgspecError):  # another version's
            found.append(msgspec.json.decode(value, type=Target))
    return sorted(found, key=lambda target: target.name)


def _told(name: str, kept: Kept) -> Target:
    known = kept.standing
    return Target(
        name=name,
        rounds=known.rounds,
        since_ms=known.since_ms,
        last_ms=known.last_ms,
        evidence=known.evidence,
        changes=known.all_changes,
        skipped=kept.skipped,
        usual=known.usual,
        last=known.last,
        changed=known.changes[-1] if known.changes else None,
    )


class Probes:
    """``tick`` is called every few seconds by the background process; mostly nothing is due."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis, self._keys = redis, keys

    async def tick(self, settings: Settings) -> list[str]:
        """Ask every target that is due. Returns the names of those that have changed.

        Raises:
            redis.RedisError: try again later.
        """
        known = await _read(self._redis, self._keys)
        wanted = settings.config.probes.targets
        if gone := known.keys() - set(wanted):
            await self._redis.hdel(_name(self._keys), *gone)
            await self._redis.hdel(_told_name(self._keys), *gone)
        now = int(time.time() * 1000)
        due = [name for name in wanted if _due(known.get(name), settings, now)]
        return await self._ask(settings, due, known) if due else []

    async def _ask(self, settings: Settings, due: list[str], known: Mapping[str, Kept]) -> list[str]:
        from gateway.books import Books
        from gateway.budget.spool import Spool
        from gateway.metrics import Metrics
        from gateway.watching.golden import PROBE_KEY
        from gateway.watching.prober import Prober

        worker = f"{PROBE_KEY}-{os.getpid()}"
        link = RedisLink(redis_url(settings), timeout_s=_CONNECT_S)
        spool = Spool(settings.data_dir / "spool", worker)
        prober = Prober(settings, Books(link, self._keys, spool, Metrics(), worker))
        try:
            await link.start(_CONNECT_S)
            return [name for name in due if await self._round(settings, prober, name, known.get(name))]
        except RedisAway as error:
            _log.warning("golden prompts have to wait", reason=str(error))
            return []
        finally:
            await prober.close()
            await link.close()

    async def _round(self, settings: Settings, prober: Prober, name: str, before: Kept | None) -> bool:
        """One target. Whether it has changed."""
        from gateway.watching.golden import CHANNELS, prompts
        from gateway.watching.prober import Skipped

        of, began = _identity(settings.model(name)), int(time.time() * 1000)
        known = before.standing if before is not None else None
        if known is None or known.of != of:
            known = begun(of, len(prompts()), began, known)
        answers: dict[int, Observation] = {}
        skipped = ""
        try:
            answers = await prober.round(name)
        except Skipped as reason:
            skipped = str(reason)
            if before is None or before.skipped != skipped:
                _log.warning("a target was not asked golden prompts", target=name, reason=skipped)
        now = int(time.time() * 1000)
        after = after_round(known, answers, {each: random.random() for each in CHANNELS}, now) if answers else known
        kept = Kept(standing=after, tried_ms=began, skipped=skipped)
        await self._redis.hset(_name(self._keys), name, msgspec.json.encode(kept))
        await self._redis.hset(_told_name(self._keys), name, msgspec.json.encode(_told(name, kept)))
        if after.all_changes > known.all_changes:
            _log.warning("a target answers as another model", target=name, shown_by=after.changes[-1].channels)
            return True
        return False


async def _read(redis: Redis, keys: Keys) -> dict[str, Kept]:
    found: Any = await redis.hgetall(_name(keys))
    known = {}
    for name, value in found.items():
        with contextlib.suppress(msgspec.MsgspecError):  # another version's: learned anew
            known[name.decode()] = msgspec.json.decode(value, type=Kept)
    return known


def _name(keys: Keys) -> str:
    return f"{keys.prefix}probes"


def _told_name(keys: Keys) -> str:
    """Of what is read often: without the counts."""
    return f"{keys.prefix}probes:told"


def _due(kept: Kept | None, settings: Settings, now_ms: int) -> bool:
    if kept is None:
        return True
    every = settings.config.probes.every_hours * HOUR_MS
    soon = bool(kept.skipped) or kept.standing.evidence >= SUSPICIOUS
    return now_ms - kept.tried_ms >= (min(every, AGAIN_MS) if soon else every)


def _identity(model: ModelConfig | None) -> str:
    """What a target is as configured: pointed elsewhere on purpose, it is learned anew without an alarm."""
    from gateway.watching.golden import prompts_id

    where = () if model is None else (model.kind, model.upstream_name, model.base_urls, model.url)
    return hashlib.sha256(repr((where, prompts_id())).encode()).hexdigest()[:16]
