"""What most integration tests stand on: a scripted upstream, and gateways in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, gateway, hosted
from tests.support.upstream import Upstream


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream.in_thread() as server:
        yield server


@pytest.fixture
async def gate(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Gateway]:
    """Everything goes to the one hosted model ``big``."""
    async with gateway(tmp_path, [hosted("big", upstream.base_url)]) as under_test:
        yield under_test
