"""What the background process does that needs no server."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from gateway.background import Background
from gateway.config import GatewayConfig, RedisConfig, Settings


def chores(folder: Path, redis: RedisConfig) -> dict[str, object]:
    settings = Settings(
        config=GatewayConfig(redis=redis), file="", data_dir=folder, models_dir=folder, policies_dir=folder
    )
    return {chore.name: chore.work for chore in Background(settings, asyncio.Event())._chores()}


@pytest.mark.parametrize("name", ["appendonly.aof", "appendonlydir/appendonly.aof.1.incr.aof"])
async def test_the_embedded_redis_append_only_file_is_forced_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file = tmp_path / "redis" / name
    file.parent.mkdir(parents=True)
    file.touch()
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))

    await chores(tmp_path, RedisConfig())["sync"]()  # type: ignore[operator]

    assert synced == [file.stat().st_ino]


async def test_a_redis_of_someone_else_looks_after_its_own_disk(tmp_path: Path) -> None:
    assert "sync" not in chores(tmp_path, RedisConfig(url="redis://elsewhere"))
