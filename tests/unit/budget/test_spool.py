"""Settlements on disk: what is written survives the process, is replayed in order, and once."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from gateway.budget.levels import NOTHING
from gateway.budget.reservations import CacheWrite, Settlement
from gateway.budget.spool import Spool, replay_orphans
from gateway.errors import RedisAway
from gateway.redis_io import client
from tests.support.accounts import ledger, settlement
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

WRITER = """
import asyncio, os, sys
from pathlib import Path
from gateway.budget.levels import NOTHING
from gateway.budget.spool import Spool
from tests.support.accounts import settlement

async def main():
    spool = Spool(Path(sys.argv[1]), "w1")
    for n in range(3):
        await spool.append(settlement(f"r{n}", n, NOTHING, intent=False))
    print("written", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""

FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from gateway.budget.levels import NOTHING
from gateway.budget import spool as module
from gateway.budget.spool import Spool
from tests.support.accounts import settlement

async def main():
    module.RETRY_S = 0.0
    spool = Spool(Path(sys.argv[1]), "w1")
    await spool.append(settlement("first", 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (spool.path.stat().st_size + 100, resource.RLIM_INFINITY))
    await spool.append(settlement("no room", 2))
    kept = []
    async def keep(one):
        kept.append(one.entry.request_id)
        raise ConnectionError("Redis is away")
    try:
        await spool.replay(keep)
    except ConnectionError:
        print(kept, spool.waiting)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await spool.append(settlement("third", 3))
    print([line.split(b'"request_id":"')[1].split(b'"')[0].decode() for line in spool.path.read_bytes().splitlines()])

asyncio.run(main())
"""


class Books:
    """Counts what it is handed; away while ``away``, or after ``breaks_after`` settlements."""

    def __init__(self) -> None:
        self.seen: list[Settlement] = []
        self.away = False
        self.breaks_after = 1 << 30

    async def settle(self, one: Settlement) -> None:
        if self.away or len(self.seen) >= self.breaks_after:
            raise RedisAway("not connected")
        self.seen.append(one)

    @property
    def ids(self) -> list[str]:
        return [one.entry.request_id for one in self.seen]


def unseen(name: str, cost: int = 1) -> Settlement:
    return settlement(name, cost, NOTHING, intent=False)


async def test_what_was_kept_comes_back_whole_and_in_order(tmp_path: Path) -> None:
    spool, books = Spool(tmp_path / "new" / "folder", "w1"), Books()
    store = CacheWrite(digest="d", normal=None, partition="p", value=b"\x00\xff\n", ttl_ms=1, expires_ms=2)
    kept = [settlement("r1", 2**60), settlement("r2", tokens=7, store=store), unseen("r3")]
    for one in kept:
        await spool.append(one)
    assert spool.waiting == 3
    assert await spool.replay(books.settle) == 3
    assert books.seen == kept
    assert (spool.waiting, spool.path.stat().st_size) == (0, 0)
    assert await spool.replay(books.settle) == 0
    spool.close()
    assert not spool.path.exists()


async def test_concurrent_appends_share_their_fsyncs_and_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def watched(file: int) -> None:
        synced.append(file)
        fsync(file)

    monkeypatch.setattr(os, "fsync", watched)
    spool, books = Spool(tmp_path, "w1"), Books()

    await asyncio.gather(*(spool.append(settlement(f"r{n}")) for n in range(200)))

    assert len(synced) <= 3
    assert len(spool.path.read_bytes().splitlines()) == 200
    assert await spool.replay(books.settle) == 200
    assert books.ids == [f"r{n}" for n in range(200)]
    spool.close()


async def test_a_replay_that_breaks_off_keeps_everything_for_the_next(tmp_path: Path) -> None:
    spool, books = Spool(tmp_path, "w1"), Books()
    for n in range(4):
        await spool.append(settlement(f"r{n}"))
    books.breaks_after = 2
    with pytest.raises(RedisAway):
        await spool.replay(books.settle)
    assert spool.waiting == 4
    books.breaks_after = 100
    assert await spool.replay(books.settle) == 4
    assert books.ids == ["r0", "r1", "r0", "r1", "r2", "r3"]  # settling twice counts once
    spool.close()


async def test_what_arrives_during_a_replay_waits_for_the_next(tmp_path: Path) -> None:
    spool, books = Spool(tmp_path, "w1"), Books()
    await spool.append(settlement("r1"))
    late: list[asyncio.Task[None]] = []

    async def slow(one: Settlement) -> None:
        if not late:
            late.append(asyncio.create_task(spool.append(settlement("r2"))))
            await asyncio.sleep(0)
        await books.settle(one)

    assert await spool.replay(slow) == 1
    await late[0]
    assert spool.waiting == 1
    assert await spool.replay(slow) == 1
    assert books.ids == ["r1", "r2"]
    spool.close()


async def test_a_full_file_stays_behind_for_the_background_process(tmp_path: Path, redis: Redis) -> None:
    spool = Spool(tmp_path, "w1")
    await spool.append(unseen("r1"))
    assert await replay_orphans(redis, tmp_path) == 0  # its owner is alive
    assert spool.path.exists()
    spool.close()
    assert spool.path.exists()
    assert await replay_orphans(redis, tmp_path) == 1
    assert [row.request_id for row in await ledger(redis)] == ["r1"]
    assert not spool.path.exists()
    Spool(tmp_path, "w2").close()


async def test_a_killed_process_has_kept_what_it_was_told_is_kept(tmp_path: Path, redis: Redis) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, str(tmp_path), stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"written\n"
    assert await replay_orphans(redis, tmp_path) == 0
    process.kill()
    await process.wait()

    assert await replay_orphans(redis, tmp_path) == 3

    rows = await ledger(redis)
    assert [(row.request_id, row.cost_nano) for row in rows] == [("r0", 0), ("r1", 1), ("r2", 2)]
    assert await replay_orphans(redis, tmp_path) == 0


async def test_a_line_that_a_dying_worker_tore_is_left_out(tmp_path: Path, redis: Redis) -> None:
    line = msgspec.json.encode(unseen("r1"))
    (tmp_path / "dead.jsonl").write_bytes(line + b"\n" + msgspec.json.encode(unseen("r2"))[:-9])
    assert await replay_orphans(redis, tmp_path) == 1
    assert [row.request_id for row in await ledger(redis)] == ["r1"]


async def test_a_replay_of_orphans_that_breaks_off_is_taken_up_again_by_the_same_process(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    for n in range(3):
        (tmp_path / f"dead{n}.jsonl").write_bytes(msgspec.json.encode(unseen(f"r{n}")) + b"\n")
    own_redis.kill()
    away = client(own_redis.url, socket_connect_timeout=0.2)
    with pytest.raises((RedisConnectionError, OSError)):
        await replay_orphans(away, tmp_path)
    await away.aclose()
    own_redis.start()
    redis = client(own_redis.url)
    assert await replay_orphans(redis, tmp_path) == 3
    assert len(await ledger(redis)) == 3
    await redis.aclose()


async def test_a_file_the_background_process_took_away_while_it_was_empty_is_made_anew(tmp_path: Path) -> None:
    """Between the making of the file and the locking of it, it looks like an orphan's."""
    spool, books = Spool(tmp_path, "w1"), Books()
    background = os.open(spool.path, os.O_CREAT | os.O_RDWR)
    fcntl.flock(background, fcntl.LOCK_EX)
    appending = asyncio.create_task(spool.append(settlement("r1")))
    await until(lambda: threading.active_count() > 1 and len(_open_files(spool.path)) > 1)
    spool.path.unlink()
    os.close(background)
    await appending
    assert b'"r1"' in spool.path.read_bytes()
    assert await spool.replay(books.settle) == 1
    spool.close()


def _open_files(path: Path) -> list[str]:
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return [link for link in links if os.path.exists(link) and os.path.realpath(link) == str(path)]


def test_what_a_full_disk_refuses_waits_in_memory_and_no_line_is_torn(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["['first'] 2", "['first', 'no room', 'third']"], done.stderr


async def test_what_no_disk_takes_is_settled_once_redis_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.budget.spool.UNWRITTEN_MAX", 2)
    (tmp_path / "spool").write_text("a file where the folder would be")
    spool, books = Spool(tmp_path / "spool", "w1"), Books()

    for n in range(3):
        await spool.append(settlement(f"r{n}"))

    assert spool.waiting == 2
    assert caplog.messages.count("a settlement is lost: Redis is away and the disk full") == 1
    books.away = True
    with pytest.raises(RedisAway):
        await spool.replay(books.settle)
    books.away = False
    assert await spool.replay(books.settle) == 2
    assert (books.ids, spool.waiting) == (["r0", "r1"], 0)
    spool.close()


async def test_what_is_on_disk_is_only_for_the_owner(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", "w1")
    await spool.append(settlement("r1"))
    assert (spool.path.stat().st_mode & 0o777, spool.path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    spool.close()
