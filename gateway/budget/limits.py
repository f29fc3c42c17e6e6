"""Round trip 1: rate limits, concurrency, the state of the budget, and the exact cache, in one Lua call.

Where the decision could be made before (no stored answer is expected, and no embedding could change it), the worst case
is reserved in the same call, unless an answer is found after all; trip 2 is then not needed.

RPM and TPM are token buckets of one minute's capacity, as OpenAI's own limits behave: ``remaining`` is what the bucket
holds, ``reset`` the time until it is full again. TPM admits a prompt that the bucket holds (one above its capacity when
it is full) and charges it; the answer's tokens are charged when it is settled, so a bucket may run into debt.
Concurrency is a sorted set of request ids with lease ends, so what a crashed worker held comes back by itself.
"""

from __future__ import annotations

import msgspec

from gateway.redis_io import Keys, RedisLink, Script
from gateway.types import Principal

LEASE_MS = 3_600_000

ADMIT = Script("""
local now, id = tonumber(ARGV[1]), ARGV[2]
local rpm, tpm, most = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local tokens = tonumber(ARGV[7])
local reply = {'ok', 0, '', '', '', '', '', false, ''}

local function bucket(name, capacity)
  local held = redis.call('HMGET', KEYS[1], name, name .. '_at')
  local level, at = tonumber(held[1]) or capacity, tonumber(held[2]) or now
  return math.min(capacity, level + math.max(0, now - at) * capacity / 60000)
end
local function refuse(why, wait)
  reply[1], reply[2] = why, math.max(1, math.ceil(wait))
  return reply
end

if most > 0 and redis.call('ZCARD', KEYS[2]) >= most then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  if redis.call('ZCARD', KEYS[2]) >= most then return refuse('concurrency', 1000) end
end
local requests = rpm > 0 and bucket('rpm', rpm) or 0
local spare = tpm > 0 and bucket('tpm', tpm) or 0
if rpm > 0 then
  reply[3], reply[4] = math.max(0, math.floor(requests)), math.ceil((rpm - requests) * 60000 / rpm)
end
if tpm > 0 then
  reply[5], reply[6] = math.max(0, math.floor(spare)), math.ceil((tpm - spare) * 60000 / tpm)
end
if rpm > 0 and requests < 1 then return refuse('rpm', (1 - requests) * 60000 / rpm) end
if tpm > 0 and spare < math.min(tokens, tpm) then
  return refuse('tpm', (math.min(tokens, tpm) - spare) * 60000 / tpm)
end
local kept = {}
local function keep(name, level)
  kept[#kept + 1], kept[#kept + 2] = name, string.format('%.3f', level)
  kept[#kept + 1], kept[#kept + 2] = name .. '_at', ARGV[1]
end
if rpm > 0 then
  keep('rpm', requests - 1)
  reply[3], reply[4] = math.floor(requests - 1), math.ceil((rpm - requests + 1) * 60000 / rpm)
end
if tpm > 0 then
  keep('tpm', spare - tokens)
  reply[5], reply[6] = math.max(0, math.floor(spare - tokens)), math.ceil((tpm - spare + tokens) * 60000 / tpm)
end
if #kept > 0 then
  redis.call('HSET', KEYS[1], unpack(kept))
  redis.call('PEXPIRE', KEYS[1], tpm > 0 and 86400000 or 120000)
end
if most > 0 then
  redis.call('ZADD', KEYS[2], now + tonumber(ARGV[8]), id)
  redis.call('PEXPIRE', KEYS[2], ARGV[8])
end
if KEYS[5] then
  reply[8] = redis.call('GET', KEYS[5])
  if not reply[8] and KEYS[6] then
    local same = redis.call('GET', KEYS[6])
    if same then reply[8] = redis.call('GET', ARGV[10] .. same) end
  end
end

if ARGV[9] ~= '' then
  local held = redis.call('HMGET', KEYS[3], 'left', 'limit')
  if not held[1] then
    reply[7] = ARGV[9]
  else
    if held[2] ~= ARGV[9] then
      redis.call('HINCRBY', KEYS[3], 'left', held[2] == '0' and '0' or '-' .. held[2])
      redis.call('HINCRBY', KEYS[3], 'left', ARGV[9])
      redis.call('HSET', KEYS[3], 'limit', ARGV[9])
    end
    reply[7] = redis.call('HGET', KEYS[3], 'left')
  end
end

local amount = ARGV[11]
if amount ~= '' and not reply[8] then
  reply[9] = '1'
  if ARGV[9] ~= '' and amount ~= '0' then
    if redis.call('HEXISTS', KEYS[3], 'left') == 0 then
      redis.call('HSET', KEYS[3], 'left', ARGV[9], 'limit', ARGV[9], 'reserved', '0', 'spent', '0')
    end
    if redis.call('HINCRBY', KEYS[3], 'left', '-' .. amount) < 0 then
      redis.call('HINCRBY', KEYS[3], 'left', amount)
      reply[9] = '0'
    else
      redis.call('HINCRBY', KEYS[3], 'reserved', amount)
    end
  end
end
redis.call('HSET', KEYS[4], id, (reply[9] == '1' and amount or '0') .. '|' .. ARGV[3])
return reply
""")


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """What trip 1 said. ``refused``: '' or which limit stopped the request (rpm, tpm, concurrency).

    ``budget_left`` is None without a budget, else nano-dollars (may be negative); ``reset`` values are seconds;
    ``stored`` is the exact cache's value; ``reserved`` says whether the amount asked for was granted, None where none
    was or an answer was found; ``known`` is False where Redis was away and nothing was checked.
    """

    refused: str = ""
    retry_after: float = 0.0
    requests_left: int | None = None
    requests_reset: float = 0.0
    tokens_left: int | None = None
    tokens_reset: float = 0.0
    budget_left: int | None = None
    stored: bytes | None = None
    reserved: bool | None = None
    known: bool = True


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an admitted request, should its worker die before it is settled."""

    worker: str
    key_id: str
    ts_ms: int
    team: str = ""
    policy: str = ""
    rule: str = ""
    model: str = ""
    requested: str = ""
    price_source: str = ""
    price_date: str = ""


def intent_value(intent: Intent, reserved_nano: int = 0) -> bytes:
    """``<reserved>|<json>``: the amount stands in front so that Lua can give it back without parsing JSON."""
    return b"%d|%b" % (reserved_nano, msgspec.json.encode(intent))


async def admit(
    link: RedisLink,
    keys: Keys,
    principal: Principal,
    request_id: str,
    intent: Intent,
    *,
    tokens: int,
    exact: str | None = None,
    normal: str | None = None,
    reserve_nano: int | None = None,
) -> Admission:
    """Check limits, write the intent, look the answer up under its exact and normalised digests, and reserve.

    Raises:
        RedisAway
    """
    names: tuple[str, ...] = (
        keys.limits(principal.key_id),
        keys.running(principal.key_id),
        keys.budget(principal.key_id),
        keys.intents,
    )
    if exact is not None:
        names += (keys.exact(exact),) if normal is None else (keys.exact(exact), keys.normal(normal))
    budget = "" if principal.budget_nano is None else str(principal.budget_nano)
    reply = await link.run(
        ADMIT,
        names,
        str(intent.ts_ms),
        request_id,
        msgspec.json.encode(intent),
        str(principal.rpm or 0),
        str(principal.tpm or 0),
        str(principal.concurrency or 0),
        str(tokens),
        str(LEASE_MS),
        budget,
        keys.exact(""),
        "" if reserve_nano is None else str(reserve_nano),
    )
    return _admission(reply)


def _admission(reply: list[object]) -> Admission:
    verdict, wait, requests, requests_reset, tokens, tokens_reset, left, stored, reserved = reply
    return Admission(
        refused="" if verdict == b"ok" else _text(verdict),
        retry_after=_number(wait) / 1000,
        requests_left=None if requests == b"" else _number(requests),
        requests_reset=_number(requests_reset) / 1000,
        tokens_left=None if tokens == b"" else _number(tokens),
        tokens_reset=_number(tokens_reset) / 1000,
        budget_left=None if left == b"" else _number(left),
        stored=stored if isinstance(stored, bytes) else None,
        reserved=None if reserved == b"" else reserved == b"1",
    )


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _number(value: object) -> int:
    return int(value or 0) if isinstance(value, int | bytes | str) else 0
