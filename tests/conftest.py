"""One real Redis and one real PostgreSQL for all tests of a run that ask; a test that hurts one starts its own.

A test that hangs says where before its time is over and pytest-timeout ends it: what that prints is lost in xdist's
workers, and faulthandler's own timer reads other threads' frames while they run, which has crashed the interpreter.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from gateway.redis_io import client
from tests.support.postgres import postgres_url
from tests.support.redis_server import RedisServer

_HANGS = pytest.StashKey[threading.Timer]()
_BEFORE_S = 3.0


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> Generator[None, Any, Any]:
    timer = threading.Timer(settings.timeout - _BEFORE_S, _say_where, (item,))
    timer.daemon = True
    timer.start()
    item.stash[_HANGS] = timer
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> Generator[None, Any, Any]:
    if timer := item.stash.get(_HANGS, None):
        timer.cancel()
    return (yield)


def _say_where(item: pytest.Item) -> None:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    stacks = [f"{names.get(ident)}:\n{''.join(traceback.format_stack(frame))}" for ident, frame in _frames()]
    capture: Any = item.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        os.write(2, f"\n==> {item.nodeid} hangs:\n{''.join(stacks)}".encode())


def _frames() -> list[tuple[int, Any]]:
    own = threading.get_ident()
    return [(ident, frame) for ident, frame in sys._current_frames().items() if ident != own]


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
