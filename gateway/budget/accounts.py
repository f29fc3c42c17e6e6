"""What a budget holds in Redis, and the Lua that all scripts share which change it.

An account is a hash of integers in nano-dollars, ``left + reserved + spent = limit``. Amounts cross Lua as decimal
strings, since its numbers are doubles: they add up by HINCRBY, or in Lua where each has at most fifteen digits (a
million dollars), so that no sum comes near 2^53; a command costs a script more than all arithmetic around it. A
calendar window has an account of its own, named after its start, so that nothing is ever reset. A rolling window keeps
what was spent by slices, which leave it one after the other.

An account is opened once a worker and window, and only while ``Keys.ceilings`` knows its budget: where Redis has lost
everything nothing is admitted on a fresh account before the background process has counted the ledger again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.budget import windows
from gateway.budget.levels import Account
from gateway.redis_io import Keys, RedisLink, Script

if TYPE_CHECKING:
    from redis.asyncio import Redis

_KEPT_MS = 26 * 3_600_000  # after its window: a lease, and the day in which a swept request may still be corrected

_COMMON = f"""
local function minus(amount)
  if string.sub(amount, 1, 1) == '-' then return string.sub(amount, 2) end
  return amount == '0' and '0' or '-' .. amount
end
local function add(key, field, amount)
  if amount ~= '0' then redis.call('HINCRBY', key, field, amount) end
end
-- Let slices go that lie wholly before a rolling window. Whether this one does not.
local function roll(key, slice)
  local at = redis.call('HGET', key, 'slice')
  if not at or tonumber(at) >= tonumber(slice) then
    return not at or tonumber(slice) >= tonumber(at) - {windows.SLICES}
  end
  redis.call('HSET', key, 'slice', slice)
  redis.call('PEXPIRE', key, redis.call('HGET', key, 'kept'))
  local oldest, held = tonumber(slice) - {windows.SLICES}, redis.call('HGETALL', key)
  for i = 1, #held, 2 do
    local number = tonumber(held[i])
    if number and number < oldest then
      add(key, 'left', held[i + 1])
      add(key, 'spent', minus(held[i + 1]))
      redis.call('HDEL', key, held[i])
    end
  end
  return true
end
"""

# Of the scripts that reserve.
HOLDING = (
    _COMMON
    + """
-- Hold ARGV[at], ARGV[at + 2] … of the accounts KEYS[first], KEYS[first + 1] …, of all or of none.
-- 0: held. Else what each has left (false: there is no such account) and which one is short.
local function hold(first, at, count)
  local short = 0
  for i = 0, count - 1 do
    local key, amount, slice = KEYS[first + i], ARGV[at + 2 * i], ARGV[at + 2 * i + 1]
    if slice ~= '' then roll(key, slice) end
    if amount ~= '0' and redis.call('HINCRBY', key, 'left', minus(amount)) < 0 then
      short = i + 1
      break
    end
  end
  if short == 0 then
    for i = 0, count - 1 do add(KEYS[first + i], 'reserved', ARGV[at + 2 * i]) end
    return 0
  end
  for i = 0, short - 1 do add(KEYS[first + i], 'left', ARGV[at + 2 * i]) end
  if redis.call('HEXISTS', KEYS[first + short - 1], 'limit') == 0 then redis.call('DEL', KEYS[first + short - 1]) end
  return short
end
local function lefts(first, at, count)
  local found = {}
  for i = 0, count - 1 do
    local key, slice = KEYS[first + i], ARGV[at + 2 * i + 1]
    if slice ~= '' then roll(key, slice) end
    found[i + 1] = redis.call('HGET', key, 'left')
  end
  return found
end
-- The first time a budget is too short for a request is an event.
local function tell_short(events, key, name)
  if redis.call('HSETNX', key, 'short', '1') == 1 then
    redis.call('XADD', events, 'MAXLEN', '~', 10000, '*', 'kind', 'exhausted', 'account', name,
      'spent', redis.call('HGET', key, 'spent'), 'limit', redis.call('HGET', key, 'limit'))
  end
end
"""
)

# Of those that settle.
CHARGING = (
    _COMMON
    + """
-- What was held for a request of one account goes back.
local function give_back(key, amount)
  if redis.call('HEXISTS', key, 'limit') == 1 then
    redis.call('HINCRBY', key, 'reserved', '-' .. amount)
    redis.call('HINCRBY', key, 'left', amount)
  end
