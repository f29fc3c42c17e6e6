"""API keys over a real Redis: what is at rest, and who gets in."""

from __future__ import annotations

import asyncio
import hmac
import time
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from gateway.auth import (
    ADMIN,
    ANONYMOUS,
    KeyRecord,
    KeyRing,
    KeyStore,
    Peer,
    authenticate,
    bearer,
    hash_key,
    is_admin,
)
from gateway.config import AuthConfig
from gateway.errors import InvalidRequest, NotFound, Overloaded, Unauthenticated
from gateway.redis_io import Keys, RedisLink
from tests.support.redis_server import RedisServer

ADMIN_KEY = "adm-1234567890"
LOCAL = {"host": "localhost:8080", "content-type": "application/json"}


@pytest.fixture
def store(redis: Redis) -> KeyStore:
    return KeyStore(redis)


@pytest.fixture
def ring(link: RedisLink, keys: Keys) -> KeyRing:
    return KeyRing(link, keys)


class Clock:
    """Stands in for the wall clock of :mod:`gateway.auth`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.time()
        monkeypatch.setattr("gateway.auth.ring.time.time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def enters(ring: KeyRing, key: str) -> bool:
    """Whether a worker that has seen no key yet lets it in."""
    ring.forget()
    try:
        await ring.principal(key)
    except Unauthenticated:
        return False
    return True


def peer(**headers: str) -> Peer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Peer(host="127.0.0.1", bind="127.0.0.1", method="POST", headers={**LOCAL, **named})


async def everything(redis: Redis) -> bytes:
    """All that Redis holds, in one piece."""
    parts: list[Any] = []
    async for name in redis.scan_iter():
        kind = await redis.type(name)
        if kind == b"hash":
            parts.append(await redis.hgetall(name))
        elif kind == b"stream":
            parts.append(await redis.xrange(name))
        else:
            parts.append(await redis.dump(name))
        parts.append(name)
    return repr(parts).encode()


async def test_a_key_opens_with_all_its_limits(store: KeyStore, ring: KeyRing) -> None:
    limits = {"rpm": 5, "tpm": 6, "concurrency": 7, "tags": ["a", "b"], "team": "red", "budget_usd": 1.25}
    made = await store.create("batch job", **limits)
    principal = await ring.principal(made["key"])
    assert made["key"].startswith("fg-")
    assert len(made["key"]) > 40
    assert (principal.key_id, principal.name, principal.team) == (made["id"], "batch job", "red")
    assert (principal.rpm, principal.tpm, principal.concurrency) == (5, 6, 7)
    assert (principal.tags, principal.budget_nano, principal.admin) == (("a", "b"), 1_250_000_000, False)


async def test_only_hashes_are_at_rest(store: KeyStore, redis: Redis) -> None:
    made = await store.create("a")
    rotated = await store.rotate(made["id"], 60)
    held = await everything(redis)
    for key in (made["key"], rotated["key"]):
        assert key.encode() not in held
        assert key[8:].encode() not in held
        assert hash_key(key).encode() in held
    shown = repr([made, rotated, *await store.list()])
    assert hash_key(made["key"]) not in shown
    assert [row["prefix"] for row in await store.list()] == [rotated["key"][:8], made["key"][:8]]


async def test_every_change_goes_to_the_books_and_to_the_other_workers(
    store: KeyStore, redis: Redis, keys: Keys
) -> None:
    made = await store.create("a", budget_usd=2)
    await store.revoke(made["id"])
    messages: Any = await redis.xrange(keys.ledger)
    rows = [msgspec.json.decode(fields[b"k"], type=KeyRecord) for _, fields in messages]
    assert [(row.id, row.budget_nano, row.revoked_ms is None) for row in rows] == [
        (made["id"], 2_000_000_000, True),
        (made["id"], 2_000_000_000, False),
    ]
    events: Any = await redis.xrange(keys.events)
    assert [fields for _, fields in events] == [{b"key": hash_key(made["key"]).encode()}] * 2


async def test_revoking_ends_every_key_of_the_id_and_may_be_said_again(store: KeyStore, ring: KeyRing) -> None:
    made, other = await store.create("a"), await store.create("b")
    rotated = await store.rotate(made["id"], overlap_s=3600)
    assert [await enters(ring, one["key"]) for one in (made, rotated, other)] == [True, True, True]
    first = await store.revoke(made["id"])
    assert [await enters(ring, one["key"]) for one in (made, rotated, other)] == [False, False, True]
    assert (await store.revoke(made["id"]))["revoked_ms"] == first["revoked_ms"]


async def test_rotation_lets_the_old_key_live_on_for_the_overlap_and_no_longer(
    store: KeyStore, ring: KeyRing, clock: Clock
) -> None:
    made = await store.create("a", rpm=9)
    rotated = await store.rotate(made["id"], overlap_s=60)
    assert (rotated["id"], rotated["rpm"]) == (made["id"], 9)
    clock.now += 59.9
    assert await enters(ring, made["key"])
    clock.now += 0.2
    assert not await enters(ring, made["key"])
    assert await enters(ring, rotated["key"])
    at_once = await store.rotate(made["id"])
    assert [await enters(ring, one["key"]) for one in (made, rotated, at_once)] == [False, False, True]


async def test_rotating_within_one_millisecond_ends_the_newest_key_each_time(
    store: KeyStore, ring: KeyRing, clock: Clock
) -> None:
    made = await store.create("a")
    chain = [made, *[await store.rotate(made["id"]) for _ in range(6)]]
    assert [await enters(ring, one["key"]) for one in chain] == [False] * 6 + [True]


async def test_rotation_prolongs_no_key(store: KeyStore, ring: KeyRing, clock: Clock) -> None:
    made = await store.create("a", expires_in_s=10)
    rotated = await store.rotate(made["id"], overlap_s=3600)
    clock.now += 11
    assert [await enters(ring, one["key"]) for one in (made, rotated)] == [False, False]
    with pytest.raises(NotFound, match="expired or revoked"):
        await store.rotate(made["id"])


async def test_a_revoked_key_is_not_brought_back_by_rotating_it(store: KeyStore) -> None:
    made = await store.create("a")
    await store.revoke(made["id"])
    with pytest.raises(NotFound, match="expired or revoked"):
        await store.rotate(made["id"])
    for change in (store.revoke, store.rotate):
        with pytest.raises(NotFound, match="no API key"):
            await change("key_unknown")


async def test_a_key_expires_on_workers_that_know_it(store: KeyStore, ring: KeyRing, clock: Clock) -> None:
    made = await store.create("a", expires_in_s=1.5)
    assert (await ring.principal(made["key"])).key_id == made["id"]
    clock.now += 1.6
    with pytest.raises(Unauthenticated):
        await ring.principal(made["key"])


async def test_a_known_key_needs_no_redis(store: KeyStore, ring: KeyRing, link: RedisLink) -> None:
    made = await store.create("a")
    await ring.principal(made["key"])
    await link.close()
    assert (await ring.principal(made["key"])).key_id == made["id"]
    ring.forget(hash_key("another"))
    assert (await ring.principal(made["key"])).key_id == made["id"]


async def test_copies_are_bounded(store: KeyStore, ring: KeyRing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.auth.ring._COPIES_MAX", 3)
    made = [await store.create(str(n)) for n in range(5)]
    for one in made:
        await ring.principal(one["key"])
    assert len(ring._copies) == 3
    assert (await ring.principal(made[0]["key"])).name == "0"


async def test_an_answer_older_than_a_change_that_was_followed_is_not_kept(
    store: KeyStore, ring: KeyRing, redis: Redis
) -> None:
    """The copy is asked for, the key revoked, and the event overtakes the answer: the next request must ask again."""
    made = await store.create("a")
    digest = hash_key(made["key"])
    asking = asyncio.create_task(ring.principal(made["key"]))
    await asyncio.sleep(0)
    ring.forget(digest)
    await asking
    await store.revoke(made["id"])
    with pytest.raises(Unauthenticated):
        await ring.principal(made["key"])


@pytest.mark.parametrize(
    ("name", "limits", "field"),
    [
        ("", {}, "name"),
        (" ", {}, "name"),
        ("x" * 201, {}, "name"),
        ("a", {"rpm": 0}, "rpm"),
        ("a", {"tpm": 10**10}, "tpm"),
        ("a", {"concurrency": -1}, "concurrency"),
        ("a", {"budget_usd": -0.01}, "budget_usd"),
        ("a", {"budget_usd": 1e10}, "budget_usd"),
        ("a", {"budget_usd": float("nan")}, "budget_usd"),
        ("a", {"expires_in_s": 0}, "expires_in_s"),
        ("a", {"expires_in_s": 1e11}, "expires_in_s"),
        ("a", {"tags": ["x"] * 51}, "tags"),
        ("a", {"tags": [""]}, "tags"),
        ("a", {"rpm": "5"}, "rpm"),
        ("a", {"admin": True}, "admin"),
        ("a", {"self": 1}, "self"),
    ],
)
async def test_a_definition_out_of_range_names_its_field(
    store: KeyStore, name: str, limits: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest, match=field):
        await store.create(name, **limits)
    assert await store.list() == []


@pytest.mark.parametrize(
    ("usd", "nano"),
    [(0.1, 10**8), (1.1, 1_100_000_000), (0.000000001, 1), (9007199.254740993, 9007199254740993), (9e9, 9 * 10**18)],
)
async def test_a_budget_is_what_was_written_to_the_nano_dollar(
    store: KeyStore, redis: Redis, usd: float, nano: int
) -> None:
    await store.create("a", budget_usd=usd)
    [record] = await store._records()
    assert record.budget_nano == nano


async def test_the_newest_definitions_come_first(store: KeyStore, clock: Clock) -> None:
    for name in ("old", "new"):
        await store.create(name)
        clock.now += 1
    assert [row["name"] for row in await store.list()] == ["new", "old"]


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({}, ""),
        ({"authorization": "Bearer abc"}, "abc"),
        ({"authorization": "bearer   abc "}, "abc"),
        ({"authorization": "Bearer "}, ""),
        ({"authorization": "Basic abc"}, ""),
        ({"authorization": "Basic abc", "x-api-key": " key "}, "key"),
        ({"authorization": "Bearer abc", "x-api-key": "key"}, "abc"),
    ],
)
def test_the_presented_token(headers: dict[str, str], token: str) -> None:
    assert bearer(headers) == token


async def test_who_is_behind_a_request_of_this_machine(store: KeyStore, ring: KeyRing) -> None:
    config = AuthConfig(admin_key=ADMIN_KEY)
    made = await store.create("a")

    async def who(token: str) -> str:
        return (await authenticate(config, ring, peer(authorization=f"Bearer {token}"))).key_id

    assert await who(ADMIN_KEY) == ADMIN.key_id
    assert await who(made["key"]) == made["id"]
    assert await who("sk-whatever") == ANONYMOUS.key_id
    assert await who("") == ANONYMOUS.key_id
    assert await authenticate(config, ring, peer(x_api_key=ADMIN_KEY)) is ADMIN
    for dead in ("fg-", "fg-unknown", made["key"] + "x", made["key"][:-1]):
        with pytest.raises(Unauthenticated):
            await who(dead)
    await store.revoke(made["id"])
    ring.forget()
    with pytest.raises(Unauthenticated):
        await who(made["key"])
    with pytest.raises(Unauthenticated, match="an API key is needed"):
        await authenticate(AuthConfig(anonymous="deny"), ring, peer())


async def test_an_unseen_key_cannot_be_verified_while_redis_is_away(own_redis: RedisServer, keys: Keys) -> None:
    away = RedisLink(own_redis.url)
    config = AuthConfig(admin_key=ADMIN_KEY)
    with pytest.raises(Overloaded) as refused:
        await authenticate(config, KeyRing(away, keys), peer(authorization="Bearer fg-x"))
    assert (refused.value.code, refused.value.retry_after) == ("key_store_unavailable", 1.0)
    assert await authenticate(config, KeyRing(away, keys), peer(authorization=f"Bearer {ADMIN_KEY}")) is ADMIN


def test_the_admin_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def watched(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return compare(one, other)

    monkeypatch.setattr("gateway.auth.caller.hmac.compare_digest", watched)
    config = AuthConfig(admin_key="schlüssel")
    assert is_admin(config, "schlüssel")
    assert not is_admin(config, "schlüssek")
    assert not is_admin(config, "")
    assert len(compared) == 3
    assert not is_admin(AuthConfig(admin_key=None), "")
    assert not is_admin(AuthConfig(admin_key=""), "")
