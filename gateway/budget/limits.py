"""Round trip 1: rate limits, concurrency, the state of the budgets, and the exact cache, in one Lua call.

Where the decision could be made before (no stored answer is expected, and no embedding could change it), the worst case
is reserved in the same call, unless an answer is found after all; trip 2 is then not needed.

RPM and TPM are token buckets of one minute's capacity, as OpenAI's own limits behave: ``remaining`` is what the bucket
holds, ``reset`` the time until it is full again. TPM admits a prompt that the bucket holds (one above its capacity when
it is full) and charges it; the answer's tokens are charged when it is settled, so a bucket may run into debt.
Concurrency is a sorted set of request ids with lease ends, so what a crashed worker held comes back by itself. All
levels that apply must pass; the one that takes longest is what a refused client is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway.budget.accounts import HOLDING
from gateway.budget.levels import Account, Levels, Rate
from gateway.redis_io import Keys, RedisLink, Script

LEASE_MS = 3_600_000
MISSING = "missing"
_KINDS = ("rpm", "tpm", "concurrency")

# Of a request that nothing limits.
LOOK_UP = Script("""
local stored = redis.call('GET', KEYS[2])
if not stored and KEYS[3] then
  local same = redis.call('GET', KEYS[3])
  if same then stored = redis.call('GET', ARGV[4] .. same) end
end
redis.call('HSET', KEYS[1], ARGV[1], (stored and '0||' or ARGV[3]) .. ARGV[2])
return stored
""")

ADMIT = Script(
    HOLDING
    + """
local now, id, tokens, lease = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[4]), ARGV[5]
local levels, accounts, held = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
local first, at = 3 + 2 * levels, 10 + 3 * levels
local found, answer = {}, first + accounts

local function bucket(level, since, capacity)
  return math.min(capacity, (level or capacity) + math.max(0, now - (since or now)) * capacity / 60000)
end
local function tell(i, name, capacity, level)
  found[4 * i + name], found[4 * i + name + 1] =
    math.max(0, math.floor(level)), math.ceil((capacity - level) * 60000 / capacity)
end

local worst, why, which = 0, 0, 0
local function refuse(i, kind, wait)
  wait = math.max(1, math.ceil(wait))
  if wait > worst then worst, why, which = wait, kind, i + 1 end
end
local holds = {}
for i = 0, levels - 1 do
  local key, running = KEYS[3 + 2 * i], KEYS[4 + 2 * i]
  local rpm, tpm, most = tonumber(ARGV[10 + 3 * i]), tonumber(ARGV[11 + 3 * i]), tonumber(ARGV[12 + 3 * i])
  for j = 1, 4 do found[4 * i + j] = -1 end
  if most > 0 and redis.call('ZCARD', running) >= most then
    redis.call('ZREMRANGEBYSCORE', running, '-inf', now)
    if redis.call('ZCARD', running) >= most then refuse(i, 3, 1000) end
  end
  local requests, spare, kept = 0, 0, {}
  if rpm > 0 or tpm > 0 then kept = redis.call('HMGET', key, 'rpm', 'rpm_at', 'tpm', 'tpm_at') end
  if rpm > 0 then
    requests = bucket(tonumber(kept[1]), tonumber(kept[2]), rpm)
    tell(i, 1, rpm, requests)
    if requests < 1 then refuse(i, 1, (1 - requests) * 60000 / rpm) end
  end
  if tpm > 0 then
    spare = bucket(tonumber(kept[3]), tonumber(kept[4]), tpm)
    tell(i, 3, tpm, spare)
    if spare < math.min(tokens, tpm) then refuse(i, 2, (math.min(tokens, tpm) - spare) * 60000 / tpm) end
  end
  holds[i + 1] = {rpm, tpm, most, requests, spare, tonumber(kept[2]) or tonumber(kept[4]) or 0}
end
if worst > 0 then return {why, which, worst, false, 0, {}, found} end