end
-- '<account>=<amount>,<account>=<amount>' as a table.
local function holds(held)
  local found = {}
  for name, amount in string.gmatch(held, '([^=,]+)=(%d+)') do found[name] = amount end
  return found
end
local function charge(key, slice, amount)
  if amount == '0' or redis.call('HEXISTS', key, 'limit') == 0 then return 0 end
  if slice ~= '' then
    if not roll(key, slice) then return 0 end
    redis.call('HINCRBY', key, slice, amount)
  end
  redis.call('HINCRBY', key, 'left', minus(amount))
  return redis.call('HINCRBY', key, 'spent', amount)
end
-- Both at once, of an account that does not roll. Returns what is then spent.
local function close(key, held, cost)
  local now = redis.call('HMGET', key, 'limit', 'left', 'reserved', 'spent')
  if not now[1] then return 0 end
  if #now[1] > 15 or #now[2] > 15 or #now[3] > 15 or #now[4] > 15 or #held > 15 or #cost > 15 then
    if held ~= '0' then give_back(key, held) end
    return charge(key, '', cost)
  end
  local back, spend = tonumber(held), tonumber(cost)
  local spent = tonumber(now[4]) + spend
  redis.call('HSET', key, 'left', string.format('%.0f', tonumber(now[2]) + back - spend),
    'reserved', string.format('%.0f', tonumber(now[3]) - back), 'spent', string.format('%.0f', spent))
  return spend > 0 and spent or 0
end
-- An event for each amount of 'alerts' that is passed by spending this much more.
local function tell_passed(events, key, name, alerts, after, amount)
  local before = after - tonumber(amount)
  for at in string.gmatch(alerts, '%d+') do
    if before < tonumber(at) and after >= tonumber(at) then
      redis.call('XADD', events, 'MAXLEN', '~', 10000, '*', 'kind', 'threshold', 'account', name, 'at', at,
        'spent', redis.call('HGET', key, 'spent'), 'limit', redis.call('HGET', key, 'limit'))
    end
  end
end
"""
)

# Returns 1 where every account is there now, 0 where a budget is not known (yet).
OPEN = Script("""
for i = 1, #KEYS - 2 do
  if redis.call('HEXISTS', KEYS[i + 2], 'limit') == 0 then
    local at = 5 * i - 4
    local limit = redis.call('HGET', KEYS[1], ARGV[at])
    if not limit then return 0 end
    redis.call('HSET', KEYS[i + 2], 'left', limit, 'limit', limit, 'reserved', '0', 'spent', '0')
    if ARGV[at + 2] ~= '' then redis.call('HSET', KEYS[i + 2], 'slice', ARGV[at + 2], 'kept', ARGV[at + 3]) end
    if ARGV[at + 3] ~= '' then redis.call('PEXPIRE', KEYS[i + 2], ARGV[at + 3]) end
    redis.call('HSET', KEYS[2], ARGV[at + 1], ARGV[at + 4])
  end
end
return 1
""")

_SET_LIMIT = """
local old = redis.call('HGET', KEYS[1], 'limit')
if not old or old == ARGV[1] then return 0 end
redis.call('HINCRBY', KEYS[1], 'left', old == '0' and '0' or '-' .. old)
redis.call('HINCRBY', KEYS[1], 'left', ARGV[1])
redis.call('HSET', KEYS[1], 'limit', ARGV[1])
redis.call('HDEL', KEYS[1], 'short')
return 1
"""

# The ledger only lags: what it knows to be spent and the account does not, the account has lost.
_CATCH_UP = (
    CHARGING
    + """
local account = KEYS[2]
if redis.call('HEXISTS', account, 'limit') == 0 then
  redis.call('HSET', account, 'left', ARGV[5], 'limit', ARGV[5], 'reserved', '0', 'spent', '0')
  if ARGV[2] ~= '' then redis.call('HSET', account, 'slice', ARGV[2], 'kept', ARGV[3]) end
  if ARGV[3] ~= '' then redis.call('PEXPIRE', account, ARGV[3]) end
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[4])
end
for i = 6, #ARGV, 2 do
  local slice, known = ARGV[i], ARGV[i + 1]
  redis.call('HSET', account, 'lost', known)
  local counted = redis.call('HGET', account, slice == '' and 'spent' or slice) or '0'
  local lost = redis.call('HINCRBY', account, 'lost', minus(counted))
  if lost > 0 then charge(account, slice, redis.call('HGET', account, 'lost')) end
  redis.call('HDEL', account, 'lost')
