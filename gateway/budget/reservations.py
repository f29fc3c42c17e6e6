"""Round trips 2 and 3: reserve the worst case, then settle what it really was; and the sweep after a crash.

Settling is keyed by the request's intent: whoever deletes it counts it, so a lost reply or a replay counts once. What
the intent says was held goes back, whatever the worker believes; what the request cost is charged to the accounts that
it was admitted on, in the windows it came in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gateway.budget.accounts import CHARGING, HOLDING
from gateway.budget.levels import Account
from gateway.budget.limits import LEASE_MS, Hold, Intent
from gateway.redis_io import Keys, RedisLink, Script
from gateway.types import Content, LedgerEntry

if TYPE_CHECKING:
    from redis.asyncio import Redis

_GRACE_MS = 4_000

# Returns 0 where it is held, else which account is short and what each has left.
RESERVE = Script(
    HOLDING
    + """
local count, first, at = #KEYS - 2, 3, 4
local short = hold(first, at, count)
if short == 0 then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  return {0, {}}
end
local left = lefts(first, at, count)
if left[short] then tell_short(KEYS[2], KEYS[first + short - 1], string.sub(KEYS[first + short - 1], #ARGV[3] + 1)) end
return {short, left}
"""
)

_SETTLE = """
local id, cost, prefix = ARGV[1], ARGV[2], ARGV[6]
local levels, accounts = tonumber(ARGV[7]), tonumber(ARGV[8])
local intent, held = redis.call('HGET', KEYS[1], id), {}
if intent then
  redis.call('HDEL', KEYS[1], id)
  local parts = string.match(intent, '^%d+|([^|]*)|')
  if parts and parts ~= '' then held = holds(parts) end
else
  local swept = redis.call('HGET', KEYS[2], id)
  if swept then
    redis.call('HDEL', KEYS[2], id)
    local charged, names = string.match(swept, '^(%d+)|(.*)$')
    for name, slice in string.gmatch(names, '([^=,]+)=(%d*)') do charge(prefix .. name, slice, minus(charged)) end
  elseif ARGV[4] == '1' or not redis.call('SET', KEYS[4], '1', 'NX', 'EX', 86400) then
    return 0
  end
end
local first, at = 6, 10
for i = 0, levels - 1 do
  redis.call('ZREM', KEYS[first + 2 * i + 1], id)
  if ARGV[5] ~= '0' and ARGV[at + i] == '1' and redis.call('EXISTS', KEYS[first + 2 * i]) == 1 then
    redis.call('HINCRBYFLOAT', KEYS[first + 2 * i], 'tpm', '-' .. ARGV[5])
  end
end
first, at = first + 2 * levels, at + levels
for i = 0, accounts - 1 do
  local name, slice, alerts = ARGV[at + 3 * i], ARGV[at + 3 * i + 1], ARGV[at + 3 * i + 2]
  local after, back = 0, held[name] or '0'
  held[name] = nil
  if slice == '' then
    if back ~= '0' or cost ~= '0' then after = close(KEYS[first + i], back, cost) end
  else
    if back ~= '0' then give_back(KEYS[first + i], back) end
    after = charge(KEYS[first + i], slice, cost)
  end
  if alerts ~= '' and after > 0 then tell_passed(KEYS[5], KEYS[first + i], name, alerts, after, cost) end
end
for name, amount in pairs(held) do give_back(prefix .. name, amount) end
if ARGV[9] == '' then
  redis.call('XADD', KEYS[3], '*', 'e', ARGV[3])
else
  redis.call('XADD', KEYS[3], '*', 'e', ARGV[3], 'c', ARGV[9])
end
first, at = first + accounts, at + 3 * accounts
if KEYS[first] then
  local value, ttl, normal, digest = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  redis.call('SET', KEYS[first], value, 'PX', ttl)
  if normal ~= '' then redis.call('SET', normal, digest, 'PX', ttl) end
  local old = redis.call('HGET', KEYS[first + 2], digest)
  if old then redis.call('DECRBY', KEYS[first + 3], string.match(old, '^(%d+):')) end
  redis.call('HSET', KEYS[first + 2], digest, #value .. ':' .. ARGV[at + 4])
  redis.call('INCRBY', KEYS[first + 3], #value)
  redis.call('ZADD', KEYS[first + 1], ARGV[at + 5], digest)
  redis.call('ZADD', KEYS[first + 4], ARGV[at + 6], digest)
end
return 1
"""
# Returns 1 where this call counted the request, 0 where it had been counted before.
SETTLE = Script(CHARGING + _SETTLE)
SETTLE_UNLIMITED = Script(_SETTLE)

_SWEEP = Script(
    CHARGING
    + """
local id, prefix = ARGV[1], ARGV[4]
local intent = redis.call('HGET', KEYS[1], id)
if not intent or intent ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], id)
local total, held = string.match(intent, '^(%d+)|([^|]*)|')
total = total or '0'
for name, amount in pairs(holds(held or '')) do give_back(prefix .. name, amount) end
local charged = ''
local running = tonumber(ARGV[5])
for i = 1, running do redis.call('ZREM', KEYS[4 + i], id) end
for i = 6, #ARGV, 3 do
  local key = prefix .. ARGV[i]
  local after = charge(key, ARGV[i + 1], total)
  if ARGV[i + 2] ~= '' and after > 0 then tell_passed(KEYS[4], key, ARGV[i], ARGV[i + 2], after, total) end
  charged = charged .. ARGV[i] .. '=' .. ARGV[i + 1] .. ','
end
redis.call('HSET', KEYS[2], id, total .. '|' .. charged)
redis.call('EXPIRE', KEYS[2], 86400)
redis.call('XADD', KEYS[3], '*', 'e', ARGV[3])
return 1
"""
)


class CacheWrite(msgspec.Struct, frozen=True, kw_only=True):
    """An answer to store in the same call that settles its request. ``expires_ms`` is epoch milliseconds.

    ``worth``: the least goes first where there is no room (:mod:`gateway.cache.eviction`).
    """

    digest: str
    normal: str | None
    partition: str
    value: bytes
    ttl_ms: int
    expires_ms: int
    worth: float = 0.0


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """All that settling needs; this is also what is spooled to disk while Redis is away.

    ``intent`` says whether trip 1 wrote one (else a replay is told apart by a marker). ``charges``: name, slice and
    alerts of each account the cost is charged to. ``rates``: counters of limits by name, and whether tokens are among
    them, to which ``tokens`` are still to be charged. ``content`` travels in one message with the row.
    """

    entry: LedgerEntry
    intent: bool
    charges: tuple[tuple[str, str, str], ...] = ()
    rates: tuple[tuple[str, bool], ...] = ()
    tokens: int = 0
    store: CacheWrite | None = None
    content: Content | None = None


class Short(msgspec.Struct, frozen=True):
    """Which account has too little left, and what each account of the hold has (nano-dollars).

    ``account`` is None where one of them is not open: nothing is known.
    """

    account: Account | None
    left: tuple[tuple[Account, int], ...] = ()


def charged_to(*accounts: Account) -> tuple[tuple[str, str, str], ...]:
    """Accounts as a settlement names them."""
    return tuple((account.name, account.slice, account.alerts) for account in accounts)


async def reserve(
    link: RedisLink, keys: Keys, request_id: str, intent: Intent, *, add: Hold, total: Hold
) -> Short | None:
    """Take ``add`` more, ``total`` in all for this request, from every account or from none. None: it is held.

    Raises:
        RedisAway
    """
    value = total.value + msgspec.json.encode(intent)
    if not add.parts:
        await link.call("HSET", keys.intents, request_id, value)
        return None
    names: list[str] = [keys.intents, keys.alerts]
    args: list[str] = []
    for account, amount in add.parts:
        names.append(keys.budget(account.name))
        args += (str(amount), account.slice)
    short, left = await link.run(RESERVE, tuple(names), request_id, value, keys.budget(""), *args)
    if not short:
        return None
    if None in left:
        return Short(None)
    told = tuple((account, int(nano)) for (account, _), nano in zip(add.parts, left, strict=True))
    return Short(add.parts[short - 1][0], told)


async def settle(link: RedisLink, keys: Keys, settlement: Settlement) -> bool:
    """Count a request once: budgets, limits, ledger row and stored answer in one call. False: it had been counted.

    Raises:
        RedisAway
    """
    script, names, args = settle_call(keys, settlement)
    return bool(await link.run(script, names, *args, patient=True))


def settle_call(keys: Keys, settlement: Settlement) -> tuple[Script, tuple[str, ...], tuple[Any, ...]]:
    """The script that settles, its keys and its arguments."""
    entry, store = settlement.entry, settlement.store
    names = [keys.intents, keys.swept, keys.ledger, keys.once(entry.request_id), keys.alerts]
    args: list[Any] = [
        entry.request_id,
        str(entry.cost_nano),
        msgspec.json.encode(entry),
        "1" if settlement.intent else "0",
        str(settlement.tokens),
        keys.budget(""),
        str(len(settlement.rates)),
        str(len(settlement.charges)),
        msgspec.msgpack.encode(settlement.content) if settlement.content is not None else "",
    ]
    for name, has_tokens in settlement.rates:
        names += (keys.limits(name), keys.running(name))
        args.append("1" if has_tokens else "0")
    for charge in settlement.charges:
        names.append(keys.budget(charge[0]))
        args += charge
    if store is not None:
        names += (keys.exact(store.digest), keys.entries, keys.sizes, keys.bytes, keys.worth)
        normal = keys.normal(store.normal) if store.normal else ""
        args += (store.value, str(store.ttl_ms), normal, store.digest, store.partition, str(store.expires_ms))
        args.append(repr(store.worth))
    unlimited = not settlement.charges and not settlement.rates
    return SETTLE_UNLIMITED if unlimited else SETTLE, tuple(names), tuple(args)


async def sweep(redis: Redis, now_ms: int, keys: Keys | None = None) -> int:
    """Turn what workers that are gone left behind, or what outlived its lease, into ``crashed`` rows.

    They are charged at the reservation. Returns how many there were.
    """
    keys = keys or Keys()
    swept, alive = 0, dict[str, bool]()
    async for field, value in redis.hscan_iter(keys.intents, count=500):
        intent = msgspec.json.decode(bytes(value)[value.index(b"{") :], type=Intent)
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
        organisation=intent.organisation,
        key_id=intent.key_id,
        team=intent.team,
        project=intent.project,
        end_user=intent.end_user,
        tags=intent.tags,
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
    names = [keys.intents, keys.swept, keys.ledger, keys.alerts, *(keys.running(name) for name in intent.running)]
    args: list[bytes | str] = [request_id, value, msgspec.json.encode(entry), keys.budget(""), str(len(intent.running))]
    for charge in intent.charges:
        args += charge
    return int(await redis.eval(_SWEEP.source, len(names), *names, *args))
