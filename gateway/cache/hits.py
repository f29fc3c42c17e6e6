"""How often each stored answer was used, what that saved, and how similar the questions were: kept in Redis, a second
late, for eviction and to be seen.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.cache.eviction import HALF_LIFE_MS, LEAST_NANO
from gateway.cache.purge import day
from gateway.cache.stats import SAID, bucket, said_bucket
from gateway.errors import RedisAway
from gateway.redis_io import Keys, RedisLink, Script

_EVERY_S = 1.0

# worth = log2 of what was saved a byte, older uses counting half as much every half-life (eviction.py): sums are taken
# relative to the larger one, since 2^worth itself fits no number.
_NOTE = Script("""
for i = 3, #ARGV, 3 do
  local id, hits, saved = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local held = redis.call('HGET', KEYS[1], id)
  if held then
    local bytes = tonumber(string.match(held, '^(%d+):'))
    local fresh = math.log(math.max(saved, tonumber(ARGV[2]) * hits) / math.max(1, bytes)) / math.log(2) + ARGV[1]
    local before = tonumber(redis.call('ZSCORE', KEYS[2], id)) or fresh - 64
    local most = math.max(fresh, before)
    local worth = most + math.log(1 + 2 ^ (math.min(fresh, before) - most)) / math.log(2)
    redis.call('ZADD', KEYS[2], string.format('%.9f', worth), id)
    redis.call('ZINCRBY', KEYS[3], ARGV[i + 2], id)
    redis.call('HINCRBY', KEYS[4], id, hits)
  end
end
""")


class Hits:
    """Counts of this worker on their way to Redis. ``spawn`` runs what is to be finished."""

    def __init__(self, link: RedisLink, keys: Keys, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._link, self._keys, self._spawn = link, keys, spawn
        self._counts: dict[str, tuple[int, int]] = {}
        self._similar: Counter[str] = Counter()

    def note(
        self, entry_id: str, saved_nano: int, similarity: float | None = None, p_same: float | None = None
    ) -> None:
        """An answer was used again, and saved so much. Of semantic hits: how similar, and how likely right."""
        if not self._counts:
            asyncio.get_running_loop().call_later(_EVERY_S, lambda: self._spawn(self.flush()))
        hits, saved = self._counts.get(entry_id, (0, 0))
        self._counts[entry_id] = (hits + 1, saved + max(0, saved_nano))
        if similarity is not None:
            today = day(int(time.time() * 1000))
            self._similar[f"{today}:{bucket(similarity)}"] += 1
            if p_same is not None:
                self._similar[f"{today}:{SAID}{said_bucket(p_same)}"] += 1

    async def flush(self) -> None:
        """Hand over what was counted; lost where Redis is away."""
        counts, self._counts = self._counts, {}
        similar, self._similar = self._similar, Counter()
        if not counts:
            return
        args = [part for entry_id, (hits, saved) in counts.items() for part in (entry_id, str(hits), str(saved))]
        names = (self._keys.sizes, self._keys.worth, self._keys.saved, self._keys.hits)
        try:
            await self._link.run(_NOTE, names, repr(time.time() * 1000 / HALF_LIFE_MS), str(LEAST_NANO), *args)
            for field, count in similar.items():
                await self._link.call("HINCRBY", self._keys.days, field, str(count))
        except RedisAway:
            return
