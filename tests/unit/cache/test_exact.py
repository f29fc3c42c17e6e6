"""Stored answers as bytes."""

from __future__ import annotations

import msgspec
import pytest
from redis.asyncio import Redis

from gateway.cache import exact
from gateway.errors import RedisAway
from gateway.redis_io import Keys, RedisLink
from gateway.types import CacheEntry, Usage

ENTRY = CacheEntry(
    id="e",
    body=b'{"x":"\xc3\xa9"}',
    model="big",
    usage=Usage(prompt_tokens=2**60),
    created_ms=1,
    prompt="p",
    cost_nano=2**60,
)


def test_an_entry_comes_back_as_it_was() -> None:
    assert exact.decode(exact.encode(ENTRY) or b"") == ENTRY


@pytest.mark.parametrize("value", [b"", b"\xc1", b"\x93\x01", b"{}", msgspec.msgpack.encode({"id": "e"})])
def test_what_another_version_wrote_is_a_miss(value: bytes) -> None:
    assert exact.decode(value) is None


def test_an_entry_of_a_newer_version_with_more_fields_is_read() -> None:
    newer = {**msgspec.to_builtins(ENTRY, builtin_types=(bytes,)), "more": 1}
    assert exact.decode(msgspec.msgpack.encode(newer)) == ENTRY


def test_an_answer_above_a_mebibyte_is_not_kept() -> None:
    assert exact.encode(msgspec.structs.replace(ENTRY, body=b"x" * (1024 * 1024 - 200))) is not None
    assert exact.encode(msgspec.structs.replace(ENTRY, body=b"x" * 1024 * 1024)) is None


async def test_fetching_by_id(link: RedisLink, redis: Redis, keys: Keys) -> None:
    await redis.set(keys.exact("e"), exact.encode(ENTRY) or b"")
    await redis.set(keys.exact("old"), b"?")
    assert await exact.fetch(link, keys, "e") == ENTRY
    assert await exact.fetch(link, keys, "old") is None
    assert await exact.fetch(link, keys, "gone") is None
    await link.close()
    with pytest.raises(RedisAway):
        await exact.fetch(RedisLink("unix:///nobody"), keys, "e")
