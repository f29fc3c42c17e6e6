"""``python -m gateway.background``: the one writer of the books, and the chores of a deployment.

Any number may run; the one that holds the lease in Redis works, the others wait. What it does can be done twice
without harm, so a lease that changes hands too early costs nothing but work. Redis or SQL away: it waits.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway import config, economics, log
from gateway.alerts.budgets import states
from gateway.alerts.watch import Watch
from gateway.budget.accounts import forget_ended
from gateway.budget.definitions import Budget
from gateway.budget.levels import FIELD, of_key
from gateway.budget.rebuild import rebuild
from gateway.budget.reservations import sweep
from gateway.budget.spool import replay_orphans
from gateway.cache.eviction import evict
from gateway.cache.stats import forget_days
from gateway.errors import ConfigError
from gateway.experiments.watch import Watch as ExperimentWatch
from gateway.ledger.errors import LedgerAway
from gateway.ledger.months import months_before
from gateway.ledger.store import SqlStore
from gateway.ledger.stream import Drain
from gateway.ledger.where import ledger_url
from gateway.redis_io import Keys, client, redis_url
from gateway.watching import routing
from gateway.watching.probes import Probes

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from gateway.alerts.rules import BudgetState

_NICE, _TRIES, _PAUSE_S = 5, 20, 0.1
HEARTBEAT = "fg:background"
LEASE = "fg:background:lease"
HEARTBEAT_MS, HEARTBEAT_EVERY_S = 5_000, 1.0
LEASE_MS, RENEW_EVERY_S = 5_000, 1.0
CACHE_ENTRIES, CACHE_BYTES = 100_000, 512 * 1024 * 1024
LATE_HOURS = 48
RETRY_S = 0.5
_AWAY = (RedisError, OSError, TimeoutError)

_TAKE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_GIVE_BACK = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

_log = log.get(__name__)


class Lease:
    """Who works: a key in Redis with the holder's token, which runs out unless it is renewed."""

    def __init__(self, redis: Redis) -> None:
        self._redis, self._token = redis, secrets.token_hex(16)

    async def take(self) -> bool:
        """Take or renew it; False while another process holds it."""
        return bool(await self._redis.eval(_TAKE, 1, LEASE, self._token, LEASE_MS))

    async def give_back(self) -> None:
        await self._redis.eval(_GIVE_BACK, 1, LEASE, self._token)


@dataclass(frozen=True)
class Chore:
    """Something to be done every so often (seconds), the first time after ``first_s``."""

    name: str
    every_s: float
    first_s: float
    work: Callable[[], Awaitable[object]]


def _sync_files(folder: Path) -> None:
    """Force an append-only file, which since Redis 7 is a folder of files, to disk."""
    for path in (*folder.glob("appendonly.aof"), *folder.glob("appendonlydir/*")):
        with contextlib.suppress(FileNotFoundError):  # it was rewritten just now
            file = os.open(path, os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)


