"""The hosted models' network swallows every packet: requests are answered here, and recovery needs nobody."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import Gateway, gateway, hosted, local
from tests.support.packet_drop import DropRelay
from tests.support.upstream import Upstream
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="socket filters and TCP_USER_TIMEOUT are Linux's")

BOUND, PATIENCE = 1.5, 20.0  # a kernel waits for minutes
POLICY: Any = {
    "name": "default",
    "cache": {"exact": False, "semantic": False},
    "rules": [{"name": "all", "use": ["far", "far-too", "small"]}, {"name": "never", "use": ["far"]}],
}
ONLY_FAR: Any = {**POLICY, "rules": [{"name": "all", "use": ["far", "far-too"]}]}


@contextlib.asynccontextmanager
async def behind(folder: Path, relay: DropRelay, near: Upstream, policy: Any) -> AsyncIterator[Gateway]:
    bounds: Any = {"connect_timeout": BOUND, "max_retries": 2}
    far = [hosted(name, relay.base_url, **bounds) for name in ("far", "far-too")]
    models = [*far, local("small", near.base_url)]
    async with gateway(folder, models, [policy]) as running:
        yield running


async def timed(gate: Gateway, **body: Any) -> tuple[str, float]:
    started = time.perf_counter()
    reply = await gate.chat(**body)
    assert reply.status_code == 200, reply.text
    return reply.headers["x-gateway-model"], time.perf_counter() - started


@pytest.mark.parametrize("policy", [POLICY, ONLY_FAR], ids=["named", "last-resort"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("warm", [False, True])
async def test_the_first_waits_for_the_bound_and_later_ones_for_nothing(
    tmp_path: Path, upstream: Upstream, policy: Any, stream: bool, warm: bool
) -> None:
    with Upstream.in_thread() as near:
        async with DropRelay(upstream.port) as relay, behind(tmp_path, relay, near, policy) as gate:
            if warm:
                assert (await timed(gate))[0] == "far"
            relay.drop()

            model, took = await timed(gate, stream=stream)
            assert (model, took < PATIENCE) == ("small", True), took
            started = time.perf_counter()
            assert {(await timed(gate, stream=stream))[0] for _ in range(20)} == {"small"}
            assert time.perf_counter() - started < 20 * BOUND
            rows = await gate.rows(21 + warm)
            # Whoever is behind the same host is not waited for again.
            assert [each["model"] for each in rows[-21].detail["attempts"]] == ["far", "small"]
            assert [len(row.detail["attempts"]) for row in rows[-20:]] == [1] * 20
            assert {row.served for row in rows[-21:]} == {"local"}
            assert rows[-1].degraded or policy is POLICY


async def test_recovery_needs_nobody(tmp_path: Path, upstream: Upstream) -> None:
    with Upstream.in_thread() as near:
        async with DropRelay(upstream.port) as relay, behind(tmp_path, relay, near, POLICY) as gate:
            relay.drop()
            assert (await timed(gate))[0] == "small"
            asked = len(upstream.requests)
            relay.restore()

            await until(lambda: gate.runtime.view.fleet.unavailable("far") is None)

            assert {request.path for request in upstream.requests[asked:]} == {"/v1/models"}  # nothing was billed
            model, took = await timed(gate)
            assert (model, took < BOUND) == ("far", True)
