"""The background process, as it is started: it keeps the idle lines, and tells what is wrong."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import yaml

from gateway.ledger.errors import LedgerAway
from gateway.ledger.store import SqlStore
from tests.support.inbox import webhook
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]


async def test_it_counts_what_machines_cost_and_tells_of_one_that_is_silent(tmp_path: Path) -> None:
    redis = RedisServer(tmp_path).start()
    with webhook() as inbox:
        near = {"name": "near", "local": "smollm2-135m-instruct", "url": "http://127.0.0.1:9/v1", "usd_per_hour": 0.04}
        config = {
            "data_dir": str(tmp_path / "data"),
            "redis": {"url": redis.url},
            "models": [near],
            "alerts": {"webhook": inbox.url},
        }
        (tmp_path / "gateway.yaml").write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "gateway.background", "--config", str(tmp_path / "gateway.yaml")]
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=asyncio.subprocess.DEVNULL)
        store = SqlStore.reader(f"sqlite+aiosqlite:///{tmp_path / 'data' / 'ledger.sqlite3'}")

        async def counted() -> bool:
            try:
                return bool(await store.standing(0, 1 << 52))
            except LedgerAway:
                return False

        try:
            await until(counted, within_s=60)
            (hour,) = await store.standing(0, 1 << 52)
            assert (hour.model, hour.nano_per_hour, hour.busy_nano) == ("near", 40_000_000, 0)
            await until(lambda: inbox.titles, within_s=60)
            assert inbox.titles == ["Target near is down"]
        finally:
            await store.close()
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 30) == 0
            redis.kill()
