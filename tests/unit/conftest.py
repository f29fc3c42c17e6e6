"""What unit tests of what is kept in Redis stand on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.redis_io import Keys, RedisLink
from tests.support.redis_server import RedisServer


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    started = RedisServer(tmp_path, fsync="always").start()
    yield started
    started.kill()


@pytest.fixture
async def link(redis: Redis, shared_redis: RedisServer) -> AsyncIterator[RedisLink]:
    """The hot-path connection, to an empty Redis."""
    made = RedisLink(shared_redis.url)
    await made.start(5.0)
    yield made
    await made.close()


@pytest.fixture
def keys() -> Keys:
    return Keys()
