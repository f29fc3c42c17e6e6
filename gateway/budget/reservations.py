"""Round trips 2 and 3: reserve the worst case, then settle what it really was; and the sweep after a crash.

A budget is a hash of three integers in nano-dollars, ``left + reserved + spent = limit``, changed by HINCRBY alone:
amounts cross Lua as decimal strings and only the sign of a sum is looked at, since Lua's numbers are doubles.
Settling is keyed by the request's intent: whoever deletes it counts it, so a lost reply or a replay counts once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gateway.budget.limits import LEASE_MS, Intent, intent_value
from gateway.redis_io import Keys, RedisLink, Script
from gateway.types import LedgerEntry, Principal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis.asyncio import Redis

_GRACE_MS = 4_000

RESERVE = Script("""
local amount = ARGV[3]
if ARGV[4] ~= '' then
  if redis.call('HEXISTS', KEYS[1], 'left') == 0 then
    redis.call('HSET', KEYS[1], 'left', ARGV[4], 'limit', ARGV[4], 'reserved', '0', 'spent', '0')
  end
  if amount ~= '0' then
    if redis.call('HINCRBY', KEYS[1], 'left', '-' .. amount) < 0 then
      redis.call('HINCRBY', KEYS[1], 'left', amount)
      return {0, redis.call('HGET', KEYS[1], 'left')}
    end
    redis.call('HINCRBY', KEYS[1], 'reserved', amount)
  end
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return {1, ''}
""")

# Returns 1 where this call counted the request, 0 where it had been counted before.
SETTLE = Script("""
local id, cost, entry = ARGV[1], ARGV[2], ARGV[3]
local intent = redis.call('HGET', KEYS[1], id)
local budgeted = ARGV[4] == '1'
local function add(field, amount)
  if amount ~= '0' and amount ~= '-0' then redis.call('HINCRBY', KEYS[2], field, amount) end
end
local function charge(given_back)
  if not budgeted then return end
  if redis.call('HEXISTS', KEYS[2], 'left') == 0 then return end
  add('left', given_back)
  add('left', '-' .. cost)
  add('spent', cost)
end
if intent then
  local reserved = string.match(intent, '^(%d+)|') or '0'
  redis.call('HDEL', KEYS[1], id)
  if budgeted then add('reserved', '-' .. reserved) end
  charge(reserved)
else
  local swept = redis.call('HGET', KEYS[5], id)
  if swept then
    redis.call('HDEL', KEYS[5], id)
    if budgeted then add('spent', '-' .. swept) end
    charge(swept)
  elseif ARGV[5] == '1' then
    return 0
  else
    if not redis.call('SET', KEYS[6], '1', 'NX', 'EX', 86400) then return 0 end
    charge('0')
  end
end
redis.call('ZREM', KEYS[3], id)
if ARGV[6] ~= '0' and redis.call('EXISTS', KEYS[7]) == 1 then
  redis.call('HINCRBYFLOAT', KEYS[7], 'tpm', '-' .. ARGV[6])
