"""One real Redis and one real PostgreSQL for all tests of a run that ask; a test that hurts one starts its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from gateway.redis_io import client
from tests.support.postgres import postgres_url
from tests.support.redis_server import RedisServer


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    started = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield started
    started.kill()


@pytest.fixture
async def redis(shared_redis: RedisServer) -> AsyncIterator[Redis]:
    """Empty."""
    connection = client(shared_redis.url)
    await connection.flushall()
    yield connection
    await connection.aclose()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Its address; ``emptied`` before use, since others have used it."""
    with postgres_url() as url:
        yield url
