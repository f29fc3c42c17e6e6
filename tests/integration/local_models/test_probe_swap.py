"""A local model's file is swapped under its name: golden prompts tell, on the real engine."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import yaml
from redis.asyncio import Redis

from gateway.config import Settings, load
from gateway.redis_io import Keys, client
from gateway.watching.probes import Probes, Target, targets
from local_models.prune import prune
from tests.support.models import CHAT, chat_model, free_port, process, wait_ready
from tests.support.redis_server import RedisServer

ROUNDS = 6
STATED = 3
"""What docs/monitoring.md promises after a day of hourly rounds; this is after six."""


def configured(folder: Path, port: int, redis: RedisServer) -> Settings:
    near = {"name": "near", "local": CHAT, "url": f"http://127.0.0.1:{port}/v1", "usd_per_hour": 0.04}
    probes = {"targets": ["near"], "every_hours": 1e-6, "usd_per_day": 100}
    config = {"data_dir": str(folder / "data"), "redis": {"url": redis.url}, "models": [near], "probes": probes}
    (folder / "gateway.yaml").write_text(yaml.safe_dump(config))
    return load(folder / "gateway.yaml", {})


async def ask(redis: Redis, model: Path, port: int, settings: Settings, rounds: int) -> Target:
    """Rounds to an engine with this model."""
    probes = Probes(redis, Keys())
    with process("chat", "--model", str(model), "--name", CHAT, "--port", str(port)) as child:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60.0) as http:
            wait_ready(http, child)
        for _ in range(rounds):
            await probes.tick(settings)
            (told,) = await targets(redis, Keys())
            if told.changes:
                break
    return told


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_pruned_copy_of_the_model_is_told_and_the_same_file_is_not(tmp_path: Path) -> None:
    server = RedisServer(tmp_path).start()
    redis = client(server.url)
    port = free_port()
    settings = configured(tmp_path, port, server)
    try:
        for _ in range(2):  # a restart of the engine is no change
            learned = await ask(redis, chat_model(), port, settings, ROUNDS // 2)
            assert learned.changes == 0
        assert learned.rounds == ROUNDS
        pruned = prune(chat_model(), tmp_path / "pruned-model", frozenset((20, 22)))
        swapped = await ask(redis, pruned, port, settings, STATED)
        assert swapped.changes == 1
    finally:
        await redis.aclose()
        server.kill()