end
redis.call('XADD', KEYS[4], '*', 'e', entry)
if KEYS[8] then
  redis.call('SET', KEYS[8], ARGV[7], 'PX', ARGV[8])
  if ARGV[9] ~= '' then redis.call('SET', ARGV[9], ARGV[10], 'PX', ARGV[8]) end
  local old = redis.call('HGET', KEYS[10], ARGV[10])
  if old then redis.call('DECRBY', KEYS[11], string.match(old, '^(%d+):')) end
  redis.call('HSET', KEYS[10], ARGV[10], #ARGV[7] .. ':' .. ARGV[11])
  redis.call('INCRBY', KEYS[11], #ARGV[7])
  redis.call('ZADD', KEYS[9], ARGV[12], ARGV[10])
end
return 1
""")

_REBUILD = """
if redis.call('HEXISTS', KEYS[1], 'checked') == 1 then return 0 end
if redis.call('HEXISTS', KEYS[1], 'left') == 0 then
  redis.call('HSET', KEYS[1], 'left', ARGV[1], 'limit', ARGV[1], 'reserved', '0', 'spent', '0')
end
local spent = redis.call('HGET', KEYS[1], 'spent')
redis.call('HSET', KEYS[1], 'checked', ARGV[2])
local missing = redis.call('HINCRBY', KEYS[1], 'checked', spent == '0' and '0' or '-' .. spent)
if missing > 0 then
  local amount = redis.call('HGET', KEYS[1], 'checked')
  redis.call('HINCRBY', KEYS[1], 'spent', amount)
  redis.call('HINCRBY', KEYS[1], 'left', '-' .. amount)
end
redis.call('HSET', KEYS[1], 'checked', '1')
return 1
"""

_SWEEP = Script("""
local intent = redis.call('HGET', KEYS[1], ARGV[1])
if not intent or intent ~= ARGV[2] then return 0 end
local reserved = string.match(intent, '^(%d+)|') or '0'
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
if reserved ~= '0' and redis.call('HEXISTS', KEYS[2], 'reserved') == 1 then
  redis.call('HINCRBY', KEYS[2], 'reserved', '-' .. reserved)
  redis.call('HINCRBY', KEYS[2], 'spent', reserved)
end
redis.call('HSET', KEYS[5], ARGV[1], reserved)
redis.call('EXPIRE', KEYS[5], 86400)
redis.call('XADD', KEYS[4], '*', 'e', ARGV[3])
return 1
""")


class CacheWrite(msgspec.Struct, frozen=True, kw_only=True):
    """An answer to store in the same call that settles its request. ``expires_ms`` is epoch milliseconds."""

    digest: str
    normal: str | None
    partition: str
    value: bytes
    ttl_ms: int
    expires_ms: int


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """All that settling needs; this is also what is spooled to disk while Redis is away.

    ``intent`` says whether trip 1 wrote one (else a replay is told apart by a marker); ``tokens`` are still to be
    charged to the key's TPM bucket.
    """

    entry: LedgerEntry
    budgeted: bool
    intent: bool
    tokens: int = 0
    store: CacheWrite | None = None


async def reserve(
    link: RedisLink,
    keys: Keys,
    principal: Principal,
    request_id: str,
    intent: Intent,
    *,
    add_nano: int,
    total_nano: int,
) -> bool:
    """Take ``add_nano`` more from the budget, ``total_nano`` in all for this request; False: not enough is left.

    Raises:
        RedisAway
    """
    budget = "" if principal.budget_nano is None else str(principal.budget_nano)
    reply = await link.run(
        RESERVE,
        (keys.budget(principal.key_id), keys.intents),
        request_id,
        intent_value(intent, total_nano),
        str(add_nano),
        budget,
    )
    return bool(reply[0])


async def settle(link: RedisLink, keys: Keys, settlement: Settlement) -> bool:
    """Count a request once: budget, limits, ledger row and stored answer in one call. False: it had been counted.

    Raises:
        RedisAway
    """
    names, args = settle_call(keys, settlement)
    return bool(await link.run(SETTLE, names, *args, patient=True))


def settle_call(keys: Keys, settlement: Settlement) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """Keys and arguments of :data:`SETTLE` for a settlement."""
    entry, store = settlement.entry, settlement.store
    names: tuple[str, ...] = (
        keys.intents,
        keys.budget(entry.key_id),
        keys.running(entry.key_id),
        keys.ledger,
        keys.swept,
        keys.once(entry.request_id),
        keys.limits(entry.key_id),
    )
    args: tuple[Any, ...] = (
        entry.request_id,
        str(entry.cost_nano),
        msgspec.json.encode(entry),
        "1" if settlement.budgeted else "0",
        "1" if settlement.intent else "0",
        str(settlement.tokens),
    )
    if store is not None:
        names += (keys.exact(store.digest), keys.entries, keys.sizes, keys.bytes)
        normal = keys.normal(store.normal) if store.normal else ""
        args += (store.value, str(store.ttl_ms), normal, store.digest, store.partition, str(store.expires_ms))
    return names, args


async def sweep(redis: Redis, now_ms: int, keys: Keys | None = None) -> int:
    """Turn what workers that are gone left behind, or what outlived its lease, into ``crashed`` rows.

    They are charged at the reservation. Returns how many there were.
    """
    keys = keys or Keys()
    swept, alive = 0, dict[str, bool]()
    async for field, value in redis.hscan_iter(keys.intents, count=500):
        _, _, payload = bytes(value).partition(b"|")
        intent = msgspec.json.decode(payload, type=Intent)
        if intent.worker not in alive:
            alive[intent.worker] = not await _gone(redis, keys, intent.worker, now_ms)
        if not alive[intent.worker] or intent.ts_ms < now_ms - LEASE_MS:
            swept += await _sweep_one(redis, keys, field.decode(), bytes(value), intent, now_ms)
    return swept


async def _gone(redis: Redis, keys: Keys, worker: str, now_ms: int) -> bool:
    """Whether a worker's heartbeat has been missing for a while: Redis may only just have come back itself."""
    if await redis.exists(keys.alive(worker)):
        await redis.delete(keys.missing(worker))
        return False
    await redis.set(keys.missing(worker), now_ms, nx=True, px=60_000)
    first: Any = await redis.get(keys.missing(worker))
    return first is not None and now_ms - int(first) >= _GRACE_MS


async def _sweep_one(redis: Redis, keys: Keys, request_id: str, value: bytes, intent: Intent, now_ms: int) -> int:
    reserved = int(value.partition(b"|")[0])
    entry = LedgerEntry(
        request_id=request_id,
        ts_ms=intent.ts_ms,
        key_id=intent.key_id,
        team=intent.team,
        policy=intent.policy,
        rule=intent.rule,
        requested_model=intent.requested,
        model=intent.model,
        status="crashed",
        http_status=0,
        error="the worker died",
        cost_nano=reserved,
        reserved_nano=reserved,
        usage_source="estimated" if reserved else "none",
        price_source=intent.price_source,
        price_date=intent.price_date,
        duration_ms=float(max(0, now_ms - intent.ts_ms)),
    )
    names = (keys.intents, keys.budget(intent.key_id), keys.running(intent.key_id), keys.ledger, keys.swept)
    args = (request_id, value, msgspec.json.encode(entry))
    return int(await redis.eval(_SWEEP.source, len(names), *names, *args))


async def rebuild_budget(redis: Redis, record: Mapping[str, Any], spent_nano: int, keys: Keys | None = None) -> None:
    """Make good what Redis has lost of a key's budget: its limit from the definition, its spend from the ledger.

    Safe to call again, and on counters in use: they are checked against the ledger once, since the ledger only lags.
    """
    limit = record.get("budget_nano")
    if limit is not None:
        name = (keys or Keys()).budget(str(record["id"]))
        await redis.eval(_REBUILD, 1, name, str(limit), str(spent_nano))
