"""``gateway cache stats`` and ``purge`` as typed, over a real Redis."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from gateway.budget.levels import NOTHING
from gateway.budget.limits import admit
from gateway.budget.reservations import CacheWrite, settle
from gateway.cache.eviction import worth
from gateway.cache.exact import encode
from gateway.cache.hits import Hits
from gateway.cache.purge import day
from gateway.cli.app import app
from gateway.ledger.store import SqlStore
from gateway.redis_io import Keys, RedisLink, client
from gateway.types import CacheEntry, CacheTier, LedgerEntry, Usage
from tests.support.accounts import intent, settlement
from tests.support.redis_server import RedisServer

DAY_MS = 86_400_000


@pytest.fixture
def config(tmp_path: Path, shared_redis: RedisServer) -> Path:
    """A gateway whose cache holds three answers, one of them used twice."""
    file = tmp_path / "gateway.yaml"
    file.write_text(yaml.safe_dump({"data_dir": str(tmp_path / "data"), "redis": {"url": shared_redis.url}}))
    (tmp_path / "data").mkdir()
    asyncio.run(_fill(shared_redis.url))
    return file


async def _book(url: str) -> None:
    """Four requests of an hour ago: one of each tier and a miss."""
    store, then = SqlStore(url), int(time.time() * 1000) - 3_600_000
    await store.migrate()
    tiers: tuple[CacheTier, ...] = ("miss", "exact", "semantic", "coalesced")
    rows = [LedgerEntry(request_id=tier, ts_ms=then, cache=tier, saved_nano=len(tier) * 10**6) for tier in tiers]
    await store.append(rows)
    await store.close()


async def _fill(url: str) -> None:
    redis = client(url)
    await redis.flushall()
    await redis.aclose()
    link, keys, now = RedisLink(url), Keys(), int(time.time() * 1000)
    await link.start(5.0)
    for number, (key, tags) in enumerate((("key_a", ("red",)), ("key_a", ()), ("key_b", ("red",)))):
        made = CacheEntry(
            id=f"entry-{number}",
            body=b"{}",
            model="big",
            usage=Usage(),
            created_ms=now - number * 2 * DAY_MS,
            prompt=f"question {number}",
            key_id=key,
            tags=tags,
        )
        value = encode(made)
        assert value is not None
        write = CacheWrite(
            digest=made.id,
            normal=None,
            partition="p",
            value=value,
            ttl_ms=DAY_MS,
            expires_ms=now + DAY_MS,
            worth=worth(10**6, len(value), now),
        )
        await admit(link, keys, NOTHING, f"r{number}", intent(), tokens=1)
        await settle(link, keys, settlement(f"r{number}", store=write))
    hits = Hits(link, keys, lambda work: work.close())
    for _ in range(2):
        hits.note("entry-1", 3_000_000, 0.98)
    await hits.flush()
    await link.close()


def run(config: Path, *words: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, ["cache", *words, "--config", str(config)], input=answer)


def removed(config: Path, *words: str) -> int:
    result = run(config, "purge", "--json", *words)
    assert result.exit_code == 0, result.output
    return int(json.loads(result.stdout)["entries"])


def test_stats_tell_what_is_held_and_what_saves_most(config: Path) -> None:
    asyncio.run(_book(f"sqlite+aiosqlite:///{config.parent}/data/ledger.sqlite3"))
    shown = run(config, "stats").output
    assert "3 entries" in shown
    assert "question 1" in shown
    assert "0.006" in shown
    told = json.loads(run(config, "stats", "--json").stdout)
    assert (told["entries"], told["psi"], told["rejected"]) == (3, None, 0)
    assert {(tier["tier"], tier["requests"], tier["share"], tier["saved_nano"]) for tier in told["tiers"]} == {
        ("miss", 1, 0.25, 4_000_000),
        ("exact", 1, 0.25, 5_000_000),
        ("semantic", 1, 0.25, 8_000_000),
        ("coalesced", 1, 0.25, 9_000_000),
    }
    assert [(top["entry"], top["hits"], top["saved_nano"]) for top in told["top"]] == [("entry-1", 2, 6_000_000)]
    assert sum(told["similarity"]) == told["similarity"][19] == 2


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (("--key", "key_a"), 2),
        (("--tag", "red"), 2),
        (("--tag", "red", "--key", "key_b"), 1),
        (("--older-than", "3d"), 1),
        (("--older-than", "24h"), 2),
        (("--entry", "entry-0"), 1),
        (("--entry", "unknown"), 0),
        (("--all",), 3),
    ],
)
def test_a_purge_takes_what_was_meant(config: Path, words: tuple[str, ...], count: int) -> None:
    assert removed(config, *words, "--dry-run") == count
    assert removed(config, *words, "--yes") == count
    assert removed(config, "--all", "--dry-run") == 3 - count


def test_a_purge_says_how_much_and_asks_where_somebody_is(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cli.options.on_terminal", lambda: True)
    refused = run(config, "purge", "--key", "key_a", answer="n\n")
    assert refused.exit_code == 1
    assert "Remove 2 entries" in refused.output
    assert removed(config, "--all", "--dry-run") == 3
    assert "removed 2 entries" in run(config, "purge", "--key", "key_a", answer="y\n").output
    assert removed(config, "--all", "--dry-run") == 1
    monkeypatch.undo()
    assert "removed 1 entries" in run(config, "purge", "--all").output  # a script is not asked


@pytest.mark.parametrize("words", [(), ("--all", "--tag", "red")])
def test_a_purge_that_is_not_clear_is_wrong_usage(config: Path, words: tuple[str, ...]) -> None:
    assert run(config, "purge", *words).exit_code == 2
    assert removed(config, "--all", "--dry-run") == 3


def test_a_shift_of_similarities_is_told(config: Path, shared_redis: RedisServer) -> None:
    async def seen() -> None:
        redis, today = client(shared_redis.url), day(int(time.time() * 1000))
        await redis.hset(Keys().days, mapping={f"{today}:19": 50, f"{today - 1}:18": 250, f"{today - 8}:19": 300})
        await redis.aclose()

    asyncio.run(seen())
    assert "a drift" in run(config, "stats").output
    told = json.loads(run(config, "stats", "--json").stdout)
    assert (told["drifts"], sum(told["similarity_before"])) == (True, 300)
