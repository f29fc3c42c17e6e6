"""Stored answers as bytes, and what may be stored at all."""

from __future__ import annotations

import msgspec

from gateway.redis_io import Keys, RedisLink
from gateway.types import CacheEntry

_MAX_BYTES = 1024 * 1024
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(CacheEntry)


def encode(entry: CacheEntry) -> bytes | None:
    """An entry as stored; None where it is too large to keep."""
    value = _encoder.encode(entry)
    return value if len(value) <= _MAX_BYTES else None


def decode(value: bytes) -> CacheEntry | None:
    """A stored entry; None for bytes another version wrote (a miss, never an error)."""
    try:
        return _decoder.decode(value)
    except msgspec.DecodeError:
        return None


async def fetch(link: RedisLink, keys: Keys, entry_id: str) -> CacheEntry | None:
    """An entry by id; None where it is gone. Raises RedisAway."""
    value = await link.call("GET", keys.exact(entry_id))
    return decode(value) if value is not None else None
