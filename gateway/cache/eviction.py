"""Keeping the cache bounded: Redis runs with ``noeviction``, so the cache evicts its own entries.

What has expired goes first, then what is worth least: what its uses have saved ÷ the bytes it holds, where a use counts
half as much every six hours (LRFU, Lee et al., IEEE Transactions on Computers 2001, aware of cost as GreedyDual-Size,
Cao and Irani, USITS 1997). Being stored is the first use. Kept as log2, so that time passing changes no order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gateway.redis_io import Keys
from gateway.types import HOUR_MS

if TYPE_CHECKING:
    from redis.asyncio import Redis

HALF_LIFE_MS = 6 * HOUR_MS
LEAST_NANO = 1_000
"""What a use saves at least, in nano-dollars: also where nothing has a price, somebody did not have to wait."""
_BATCH = 500
_SAMPLE = 50

_DROP = """
local dropped = 0
for i = 2, #ARGV do
  local id = ARGV[i]
  local held = redis.call('HGET', KEYS[2], id)
  redis.call('ZREM', KEYS[1], id)
  redis.call('ZREM', KEYS[5], id)
  redis.call('ZREM', KEYS[6], id)
  redis.call('HDEL', KEYS[7], id)
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


def worth(saving_nano: int, size: int, now_ms: int) -> float:
    """Of an entry of ``size`` bytes that is stored now and saves so much each time it is used."""
    return math.log2(max(LEAST_NANO, saving_nano) / max(1, size)) + now_ms / HALF_LIFE_MS


async def drop(redis: Redis, ids: Sequence[Any], keys: Keys | None = None) -> int:
    """Remove entries by id, on every worker. Returns how many there were."""
    keys = keys or Keys()
    names = (keys.entries, keys.sizes, keys.bytes, keys.events, keys.worth, keys.saved, keys.hits)
    return int(await redis.eval(_DROP, len(names), *names, keys.prefix, *ids))


async def evict(redis: Redis, max_entries: int, max_bytes: int, keys: Keys | None = None) -> int:
    """Remove what has expired, then what is worth least until both bounds hold. Returns how many."""
    keys = keys or Keys()
    removed = await _drop_lost(redis, keys)
    while expired := await redis.zrangebyscore(keys.entries, "-inf", int(time.time() * 1000), start=0, num=_BATCH):
        removed += await drop(redis, expired, keys)
    while await _over(redis, keys, max_entries, max_bytes):
        least = await redis.zrange(keys.worth, 0, _BATCH - 1) or await redis.zrange(keys.entries, 0, _BATCH - 1)
        if not least:
            break
        excess = await redis.zcard(keys.entries) - max_entries
        removed += await drop(redis, least[: max(1, min(_BATCH, excess))], keys)
    return removed


async def _over(redis: Redis, keys: Keys, max_entries: int, max_bytes: int) -> bool:
    held = int(await redis.get(keys.bytes) or 0)
    return held > max_bytes or await redis.zcard(keys.entries) > max_entries


async def _drop_lost(redis: Redis, keys: Keys) -> int:
    """Entries whose answers somebody deleted behind our back: looked for where a sample shows that there are any."""
    sample: Any = await redis.zrandmember(keys.entries, _SAMPLE)
    if not sample or not await _lost(redis, keys, sample):
        return 0
    dropped, cursor = 0, -1
    while cursor:
        found: Any
        cursor, found = await redis.zscan(keys.entries, max(0, cursor), count=_BATCH)
        if gone := await _lost(redis, keys, [entry_id for entry_id, _ in found]):
            dropped += await drop(redis, gone, keys)
    return dropped


async def _lost(redis: Redis, keys: Keys, ids: Sequence[bytes]) -> list[bytes]:
    pipe = redis.pipeline(transaction=False)
    for entry_id in ids:
        pipe.exists(keys.exact(entry_id.decode()))
    return [entry_id for entry_id, there in zip(ids, await pipe.execute(), strict=True) if not there]