local stored = false
if KEYS[answer] then
  stored = redis.call('GET', KEYS[answer])
  if not stored and KEYS[answer + 1] then
    local same = redis.call('GET', KEYS[answer + 1])
    if same then stored = redis.call('GET', ARGV[9] .. same) end
  end
end
local short, left = -1, {}
if held ~= '' and not stored then
  short = hold(first, at, accounts)
  if short > 0 and redis.call('EXISTS', KEYS[first + short - 1]) == 1 then
    tell_short(KEYS[2], KEYS[first + short - 1], string.sub(KEYS[first + short - 1], #ARGV[at + 2 * accounts] + 1))
  end
end
if short ~= 0 and accounts > 0 then
  left = lefts(first, at, accounts)
  for i = 1, accounts do
    if not left[i] then return {4, i, 0, false, 0, {}, {}} end
  end
end

for i = 0, levels - 1 do
  local key, running, now_ = KEYS[3 + 2 * i], KEYS[4 + 2 * i], holds[i + 1]
  local rpm, tpm, requests, spare = now_[1], now_[2], now_[4], now_[5]
  local put = {}
  if rpm > 0 then
    put = {'rpm', string.format('%.3f', requests - 1), 'rpm_at', ARGV[1]}
    tell(i, 1, rpm, requests - 1)
  end
  if tpm > 0 then
    put[#put + 1], put[#put + 2] = 'tpm', string.format('%.3f', spare - tokens)
    put[#put + 1], put[#put + 2] = 'tpm_at', ARGV[1]
    tell(i, 3, tpm, spare - tokens)
  end
  if #put > 0 then
    redis.call('HSET', key, unpack(put))
    -- Once a minute: it is kept for two at least.
    if math.floor(now / 60000) ~= math.floor(now_[6] / 60000) then
      redis.call('PEXPIRE', key, tpm > 0 and 86400000 or 120000)
    end
  end
  if now_[3] > 0 then
    redis.call('ZADD', running, now + tonumber(lease), id)
    redis.call('PEXPIRE', running, lease)
  end
end
redis.call('HSET', KEYS[1], id, (short == 0 and held or '0||') .. ARGV[3])
return {0, 0, 0, stored, short, left, found}
"""
)


class Intent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of an admitted request, should its worker die before it is settled.

    ``charges``: accounts to be charged then, as in :class:`gateway.budget.reservations.Settlement`; ``running``: where
    it holds a slot.
    """

    worker: str
    key_id: str
    ts_ms: int
    organisation: str = "default"
    team: str = ""
    project: str = ""
    end_user: str = ""
    tags: tuple[str, ...] = ()
    policy: str = ""
    rule: str = ""
    model: str = ""
    requested: str = ""
    price_source: str = ""
    price_date: str = ""
    charges: tuple[tuple[str, str, str], ...] = ()
    running: tuple[str, ...] = ()


class Hold(msgspec.Struct, frozen=True):
    """The most a request may cost: ``total_nano`` of it, and what that is for each account that has to have it left."""

    total_nano: int = 0
    parts: tuple[tuple[Account, int], ...] = ()

    def more(self, other: Hold) -> Hold:
        """Both together."""
        sums = {account.name: (account, amount) for account, amount in self.parts}
        for account, amount in other.parts:
            sums[account.name] = (account, amount + sums.get(account.name, (account, 0))[1])
        return Hold(self.total_nano + other.total_nano, tuple(sums.values()))

    @property
    def value(self) -> bytes:
        """``<total>|<account>=<amount>,…|``: it stands in front of an intent, so that Lua can give it back."""
        parts = ",".join(f"{account.name}={amount}" for account, amount in self.parts if amount)
        return f"{self.total_nano}|{parts}|".encode()


class Limit(msgspec.Struct, frozen=True):
    """One limit as a client is told of it: how much a minute, what is left, and seconds until it is whole again."""

    limit: int
    left: int
    reset_s: float


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """What trip 1 said. ``refused``: '' or which limit stopped the request (rpm, tpm, concurrency), of ``level``.

    ``requests`` and ``tokens`` are the tightest limits; ``left`` is nano-dollars by account, known unless something
    was reserved; ``stored`` is the exact cache's value; ``reserved`` says whether what was asked for was granted, None
    where nothing was or an answer was found, and ``short`` which account had too little; ``known`` is False where
    Redis was away and nothing was checked.
    """

    refused: str = ""
    level: str = ""
    retry_after: float = 0.0
    requests: Limit | None = None
    tokens: Limit | None = None
    left: tuple[tuple[Account, int], ...] = ()
    stored: bytes | None = None
    reserved: bool | None = None
    short: Account | None = None
    known: bool = True


async def admit(
    link: RedisLink,
    keys: Keys,
    levels: Levels,
    request_id: str,
    intent: Intent,
    *,
    tokens: int,
    exact: str | None = None,
    normal: str | None = None,
    hold: Hold | None = None,
) -> Admission:
    """Check limits, write the intent, look the answer up under its exact and normalised digests, and reserve.

    ``refused`` is :data:`MISSING` where an account is not open; nothing has then happened.

    Raises:
        RedisAway
    """
    parts = hold.parts if hold else tuple((account, 0) for account in levels.accounts if account.hard)
    answers: tuple[str, ...] = ()
    if exact is not None:
        answers = (keys.exact(exact),) if normal is None else (keys.exact(exact), keys.normal(normal))
    if not levels.rates and not parts:
        return await _unlimited(link, keys, request_id, intent, answers, hold)
    names: list[str] = [keys.intents, keys.alerts]
    args: list[Any] = []
    for rate in levels.rates:
        names += (keys.limits(rate.name), keys.running(rate.name))
        args += (str(rate.rpm), str(rate.tpm), str(rate.concurrency))
    for account, amount in parts:
        names.append(keys.budget(account.name))
        args += (str(amount), account.slice)
    reply = await link.run(
        ADMIT,
        (*names, *answers),
        str(intent.ts_ms),
        request_id,
        msgspec.json.encode(intent),
        str(tokens),
        str(LEASE_MS),
        str(len(levels.rates)),
        str(len(parts)),
        b"" if hold is None else hold.value,
        keys.exact(""),
        *args,
        keys.budget(""),
    )
    return _admission(reply, levels.rates, parts)


async def _unlimited(
    link: RedisLink, keys: Keys, request_id: str, intent: Intent, answers: tuple[str, ...], hold: Hold | None
) -> Admission:
    """The same where nothing has to be checked: a script costs several times what a command does."""
    value, wanted = msgspec.json.encode(intent), (hold or Hold()).value
    if not answers:
        await link.call("HSET", keys.intents, request_id, wanted + value)
        return Admission(reserved=True if hold else None)
    stored = await link.run(LOOK_UP, (keys.intents, *answers), request_id, value, wanted, keys.exact(""))
    return Admission(stored=stored, reserved=True if hold and stored is None else None)


def _admission(reply: list[Any], rates: Sequence[Rate], parts: Sequence[tuple[Account, int]]) -> Admission:
    why, which, wait, stored, short, left, found = reply
    if why == 4:
        return Admission(refused=MISSING)
    return Admission(
        refused=_KINDS[why - 1] if why else "",
        level=rates[which - 1].label if why else "",
        retry_after=wait / 1000,
        requests=_tightest([rate.rpm for rate in rates], found, 0),
        tokens=_tightest([rate.tpm for rate in rates], found, 2),
        left=tuple((account, int(amount)) for (account, _), amount in zip(parts, left, strict=False)),
        stored=stored,
        reserved=None if short < 0 else short == 0,
        short=parts[short - 1][0] if short > 0 else None,
    )


def _tightest(limits: Sequence[int], found: Sequence[int], at: int) -> Limit | None:
    """Of several levels the one with the least left, and of those the one that stays so for longest."""
    places = [(limit, 4 * index + at) for index, limit in enumerate(limits) if limit]
    told = [Limit(limit, found[place], found[place + 1] / 1000) for limit, place in places]
    return min(told, key=lambda one: (one.left, -one.reset_s)) if len(told) > 1 else told[0] if told else None
