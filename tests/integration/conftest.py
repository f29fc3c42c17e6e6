"""What most integration tests stand on: a scripted upstream, and a gateway in front of it that a module's tests share.

A module that uses ``gate`` runs on one event loop: ``pytestmark = pytest.mark.asyncio(loop_scope="module")``. One that
needs other models or policies overrides ``served``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.ledger.store import SqlStore
from tests.support.gateway import Gateway, gateway, hosted
from tests.support.inbox import Webhook, webhook
from tests.support.upstream import Upstream


@pytest.fixture(scope="module")
def upstream_server() -> Iterator[Upstream]:
    with Upstream.in_thread() as server:
        yield server


@pytest.fixture
def upstream(upstream_server: Upstream) -> Upstream:
    """An upstream nobody has asked yet."""
    upstream_server.reset()
    return upstream_server


@pytest.fixture(scope="module")
def near_server() -> Iterator[Upstream]:
    with Upstream.in_thread() as server:
        yield server


@pytest.fixture
def near(near_server: Upstream) -> Upstream:
    """What serves a local model, where a module's gateway has one."""
    near_server.reset()
    return near_server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory, upstream_server: Upstream) -> AsyncIterator[Gateway]:
    """Everything goes to the one hosted model ``big``."""
    async with gateway(tmp_path_factory.mktemp("gate"), [hosted("big", upstream_server.base_url)]) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def gate(served: Gateway, upstream: Upstream) -> Gateway:
    """The module's gateway, as if just started."""
    await served.fresh()
    return served


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    """Books that are empty."""
    made = SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'ledger.sqlite3'}")
    await made.migrate()
    yield made
    await made.close()


@pytest.fixture
def inbox() -> Iterator[Webhook]:
    with webhook() as received:
        yield received
