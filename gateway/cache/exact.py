"""Stored answers as bytes, and what may be stored at all."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from gateway.cache.keys import CacheContext
from gateway.redis_io import Keys, RedisLink
from gateway.types import CacheEntry

_MAX_BYTES = 1024 * 1024
_EXPECTED_MAX = 100_000
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(CacheEntry)


class Expected:
    """Digests under which this worker has lately stored or found an answer; a wrong guess costs a round trip."""

    def __init__(self, most: int = _EXPECTED_MAX) -> None:
        self._digests: OrderedDict[str, None] = OrderedDict()
        self._most = most

    def add(self, context: CacheContext) -> None:
        for digest in (context.exact, context.normal):
            if digest is not None:
                self._digests[digest] = None
                self._digests.move_to_end(digest)
        while len(self._digests) > self._most:
            self._digests.popitem(last=False)

    def __contains__(self, context: CacheContext) -> bool:
        return context.exact in self._digests or context.normal in self._digests


def encode(entry: CacheEntry) -> bytes | None:
    """An entry as stored; None where it is too large to keep."""
    value = _encoder.encode(entry)
    return value if len(value) <= _MAX_BYTES else None


def decode(value: bytes) -> CacheEntry | None:
    """A stored entry; None for bytes that are none, or another version's (a miss, never an error)."""
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


async def fetch(link: RedisLink, keys: Keys, entry_id: str) -> CacheEntry | None:
    """An entry by id; None where it is gone. Raises RedisAway."""
    value = await link.call("GET", keys.exact(entry_id))
    return decode(value) if value is not None else None