end
"""
)

_STATE = Script(
    _COMMON
    + """
if ARGV[1] ~= '' then roll(KEYS[1], ARGV[1]) end
return redis.call('HMGET', KEYS[1], 'left', 'reserved', 'spent', 'limit')
"""
)


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of an account beside its amounts: ``Keys.accounts`` holds one for each."""

    budget: str
    subject: str
    since_ms: int
    until_ms: int | None = None


def open_call(keys: Keys, accounts: Sequence[Account], now_ms: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Keys and arguments of :data:`OPEN`."""
    args: list[str] = []
    for one in accounts:
        args += [one.budget, one.name, one.slice, _kept(one, now_ms), _about(one)]
    return (keys.ceilings, keys.accounts, *(keys.budget(one.name) for one in accounts)), tuple(args)


def _about(account: Account) -> str:
    since, until = account.since_ms, account.until_ms
    about = Opened(budget=account.budget, subject=account.subject, since_ms=since, until_ms=until)
    return msgspec.json.encode(about).decode()


def _kept(account: Account, now_ms: int) -> str:
    """How long an account outlives its last use, milliseconds; '' for ever."""
    if account.slice:
        return str(account.slice_ms * (windows.SLICES + 1) + _KEPT_MS)
    return "" if account.until_ms is None else str(max(1, account.until_ms + _KEPT_MS - now_ms))


async def open_accounts(link: RedisLink, keys: Keys, accounts: Sequence[Account], now_ms: int) -> bool:
    """Open those that are not. False: one belongs to a budget that Redis does not know.

    Raises:
        RedisAway
    """
    names, args = open_call(keys, accounts, now_ms)
    return bool(await link.run(OPEN, names, *args))


async def set_limit(redis: Redis, keys: Keys, budget_id: str, limit_nano: int) -> None:
    """Apply a changed limit to every open account of a budget."""
    names = [name for name, about in await opened(redis, keys) if about.budget == budget_id]
    for name in {budget_id, *names}:
        await redis.eval(_SET_LIMIT, 1, keys.budget(name), str(limit_nano))


async def opened(redis: Redis, keys: Keys) -> list[tuple[str, Opened]]:
    """Every account that has been opened, by name."""
    held: Any = await redis.hgetall(keys.accounts)
    return [(name.decode(), msgspec.json.decode(value, type=Opened)) for name, value in held.items()]


async def forget_ended(redis: Redis, keys: Keys) -> int:
    """Drop from the list what is there no more. Returns how many."""
    names = [name for name, _ in await opened(redis, keys)]
    pipe = redis.pipeline(transaction=False)
    for name in names:
        pipe.exists(keys.budget(name))
    gone = [name for name, there in zip(names, await pipe.execute(), strict=True) if not there]
    if gone:
        await redis.hdel(keys.accounts, *gone)
    return len(gone)


async def amounts(redis: Redis, keys: Keys, account: Account) -> dict[str, int]:
    """``left``, ``reserved``, ``spent`` and ``limit`` of an account, nano-dollars; {} for one that is not open."""
    return (await amounts_of(redis, keys, [account]))[0]


async def amounts_of(redis: Redis, keys: Keys, accounts: Sequence[Account]) -> list[dict[str, int]]:
    """The same of many, in one round trip."""
    pipe = redis.pipeline(transaction=False)
    for account in accounts:
        pipe.eval(_STATE.source, 1, keys.budget(account.name), account.slice)
    return [
        {} if None in values else dict(zip(("left", "reserved", "spent", "limit"), map(int, values), strict=True))
        for values in await pipe.execute()
    ]


async def catch_up(
    redis: Redis, keys: Keys, account: Account, limit_nano: int, spent: Mapping[str, int], now_ms: int
) -> None:
    """Make good what Redis has lost of an account: open it, and raise what it has spent to what the ledger knows.

    ``spent``: nano-dollars by slice, of which a window that does not roll has one, ''. Safe to call again, and on
    accounts in use.
    """
    args = [account.name, account.slice, _kept(account, now_ms), _about(account), str(limit_nano)]
    for slice_, nano in spent.items():
        args += [slice_, str(nano)]
    await redis.eval(_CATCH_UP, 2, keys.accounts, keys.budget(account.name), *args)
