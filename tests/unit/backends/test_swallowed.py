"""A network that drops packets instead of resetting: noticed within the connect bound, on any connection.

`DropRelay` makes the kernel discard what arrives at its sockets, so this is true packet loss and needs no privilege.
"""

import sys
import time

import pytest

from gateway.backends import translate
from gateway.backends.openai_http import OpenAIBackend
from gateway.backends.resilient import Resilient
from gateway.errors import UpstreamUnavailable
from tests.support.packet_drop import DropRelay
from tests.support.upstream import Upstream
from tests.support.waiting import until
from tests.unit.backends.support import chat, collect

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="socket filters and TCP_USER_TIMEOUT are Linux's")
BOUND, PATIENCE = 0.5, 20.0  # a kernel waits for minutes


async def unreachable(backend: OpenAIBackend) -> tuple[UpstreamUnavailable, float]:
    started = time.perf_counter()
    with pytest.raises(UpstreamUnavailable) as caught:
        await collect(backend, chat())
    return caught.value, time.perf_counter() - started


async def test_a_new_connection_and_a_kept_one_notice_within_the_bound() -> None:
    async with Upstream() as up, DropRelay(up.port) as relay:
        fresh = OpenAIBackend("m", "m", relay.base_url, connect_timeout=BOUND)
        kept = OpenAIBackend("m", "m", relay.base_url, connect_timeout=BOUND)
        await collect(kept, chat())
        relay.drop()
        for backend, connect in ((fresh, True), (kept, False)):
            failure, took = await unreachable(backend)
            assert (failure.code, failure.connect) == (translate.UNREACHABLE, connect)
            assert BOUND / 2 < took < PATIENCE
        assert not await fresh.reachable()
        await fresh.close()
        await kept.close()


async def test_it_is_asked_once_then_kept_away_from_until_a_probe_gets_through() -> None:
    async with Upstream() as up, DropRelay(up.port) as relay:
        backend = OpenAIBackend("m", "m", relay.base_url, connect_timeout=BOUND)
        target = Resilient("m", backend, max_retries=2, probe=backend.reachable)
        await collect(target, chat())
        relay.drop()
        started = time.perf_counter()
        with pytest.raises(UpstreamUnavailable):
            await collect(target, chat())
        assert time.perf_counter() - started < PATIENCE
        started = time.perf_counter()
        for _ in range(50):
            with pytest.raises(UpstreamUnavailable):
                await collect(target, chat())
        assert time.perf_counter() - started < 50 * BOUND / 4
        relay.restore()
        # The probe is the only thing that asks upstream for its models.
        await up.wait_until(lambda: any(received.path == "/v1/models" for received in up.requests), within=15)
        await until(lambda: target.available() is None)
        await collect(target, chat())
        await target.close()
