"""Who works on a batch: a key in Redis that runs out unless it is renewed.

Two that both believe to hold it, for a moment, do no harm: each writes files of its own (:mod:`gateway.batches.store`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.redis_io import Script

if TYPE_CHECKING:
    from gateway.redis_io import Keys, RedisLink

LEASE_S, RENEW_S = 20.0, 5.0

_TAKE = Script("""
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
""")
_GIVE_BACK = Script("if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0")


class Lease:
    """Of one batch, for one worker."""

    def __init__(self, link: RedisLink, keys: Keys, batch_id: str, worker: str) -> None:
        self._link, self._key, self._worker = link, (f"{keys.prefix}batch:{batch_id}",), worker

    async def take(self) -> bool:
        """Take or renew it; False while another worker holds it. Raises RedisAway."""
        return bool(await self._link.run(_TAKE, self._key, self._worker, str(int(LEASE_S * 1000))))

    async def give_back(self) -> None:
        """Raises RedisAway."""
        await self._link.run(_GIVE_BACK, self._key, self._worker)
