"""One real Redis for all unit tests of a run, empty for each of them; a test that hurts its Redis starts its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.redis_io import Keys, RedisLink, client
from tests.support.redis_server import RedisServer


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    started = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield started
    started.kill()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    started = RedisServer(tmp_path, fsync="always").start()
    yield started
    started.kill()


@pytest.fixture
async def redis(shared_redis: RedisServer) -> AsyncIterator[Redis]:
    connection = client(shared_redis.url)
    await connection.flushall()
    yield connection
    await connection.aclose()


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
