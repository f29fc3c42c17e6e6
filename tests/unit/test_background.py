"""What the background process does that needs no server."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from gateway import background
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


@pytest.mark.parametrize(("refusals", "weighed"), [(0, True), (3, True), (10**6, False)])
def test_a_session_that_cannot_be_weighed_at_once_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, refusals: int, weighed: bool
) -> None:
    """Linux refuses where another one was weighed a moment ago; whoever is refused for ever works all the same."""
    tried: list[str] = []

    def write(path: Path, text: str, encoding: str) -> None:
        tried.append(text)
        if len(tried) <= refusals:
            raise BlockingIOError

    monkeypatch.setattr(Path, "write_text", write)
    monkeypatch.setattr("os.nice", lambda _: 0)
    monkeypatch.setattr("os.getsid", lambda _: os.getpid())
    monkeypatch.setattr("gateway.background._PAUSE_S", 0.0)

    background._give_way()

    assert (len(tried) == refusals + 1) == weighed
    assert len(tried) < 100
