"""API keys as they are managed: made, changed, rotated, revoked, and told to every worker and to SQL."""

from __future__ import annotations

import re
import secrets
import time
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.auth.records import PREFIX, Exported, KeyRecord, NewKey, Records, Shown, hash_key, public, read
from gateway.errors import InvalidRequest, NotFound
from gateway.redis_io import Keys

if TYPE_CHECKING:
    from redis.asyncio import Redis

_HASH = re.compile(r"[0-9a-f]{64}")


class KeyStore:
    """Key definitions in Redis; each change also goes to the ledger stream, from where it reaches SQL for good."""

    def __init__(self, redis: Redis, keys: Keys | None = None) -> None:
        self._redis, self._keys = redis, keys or Keys()

    async def create(self, name: str, /, **limits: Any) -> dict[str, Any]:
        """Make a key; the reply holds it as ``key``, this once.

        Raises:
            InvalidRequest: a value is out of range.
        """
        wanted = read({"name": name, **limits})
        now = int(time.time() * 1000)
        key, record = self._new(f"key_{secrets.token_hex(8)}", now)
        expires = None if wanted.expires_in_s is None else now + int(wanted.expires_in_s * 1000)
        record = msgspec.structs.replace(record, **wanted.fields(), expires_ms=expires)
        await self._put(record)
        return {"key": key, **public(record)}

    async def update(self, key_id: str, /, **changes: Any) -> dict[str, Any]:
        """Change what a key may do; every key of the id that still works is changed. Fields as in :meth:`create`.

        Raises:
            NotFound, InvalidRequest
        """
        now = int(time.time() * 1000)
        found = [one for one in await self._find(key_id) if one.usable(now)]
        if not found:
            raise NotFound(f"the API key with id '{key_id}' is expired or revoked")
        known = {name: value for name, value in public(found[0]).items() if name in NewKey.__struct_fields__}
        wanted = read(known | changes)
        fields = wanted.fields()
        if wanted.expires_in_s is not None:
            fields["expires_ms"] = now + int(wanted.expires_in_s * 1000)
        for record in found:
            await self._put(msgspec.structs.replace(record, **fields))
        return public(msgspec.structs.replace(found[0], **fields))

    async def export(self) -> Exported:
        """Every definition as it is kept, hashes and all, for :meth:`restore`: no key can be read out of it."""
        return [msgspec.to_builtins(record) for record in await self._records()]

    async def restore(self, records: Any) -> int:
        """Take over what :meth:`export` gave; one that is there already is replaced. Returns how many.

        Raises:
            InvalidRequest: not one of them is taken over then.
        """
        try:
            read = msgspec.convert(records, Records)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"keys: {error}", param="keys") from None
        if any(not _HASH.fullmatch(record.hash) for record in read):
            raise InvalidRequest("keys: a hash is 64 hexadecimal digits", param="keys")
        for record in read:
            await self._put(record)
        return len(read)

    async def list(self) -> Shown:
        """Every definition, without hashes, newest first."""
        return [public(record) for record in await self._records()]

    async def rotate(self, key_id: str, overlap_s: float = 0.0) -> dict[str, Any]:
        """A new key with the same id, limits, budget and end; the old one works for ``overlap_s`` more seconds at most.

        Raises:
            NotFound: no such key, or none that is still good.
        """
        now = int(time.time() * 1000)
        old = (await self._find(key_id))[0]
        if not old.usable(now):
            raise NotFound(f"the API key with id '{key_id}' is expired or revoked")
        key, fresh = self._new(old.id, max(now, old.created_ms + 1))
        fresh = msgspec.structs.replace(old, hash=fresh.hash, prefix=fresh.prefix, created_ms=fresh.created_ms)
        ended: dict[str, Any] = {"revoked_ms": now}
        if overlap_s:
            end = now + int(overlap_s * 1000)
            ended = {"expires_ms": end if old.expires_ms is None else min(end, old.expires_ms)}
        await self._put(msgspec.structs.replace(old, **ended))
        await self._put(fresh)
        return {"key": key, **public(fresh)}

    async def revoke(self, key_id: str) -> dict[str, Any]:
        """Refuse every key of this id from now on, on all workers within a second.

        Raises:
            NotFound
        """
        found = await self._find(key_id)
        now = int(time.time() * 1000)
        revoked = [msgspec.structs.replace(one, revoked_ms=one.revoked_ms or now) for one in found]
        for record in revoked:
            await self._put(record)
        return public(revoked[0])

    @staticmethod
    def _new(key_id: str, now_ms: int) -> tuple[str, KeyRecord]:
        key = PREFIX + secrets.token_urlsafe(32)
        return key, KeyRecord(id=key_id, hash=hash_key(key), prefix=key[:8], name="", created_ms=now_ms)

    async def _put(self, record: KeyRecord) -> None:
        value = msgspec.json.encode(record)
        pipe = self._redis.pipeline(transaction=True)
        pipe.hset(self._keys.api_keys, record.hash, value)
        if record.budget_nano is not None:
            pipe.hset(self._keys.ceilings, record.id, str(record.budget_nano))
        pipe.xadd(self._keys.ledger, {"k": value})
        pipe.xadd(self._keys.events, {"key": record.hash}, maxlen=10_000, approximate=True)
        await pipe.execute()

    async def _records(self) -> Records:
        raw: Any = await self._redis.hvals(self._keys.api_keys)
        records = [msgspec.json.decode(value, type=KeyRecord) for value in raw]
        return sorted(records, key=lambda record: record.created_ms, reverse=True)

    async def _find(self, key_id: str) -> Records:
        """Every definition under an id, the newest first."""
        found = [record for record in await self._records() if record.id == key_id]
        if not found:
            raise NotFound(f"no API key with id '{key_id}'")
        return found
