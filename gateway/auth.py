"""Who is asking: API keys (hashes only at rest), the admin key, and the anonymous rule of a loopback bind."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from gateway.config import AuthConfig, is_loopback
from gateway.errors import InvalidRequest, NotFound, Overloaded, RedisAway, Unauthenticated
from gateway.redis_io import Keys, RedisLink
from gateway.types import NANO, Allowed, Principal, Role

if TYPE_CHECKING:
    from redis.asyncio import Redis

PREFIX = "fg-"
ANONYMOUS = Principal(key_id="anonymous", name="anonymous")
ADMIN = Principal(key_id="admin", name="admin", admin=True)
_COPIES_MAX = 10_000
_EVERYTHING = Allowed()
_HASH = re.compile(r"[0-9a-f]{64}")
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[0-9A-Za-z.-]+))(?::\d{1,5})?")


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The definition of an API key. ``hash`` is SHA-256 of the key (keys are random, so no slow hash is needed)."""

    id: str
    hash: str
    prefix: str
    name: str
    organisation: str = "default"
    team: str = ""
    tags: tuple[str, ...] = ()
    project: str = ""
    role: Role = "user"
    models: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    allowed_tags: tuple[str, ...] = ()
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    budget_nano: int | None = None
    created_ms: int = 0
    expires_ms: int | None = None
    revoked_ms: int | None = None

    def principal(self, *above: Allowed) -> Principal:
        """``above``: what the organisation and the team allow."""
        own = Allowed(models=self.models, policies=self.policies, tags=self.allowed_tags)
        return Principal(
            key_id=self.id,
            organisation=self.organisation,
            team=self.team,
            name=self.name,
            tags=self.tags,
            rpm=self.rpm,
            tpm=self.tpm,
            concurrency=self.concurrency,
            budget_nano=self.budget_nano,
            project=self.project,
            allowed=tuple(one for one in (*above, own) if one != _EVERYTHING),
            role=self.role,
        )

    def usable(self, now_ms: int) -> bool:
        return self.revoked_ms is None and (self.expires_ms is None or now_ms < self.expires_ms)


def hash_key(key: str) -> str:
    """Hex SHA-256 of a presented key."""
    return hashlib.sha256(key.encode()).hexdigest()


class NewKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be said when a key is created. ``budget_usd`` is in dollars, ``expires_in_s`` in seconds."""

    name: str
    organisation: str = "default"
    team: str = ""
    tags: tuple[str, ...] = ()
    project: str = ""
    role: Role = "user"
    models: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    allowed_tags: tuple[str, ...] = ()
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    budget_usd: float | None = None
    expires_in_s: float | None = None

    def check(self) -> None:
        """Raises InvalidRequest naming the field."""
        if not self.name.strip() or len(self.name) > 200:
            raise InvalidRequest("name must have 1 to 200 characters", param="name")
        for field in ("rpm", "tpm", "concurrency"):
            value = getattr(self, field)
            if value is not None and not 1 <= value <= 1_000_000_000:
                raise InvalidRequest(f"{field} must be between 1 and 1000000000", param=field)
        if self.budget_usd is not None and not 0 <= self.budget_usd <= 9_000_000_000:
            raise InvalidRequest("budget_usd must be between 0 and 9000000000", param="budget_usd")
        if self.expires_in_s is not None and not 0 < self.expires_in_s <= 3_153_600_000:
            raise InvalidRequest("expires_in_s must be above 0 and at most 100 years", param="expires_in_s")
        for field in ("tags", "models", "policies", "allowed_tags"):
            words = getattr(self, field)
            if len(words) > 50 or any(not word or len(word) > 100 for word in words):
                raise InvalidRequest(f"at most 50 {field} of 1 to 100 characters", param=field)
        for field in ("organisation", "team", "project"):
            if len(getattr(self, field)) > 100:
                raise InvalidRequest(f"{field} must have at most 100 characters", param=field)
        if not self.organisation:
            raise InvalidRequest("organisation must have 1 to 100 characters", param="organisation")

    def fields(self) -> dict[str, Any]:
        """As a KeyRecord has them, but for its end."""
        fields = msgspec.structs.asdict(self)
        usd = fields.pop("budget_usd")
        del fields["expires_in_s"]
        return fields | {"budget_nano": None if usd is None else _nano(usd)}


Shown = list[dict[str, Any]]
Exported = list[dict[str, Any]]
Records = list[KeyRecord]


def _wanted(given: dict[str, Any]) -> NewKey:
    try:
        wanted = msgspec.convert(given, NewKey)
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error)) from None
    wanted.check()
    return wanted


class KeyStore:
    """Key definitions in Redis; each change also goes to the ledger stream, from where it reaches SQL for good."""

    def __init__(self, redis: Redis, keys: Keys | None = None) -> None:
        self._redis, self._keys = redis, keys or Keys()

    async def create(self, name: str, /, **limits: Any) -> dict[str, Any]:
        """Make a key; the reply holds it as ``key``, this once.

        Raises:
            InvalidRequest: a value is out of range.
        """
        wanted = _wanted({"name": name, **limits})
        now = int(time.time() * 1000)
        key, record = self._new(f"key_{secrets.token_hex(8)}", now)
        expires = None if wanted.expires_in_s is None else now + int(wanted.expires_in_s * 1000)
        record = msgspec.structs.replace(record, **wanted.fields(), expires_ms=expires)
        await self._put(record)
        return {"key": key, **public(record)}

    async def update(self, key_id: str, **changes: Any) -> dict[str, Any]:
        """Change what a key may do; every key of the id that still works is changed. Fields as in :meth:`create`.

        Raises:
            NotFound, InvalidRequest
        """
        now = int(time.time() * 1000)
        found = [one for one in await self._find(key_id) if one.usable(now)]
        if not found:
            raise NotFound(f"the API key with id '{key_id}' is expired or revoked")
        known = {name: value for name, value in public(found[0]).items() if name in NewKey.__struct_fields__}
        wanted = _wanted(known | changes)
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


def _nano(usd: float) -> int:
    """Dollars as they were written to nano-dollars: a product of floats is off by some above $9 million."""
    return int((Decimal(str(usd)) * NANO).to_integral_value())


def public(record: KeyRecord) -> dict[str, Any]:
    """A definition as it may be shown: no hash, money in dollars."""
    shown = msgspec.to_builtins(record)
    del shown["hash"]
    nano = shown.pop("budget_nano")
    shown["budget_usd"] = None if nano is None else nano / NANO
    return dict(shown)


class KeyRing:
    """This worker's bounded copy of key definitions, kept up by the event stream (see :mod:`gateway.runtime`)."""

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link, self._keys = link, keys
        self._copies: OrderedDict[str, KeyRecord] = OrderedDict()
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
        if not self._above:
            return record.principal()
        names = (organisation_field(record.organisation), team_field(record.organisation, record.team))
        return record.principal(*(self._above[name] for name in names if name in self._above))

    def load(self, fields: Mapping[bytes, bytes]) -> None:
        """Take over what organisations and teams allow, as the hash ``Keys.definitions`` holds them."""
        if not fields and self._above:
            return  # Redis has lost them
        groups = {name.decode(): value for name, value in fields.items() if value and name.startswith(GROUPS)}
        self._above = {name: msgspec.json.decode(value, type=Group).allowed for name, value in groups.items()}

    async def _fetch(self, digest: str) -> KeyRecord | None:
        before = self._forgotten
        value = await self._link.call("HGET", self._keys.api_keys, digest)
        if value is None:
            return None
        record = msgspec.json.decode(value, type=KeyRecord)
        if before == self._forgotten:  # else the answer may be older than an event that has been followed
            self._copies[digest] = record
        while len(self._copies) > _COPIES_MAX:
            self._copies.popitem(last=False)
        return record

    def forget(self, digest: str | None = None) -> None:
        """Drop one copy, or all of them (after events may have been missed)."""
        self._forgotten += 1
        if digest is None:
            self._copies.clear()
        else:
            self._copies.pop(digest, None)


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

    async def put(self, **given: Any) -> dict[str, Any]:
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


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """How a request reached us: what the anonymous rule looks at. Header names are lower-case."""

    host: str
    bind: str
    method: str
    headers: Mapping[str, str]


def bearer(headers: Mapping[str, str]) -> str:
    """The presented token: ``Authorization: Bearer``, else ``x-api-key`` (Anthropic's clients); '' if none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("x-api-key", "").strip()


def anonymous_allowed(config: AuthConfig, peer: Peer) -> bool:
    """Whether a caller without a key of ours may be the anonymous principal (DESIGN section 7)."""
    if config.anonymous != "loopback" or not is_loopback(peer.bind) or not is_loopback(peer.host):
        return False
    headers = peer.headers
    if any(name == "forwarded" or name.startswith("x-forwarded-") or name == "x-real-ip" for name in headers):
        return False
    if not _local_host(headers.get("host", "")):
        return False
    origin = headers.get("origin")
    if origin is not None and not _own_origin(origin, headers.get("host", "")):
        return False
    if peer.method in {"GET", "HEAD"}:
        return True
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def _local_host(host: str) -> bool:
    found = _HOST.fullmatch(host)
    return found is not None and is_loopback((found["six"] or found["name"]).lower())


def _own_origin(origin: str, host: str) -> bool:
    """The dashboard's own pages are no foreign origin."""
    try:
        return urlsplit(origin).netloc == host
    except ValueError:
        return False


async def authenticate(config: AuthConfig, ring: KeyRing, peer: Peer) -> Principal:
    """The principal behind a request.

    Raises:
        Unauthenticated: an ``fg-`` token that is no live key, always; or no key where one is needed.
        Overloaded: Redis is away and this worker has not seen the key.
    """
    token = bearer(peer.headers)
    if is_admin(config, token):
        return ADMIN
    if token.startswith(PREFIX):
        try:
            return await ring.principal(token)
        except RedisAway:
            message = "keys cannot be verified at the moment"
            raise Overloaded(message, code="key_store_unavailable", retry_after=1.0) from None
    if anonymous_allowed(config, peer):
        return ANONYMOUS
    raise Unauthenticated("an API key is needed: Authorization: Bearer fg-…")


def is_admin(config: AuthConfig, token: str) -> bool:
    """Whether the token is the admin key, compared in constant time."""
    key = config.admin_key
    return bool(key) and hmac.compare_digest(token.encode(), (key or "").encode())
