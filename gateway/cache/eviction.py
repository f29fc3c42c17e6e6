"""Keeping the cache bounded: Redis runs with ``noeviction``, so the cache evicts its own entries, oldest end first."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gateway.redis_io import Keys

if TYPE_CHECKING:
    from redis.asyncio import Redis

_BATCH = 500

_DROP = """
local dropped = 0
for i = 2, #ARGV do
  local id = ARGV[i]
  local held = redis.call('HGET', KEYS[2], id)
  redis.call('ZREM', KEYS[1], id)
  if held then
    local bytes, partition = string.match(held, '^(%d+):(.*)$')
    redis.call('DECRBY', KEYS[3], bytes)
    redis.call('HDEL', KEYS[2], id)
    redis.call('DEL', ARGV[1] .. 'x:' .. id)
    if redis.call('HDEL', ARGV[1] .. 'v:' .. partition, id) == 1 then
      redis.call('XADD', KEYS[4], 'MAXLEN', '~', '20000', '*', 'drop', id, 'partition', partition)
    end
    dropped = dropped + 1
  end
end
return dropped
"""


async def drop(redis: Redis, ids: Sequence[Any], keys: Keys | None = None) -> int:
    """Remove entries by id, on every worker. Returns how many there were."""
    keys = keys or Keys()
    names = (keys.entries, keys.sizes, keys.bytes, keys.events)
    return int(await redis.eval(_DROP, len(names), *names, keys.prefix, *ids))


async def evict(redis: Redis, max_entries: int, max_bytes: int, keys: Keys | None = None) -> int:
    """Remove what has expired, then the entries closest to their end until both bounds hold. Returns how many."""
    keys = keys or Keys()
    removed = 0
    while expired := await redis.zrangebyscore(keys.entries, "-inf", int(time.time() * 1000), start=0, num=_BATCH):
        removed += await drop(redis, expired, keys)
    while await _over(redis, keys, max_entries, max_bytes):
        oldest = await redis.zrange(keys.entries, 0, _BATCH - 1)
        if not oldest:
            break
        excess = await redis.zcard(keys.entries) - max_entries
        removed += await drop(redis, oldest[: max(1, min(_BATCH, excess))], keys)
    return removed


async def _over(redis: Redis, keys: Keys, max_entries: int, max_bytes: int) -> bool:
    held = int(await redis.get(keys.bytes) or 0)
    return held > max_bytes or await redis.zcard(keys.entries) > max_entries
