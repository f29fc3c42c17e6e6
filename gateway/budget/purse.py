"""What the house may spend on questions of its own in one UTC day: taken before a call at its worst case."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gateway.redis_io import Script

if TYPE_CHECKING:
    from gateway.redis_io import RedisLink

_DAY_S = 86_400

# Amounts are decimal strings: Lua's numbers lose digits.
_TAKE = Script("""
local after = redis.call('INCRBY', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
if after > tonumber(ARGV[2]) then
  redis.call('DECRBY', KEYS[1], ARGV[1])
  return 0
end
return 1
""")


class Purse:
    """``name`` is its key in Redis, without the day. Every method raises RedisAway."""

    def __init__(self, link: RedisLink, name: str) -> None:
        self._link, self._name = link, name

    async def take(self, nano: int, limit_nano: int, at_ms: int) -> bool:
        """Whether that was left of the day's ``limit_nano``, and is now taken."""
        arguments = (str(nano), str(limit_nano), str(2 * _DAY_S))
        return bool(await self._link.run(_TAKE, (self._of(at_ms),), *arguments))

    async def give_back(self, nano: int, at_ms: int) -> None:
        """What the calls did not cost. ``at_ms``: when it was taken."""
        await self._link.call("DECRBY", self._of(at_ms), str(max(0, nano)))

    async def spent(self, at_ms: int) -> int:
        """Nano-dollars of that day, what is held included."""
        return int(await self._link.call("GET", self._of(at_ms)) or 0)

    def _of(self, at_ms: int) -> str:
        return f"{self._name}:{datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()}"
