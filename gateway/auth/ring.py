"""The keys a worker knows: asked on the way of every request."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping

import msgspec

from gateway.auth.groups import GROUPS, Group, organisation_field, team_field
from gateway.auth.records import KeyRecord, hash_key
from gateway.errors import Unauthenticated
from gateway.redis_io import Keys, RedisLink
from gateway.types import Allowed, Principal

_COPIES_MAX = 10_000


class KeyRing:
    """This worker's bounded copy of key definitions, kept up by the event stream (see :mod:`gateway.runtime`)."""

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link, self._keys = link, keys
        self._copies: OrderedDict[str, KeyRecord] = OrderedDict()
        self._principals: dict[str, Principal] = {}
        self._forgotten = 0
        self._above: dict[str, Allowed] = {}

    async def principal(self, token: str) -> Principal:
        """The principal of an ``fg-`` key. One Redis trip for a key this worker has not seen.

        Raises:
            Unauthenticated: unknown, expired or revoked.
            RedisAway: a key this worker has not seen, and nobody to ask.
        """
        return await self.holder(hash_key(token))

    async def holder(self, digest: str) -> Principal:
        """The same for who has shown the key before, by its hash."""
        record = self._copies.get(digest) or await self._fetch(digest)
        if record is None or not record.usable(int(time.time() * 1000)):
            raise Unauthenticated("the API key is unknown, expired or revoked")
        principal = self._principals.get(digest)
        if principal is None:
            principal = self._principal(record)
            if self._copies.get(digest) is record:
                self._principals[digest] = principal
        return principal

    def _principal(self, record: KeyRecord) -> Principal:
        names = (organisation_field(record.organisation), team_field(record.organisation, record.team))
        return record.principal(*(self._above[name] for name in names if name in self._above))

    def load(self, fields: Mapping[bytes, bytes]) -> None:
        """Take over what organisations and teams allow, as the hash ``Keys.definitions`` holds them."""
        if not fields and self._above:
            return  # Redis has lost them
        groups = {name.decode(): value for name, value in fields.items() if value and name.startswith(GROUPS)}
        self._above = {name: msgspec.json.decode(value, type=Group).allowed for name, value in groups.items()}
        self._principals.clear()

    async def _fetch(self, digest: str) -> KeyRecord | None:
        before = self._forgotten
        value = await self._link.call("HGET", self._keys.api_keys, digest)
        if value is None:
            return None
        record = msgspec.json.decode(value, type=KeyRecord)
        if before == self._forgotten:  # else the answer may be older than an event that has been followed
            self._copies[digest] = record
        while len(self._copies) > _COPIES_MAX:
            self._principals.pop(self._copies.popitem(last=False)[0], None)
        return record

    def forget(self, digest: str | None = None) -> None:
        """Drop one copy, or all of them (after events may have been missed)."""
        self._forgotten += 1
        if digest is None:
            self._copies.clear()
            self._principals.clear()
        else:
            self._copies.pop(digest, None)
            self._principals.pop(digest, None)
