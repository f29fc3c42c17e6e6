"""What organisations and teams allow, above the keys in them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.auth.records import Shown
from gateway.errors import InvalidRequest, NotFound
from gateway.redis_io import Keys
from gateway.types import Allowed

if TYPE_CHECKING:
    from redis.asyncio import Redis


GROUPS = (b"organisation:", b"team:")


def organisation_field(name: str) -> str:
    """Where ``Keys.definitions`` holds an organisation."""
    return f"organisation:{name}"


def team_field(organisation: str, name: str) -> str:
    """Where it holds a team."""
    return f"team:{organisation}/{name}"


class Group(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An organisation, or a team of one: what its keys may ask for. ``team`` is '' for an organisation."""

    organisation: str
    team: str = ""
    models: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    allowed_tags: tuple[str, ...] = ()
    created_ms: int = 0

    @property
    def allowed(self) -> Allowed:
        return Allowed(models=self.models, policies=self.policies, tags=self.allowed_tags)

    @property
    def field(self) -> str:
        return team_field(self.organisation, self.team) if self.team else organisation_field(self.organisation)


class GroupStore:
    """Organisations and teams: mirrored in Redis, kept for good in SQL through the ledger stream.

    A key may name one that is not here: it then has nothing but its keys in common.
    """

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis, self._keys = redis, keys

    async def put(self, /, **given: Any) -> dict[str, Any]:
        """Make or replace one. Raises InvalidRequest."""
        try:
            group = msgspec.convert({"created_ms": int(time.time() * 1000), **given}, Group)
        except msgspec.ValidationError as error:
            raise InvalidRequest(str(error)) from None
        names = (group.organisation, *((group.team,) if "team" in given else ()))
        if any(not name or len(name) > 100 or "/" in name for name in names):
            raise InvalidRequest("a name must have 1 to 100 characters, without '/'", param="name")
        await self._write(group.field, msgspec.json.encode(group))
        return _shown(group)

    async def delete(self, field: str) -> None:
        """Take one away; its keys go on, with nothing but their own lists. Raises NotFound."""
        if not await self._redis.hget(self._keys.definitions, field):
            raise NotFound(f"no {field.replace(':', ' ', 1)}")
        await self._write(field, b"")

    async def list(self, kind: str) -> Shown:
        """Every ``organisation`` or ``team``, by name."""
        held: Any = await self._redis.hgetall(self._keys.definitions)
        values = [held[name] for name in sorted(held) if held[name] and name.startswith(f"{kind}:".encode())]
        return [_shown(msgspec.json.decode(value, type=Group)) for value in values]

    async def _write(self, field: str, value: bytes) -> None:
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(self._keys.definitions, field, value)  # empty where it is gone, else the mirror could bring it back
        pipe.xadd(self._keys.ledger, {"d": value, "field": field})
        pipe.xadd(self._keys.events, {"definitions": field}, maxlen=10_000, approximate=True)
        await pipe.execute()


def _shown(group: Group) -> dict[str, Any]:
    return dict(msgspec.to_builtins(group))
