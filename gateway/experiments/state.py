"""What has become of experiments, in Redis for the workers and in SQL for good: as definitions of budgets are kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.errors import NotFound
from gateway.experiments.report import Report
from gateway.policy.experiments import FIELD, Declared, State, Stopped, states_in

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from gateway.redis_io import Keys

_REPORTS_S = 600

# An arm that is resumed in the same moment stays resumed: who writes says what was there.
_SWAP = """
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('XADD', KEYS[2], '*', 'd', ARGV[3], 'field', ARGV[1])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', 10000, '*', 'definitions', ARGV[1])
return 1
"""


async def states(redis: Redis, keys: Keys) -> dict[str, State]:
    """By the experiment's name. Raises redis.RedisError."""
    fields: Any = await redis.hgetall(keys.definitions)
    return states_in(fields)


async def stop(redis: Redis, keys: Keys, of: Declared, before: State, arms: Mapping[str, Stopped]) -> bool:
    """Give these arms nothing from now on: every worker follows within a second. False: the state was not ``before``.

    Raises:
        redis.RedisError
    """
    return await _put(redis, keys, of, before, msgspec.structs.replace(before, stopped={**before.stopped, **arms}))


async def resume(redis: Redis, keys: Keys, of: Declared) -> State:
    """Let every arm go on, measured anew: what led to the stop would lead to it again.

    Raises:
        NotFound: no arm of it was stopped.
        redis.RedisError
    """
    while True:
        before = of.state(await states(redis, keys))
        if not before.stopped:
            raise NotFound(f"no arm of experiment '{of.name}' was stopped", code="not_stopped", param="name")
        after = State(run=of.definition, round=before.round + 1)
        if await _put(redis, keys, of, before, after):
            return after


async def _put(redis: Redis, keys: Keys, of: Declared, before: State, after: State) -> bool:
    field = f"{FIELD}{of.name}"
    held: Any = await redis.hget(keys.definitions, field) or b""
    if of.state({of.name: msgspec.json.decode(held, type=State)} if held else {}) != before:
        return False
    names = (keys.definitions, keys.ledger, keys.events)
    return bool(await redis.eval(_SWAP, len(names), *names, field, held, msgspec.json.encode(after)))


async def keep_reports(redis: Redis, keys: Keys, reports: Mapping[str, Report]) -> None:
    """For the pages and whoever asks: all there are, for as long as somebody renews them. Raises redis.RedisError."""
    await redis.set(keys.experiments, msgspec.json.encode(reports), ex=_REPORTS_S)


async def kept_reports(redis: Redis, keys: Keys) -> dict[str, Report]:
    """The last ones, by the experiment's name. Raises redis.RedisError."""
    found: Any = await redis.get(keys.experiments)
    return msgspec.json.decode(found, type=dict[str, Report]) if found else {}