class Background:
    """One process. ``run`` returns once ``stop`` is set and the batch at hand is written."""

    def __init__(self, settings: config.Settings, stop: asyncio.Event) -> None:
        options = {"retry": Retry(NoBackoff(), 0), "socket_timeout": 5.0, "socket_connect_timeout": 2.0}
        self._redis = client(redis_url(settings), **options)
        self._keys = Keys()
        self._store = SqlStore(ledger_url(settings))
        self._drain = Drain(self._redis, self._store, self._keys)
        self._lease = Lease(self._redis)
        self._settings = settings
        self._watch = Watch(self._redis, self._keys, self._store, self._budgets)
        self._experiments = ExperimentWatch(self._redis, self._keys, self._store)
        self._probes = Probes(self._redis, self._keys)
        self._looking = asyncio.Lock()
        self._spool = settings.data_dir / "spool"
        self._append_only = None if settings.config.redis.url else settings.data_dir / "redis"
        self._stop = stop
        self._checked = False

    async def run(self) -> None:
        complained = False
        while not self._stop.is_set():
            try:
                await self._wait_for_lease()
                complained = False
                await self._term()
            except _AWAY as error:
                if not complained:
                    _log.warning("redis is away", reason=str(error))
                complained = True
                await self._pause(self._stop, RETRY_S)
        await self._close()

    async def _wait_for_lease(self) -> None:
        waiting = False
        while not self._stop.is_set() and not await self._lease.take():
            if not waiting:
                _log.info("another process is at work; waiting for its lease")
            waiting = True
            await self._pause(self._stop, RENEW_EVERY_S)

    async def _term(self) -> None:
        """Work for as long as the lease is ours, Redis answers and nobody says stop."""
        over = asyncio.Event()
        tasks = [
            asyncio.create_task(work) for work in (self._keep_lease(over), self._watch_stop(over), self._work(over))
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            over.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _keep_lease(self, over: asyncio.Event) -> None:
        while not over.is_set():
            await self._pause(over, RENEW_EVERY_S)
            if not over.is_set() and not await self._lease.take():
                _log.warning("the lease went to another process")
                return

    async def _watch_stop(self, over: asyncio.Event) -> None:
        waits = [asyncio.create_task(self._stop.wait()), asyncio.create_task(over.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _work(self, over: asyncio.Event) -> None:
        await self._until_done("migrating the ledger", self._store.migrate, over)
        await self._until_done("reading what was waiting", self._drain.catch_up, over)
        self._checked = False
        await self._until_done("mirroring keys", self._mirror_keys, over)
        if over.is_set():
            return
        _log.info("at work")
        async with asyncio.TaskGroup() as group:
            for chore in self._chores():
                group.create_task(self._repeat(chore, over))
            group.create_task(self._repeat(Chore("probes", 1.0, 2.0, partial(self._probe, over)), over))
            group.create_task(self._write_rows(over))

    async def _write_rows(self, over: asyncio.Event) -> None:
        while not over.is_set():
            try:
                await self._drain.run(over)
            except _AWAY as error:
                _log.warning("redis is away", reason=str(error))
                await self._pause(over, RETRY_S)

    async def _until_done(self, what: str, work: Callable[[], Awaitable[object]], over: asyncio.Event) -> None:
        """Try until the ledger database lets us."""
        while not over.is_set():
            try:
                await work()
                return
            except LedgerAway as error:
                _log.warning("the ledger database is away", doing=what, reason=str(error))
                await self._pause(over, RETRY_S)

    def _chores(self) -> tuple[Chore, ...]:
        # Workers need a moment to say that they are alive after Redis comes back: the sweep waits for that.
        return (
            Chore("heartbeat", HEARTBEAT_EVERY_S, 0.0, self._beat),
            Chore("sweep", 2.0, 5.0, self._sweep),
            Chore("orphaned spools", 10.0, 0.0, self._replay_orphans),
            Chore("key mirror", 10.0, 10.0, self._mirror_keys),
            Chore("eviction", 10.0, 10.0, self._evict),
            Chore("retention", 3600.0, 120.0, self._forget),
            Chore("standing cost", 30.0, 0.0, self._count_standing),
            Chore("late rows", 3600.0, 60.0, self._count_late),
            Chore("alerts", 30.0, 15.0, self._look),
            Chore("routing", 600.0, 45.0, self._count_routing),
            Chore("experiments", 15.0, 1.0, self._compare),
            *((Chore("sync", 1.0, 1.0, self._sync),) if self._append_only else ()),
        )

    async def _repeat(self, chore: Chore, over: asyncio.Event) -> None:
        await self._pause(over, chore.first_s)
        while not over.is_set():
            try:
                await chore.work()
            except (*_AWAY, LedgerAway) as error:
                _log.warning("a chore has to wait", chore=chore.name, reason=str(error))
            except Exception:  # one chore's bug must not stop the writer of the books
                _log.exception("a chore failed", chore=chore.name)
            await self._pause(over, chore.every_s)

    async def _beat(self) -> None:
        """What /readyz reads: ``ledger`` is ``ok``, or why SQL cannot be written."""
        state = {"pid": os.getpid(), "ledger": self._drain.away or "ok"}
        await self._redis.set(HEARTBEAT, msgspec.json.encode(state), px=HEARTBEAT_MS)

    async def _sweep(self) -> None:
        if crashed := await sweep(self._redis, _now_ms()):
            _log.warning("requests of workers that died are booked as crashed", requests=crashed)

    async def _replay_orphans(self) -> None:
        if replayed := await replay_orphans(self._redis, self._spool):
            _log.info("settlements of workers that died are replayed from disk", requests=replayed)

    async def _evict(self) -> None:
        if evicted := await evict(self._redis, CACHE_ENTRIES, CACHE_BYTES):
            _log.info("cache entries evicted", entries=evicted)
        await forget_days(self._redis, _now_ms())

    async def _compare(self) -> None:
        if await self._experiments.look(self._fresh_settings().policies_dir):
            await self._look()  # an arm that was stopped is told at once

    async def _count_standing(self) -> None:
        await economics.keep_count(self._store, self._fresh_settings().config.models, _now_ms())

    async def _count_late(self) -> None:
        """Rows that were spooled reach the books hours after their time."""
        await economics.keep_count(self._store, self._fresh_settings().config.models, _now_ms(), hours=LATE_HOURS)

    async def _count_routing(self) -> None:
        bounds = self._fresh_settings().config.monitoring
        await routing.keep(self._redis, self._keys, self._store, bounds, _now_ms())

    async def _look(self) -> None:
        async with self._looking:  # two at once would tell a thing twice
            for told in await self._watch.look(self._fresh_settings()):
                _log.info("told", alert=told.key)

    async def _probe(self, over: asyncio.Event) -> None:
        """A round takes minutes: it is broken off when the process is to stop."""
        asking = asyncio.create_task(self._probes.tick(self._settings))
        stopping = asyncio.create_task(over.wait())
        await asyncio.wait((asking, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not asking.done():
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        elif asking.result():
            await self._look()

    async def _budgets(self) -> list[BudgetState]:
        return await states(self._redis, self._keys, await self._store.keys(), _now_ms())

    def _fresh_settings(self) -> config.Settings:
        """As the file says now; as it said before, where it is wrong (the workers complain)."""
        with contextlib.suppress(ConfigError):
            fresh = config.load(self._settings.file or None)
            self._settings = msgspec.structs.replace(self._settings, config=fresh.config)
        return self._settings

    async def _forget(self) -> None:
        kept, now = self._settings.config.ledger.keep_months, _now_ms()
        before_ms = 0 if kept is None else months_before(now, kept)
        if gone := await self._store.forget(before_ms, now):
            _log.info("months that are no longer kept are gone", months=gone)

    async def _sync(self) -> None:
        """The embedded Redis writes before it answers, and leaves fsync to us."""
        if self._append_only:
            await asyncio.to_thread(_sync_files, self._append_only)

    async def _mirror_keys(self) -> None:
        """Put back what Redis has lost: definitions of keys, and what their budgets have spent."""
        records = await self._store.keys()
        pipe = self._redis.pipeline(transaction=False)
        for record in records:
            pipe.hsetnx(self._keys.api_keys, record["hash"], msgspec.json.encode(record))
        if restored := sum(await pipe.execute()):
            _log.warning("keys that Redis had lost are back", keys=restored)
        await self._mirror_budgets(records)

    async def _mirror_budgets(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Definitions last: until they are back, nothing is admitted on counters that may be wrong."""
        kept = await self._store.definitions()
        budgets = [msgspec.json.decode(value, type=Budget) for field, value in kept.items() if field.startswith(FIELD)]
        budgets += [
            of_key(record["id"], record["name"], record["organisation"], record["budget_nano"])
            for record in records
            if record["budget_nano"] is not None and not record["revoked_ms"]
        ]
        await rebuild(self._redis, self._keys, budgets, self._spent_of, _now_ms(), lost_only=self._checked)
        self._checked = True
        pipe = self._redis.pipeline(transaction=False)
        for field, value in kept.items():
            pipe.hsetnx(self._keys.definitions, field, value)
        if sum(await pipe.execute()):
            await self._redis.xadd(self._keys.events, {"definitions": ""}, maxlen=10_000, approximate=True)
        await forget_ended(self._redis, self._keys)

    async def _spent_of(self, budget: Budget, since_ms: int, width_ms: int | None) -> Mapping[str, Mapping[int, int]]:
        if budget.id == budget.subject:  # written on a key, and counted since the books began
            return {budget.subject: {0: (await self._store.spent()).get(budget.subject, 0)}}
        return await self._store.spent_by(msgspec.structs.asdict(budget), since_ms, width_ms)

    async def _close(self) -> None:
        try:
            await self._lease.give_back()
        except _AWAY as error:
            _log.warning("the lease could not be given back", reason=str(error))
        await self._redis.aclose()
        await self._store.close()

    @staticmethod
    async def _pause(until: asyncio.Event, seconds: float) -> None:
        try:
            await asyncio.wait_for(until.wait(), seconds)
        except TimeoutError:
            return


def _now_ms() -> int:
    return int(time.time() * 1000)


async def _serve(settings: config.Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Background(settings, stop).run()


def main(arguments: list[str] | None = None) -> int:
    """Run until SIGTERM. Exit status: 0 stopped, 1 the configuration is wrong, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m gateway.background", description="The writer of the books.")
    parser.add_argument("--config", help="gateway.yaml (or GATEWAY_CONFIG)")
    chosen = parser.parse_args(arguments)
    log.setup("background")
    try:
        settings = config.load(chosen.config)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    os.umask(0o077)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    _give_way()
    asyncio.run(_serve(settings))
    return 0


def _give_way() -> None:
    """Live traffic comes first; the books may lag a little while it peaks.

    Where Linux schedules by session (autogroup, its default) niceness counts among the processes of a session only, and
    this one leads a session of its own under the supervisor: the whole of it gives way, then.
    """
    os.nice(_NICE)
    if os.getsid(0) != os.getpid():
        return
    for _ in range(_TRIES):
        try:
            Path("/proc/self/autogroup").write_text(str(_NICE), encoding="ascii")
        except BlockingIOError:  # of all sessions of a machine only one can be weighed in a tenth of a second
            time.sleep(_PAUSE_S)
        except OSError:
            return
        else:
            return


if __name__ == "__main__":
    sys.exit(main())
