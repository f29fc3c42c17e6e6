"""Taking somebody out of everything this gateway keeps: Redis, SQL, the spool, snapshots and what files remember.

What was spent stays in the books, who spent it does not. In this order, so that nothing comes back:

1. what is on its way to SQL arrives there: spooled settlements, the ledger stream;
2. a key's definition goes, so that it is refused from now on; what it did meanwhile arrives too;
3. stored answers go that were made for them (known by the moment and model of their rows), and what the cache learnt
   from their requests; and what they have in files and batches;
4. budgets of their own go, rows lose identity, tags, session and inputs, kept contents are deleted, and the database
   writes anew what held them (:meth:`SqlStore.erase`);
5. counters and limits that carry the name go, unreadable messages and our own logs lose it;
6. snapshots go (they are made anew) with what local models keep of conversations, and Redis writes its file anew,
   without the past.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from redis.exceptions import ResponseError, WatchError

from gateway.batches import erasing
from gateway.budget.accounts import opened
from gateway.budget.definitions import Budget
from gateway.budget.levels import FIELD
from gateway.budget.spool import replay_orphans
from gateway.cache import exact, lessons, snapshot
from gateway.cache.eviction import drop
from gateway.cache.forgetting import forget
from gateway.ledger.answers import Period
from gateway.ledger.stream import Drain, dead_key
from gateway.redis_io import Keys
from gateway.types import Frozen, LedgerEntry

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from gateway.ledger.store import SqlStore

Who = Literal["user", "key"]
PATIENCE_S = 10.0
REVOKED_WITHIN_S = 1.0  # what every worker promises
REWRITE_S = 300.0
LEAST_LETTERS = 6
_EVER = Period(0, 1 << 52)
_WRITING = ("aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress")
_AT_ONCE = 200
_CHUNK = 4 * 1024 * 1024


class Report(Frozen, frozen=True, kw_only=True):
    """What was erased. ``contents``: kept ones, and files, batches and lines of them. ``left``: files of the data
    folder in which the name can still be read.
    """

    rows: int
    contents: int
    cache_entries: int
    counters: int
    definitions: int
    left: tuple[str, ...]


class Eraser:
    """One erasure; ``redis`` and ``store`` may be in use by a running gateway."""

    def __init__(self, redis: Redis, store: SqlStore, data_dir: Path, keys: Keys | None = None) -> None:
        self._redis, self._store, self._data_dir = redis, store, data_dir
        self._keys = keys or Keys()

    async def erase(self, who: Who, name: str) -> Report:
        """Erase an end user, or a key by its id.

        Raises:
            LedgerAway, redis.RedisError: half done; run it again.
        """
        left = await self._arrive()
        definitions, called = 0, {name}
        if who == "key":
            called |= await self._called(name)
            definitions = await self._forget_definitions(name)
            await asyncio.sleep(REVOKED_WITHIN_S)
            left = await self._arrive()
        entries = await self._drop_entries(who, name)
        of_batches = await asyncio.to_thread(erasing.erase, self._data_dir, who, name)
        await self._forget_budgets(who, name)
        erased = await self._store.erase(**{"end_user" if who == "user" else "key_id": name})
        counters = await self._drop_budgets(who, name) + await self._drop_counters(name)
        counters += await self._blank_dead(who, name)
        await self._redis.xadd(self._keys.events, {"erased": b"1"}, maxlen=10_000, approximate=True)
        await asyncio.to_thread(_remove_snapshots, self._data_dir)
        left += await self._rewrite()
        await asyncio.to_thread(_mask_logs, self._data_dir / "logs", called)
        if len(name) >= LEAST_LETTERS:
            left += await asyncio.to_thread(_found_in_files, self._data_dir, name)
        return Report(
            rows=erased.rows,
            contents=erased.contents + of_batches,
            cache_entries=entries,
            counters=counters,
            definitions=definitions,
            left=tuple(left),
        )

    async def _forget_definitions(self, key_id: str) -> int:
        """In SQL first: what Redis lacks is put back from there."""
        hashes = [record["hash"] for record in await self._store.keys() if record["id"] == key_id]
        await self._store.drop_key(key_id)
        held: Any = await self._redis.hgetall(self._keys.api_keys)
        hashes += [field.decode() for field, value in held.items() if msgspec.json.decode(value).get("id") == key_id]
        for each in set(hashes):
            await self._redis.hdel(self._keys.api_keys, each)
            await self._redis.xadd(self._keys.events, {"key": each}, maxlen=10_000, approximate=True)
        return len(set(hashes))

    async def _called(self, key_id: str) -> set[str]:
        """What people call a key, where no other key is called so."""
        records = await self._store.keys()
        others = {record["name"] for record in records if record["id"] != key_id}
        return {record["name"] for record in records if record["id"] == key_id} - others

    async def _forget_budgets(self, who: Who, name: str) -> None:
        """In SQL: Redis follows."""
        for field, value in (await self._store.definitions()).items():
            if field.startswith(FIELD):
                budget = msgspec.json.decode(value, type=Budget)
                if (budget.scope, budget.subject) == (who, name):
                    await self._store.put_definition(field, "")

    async def _arrive(self) -> list[str]:
        """Have everything settled so far in SQL. Workers empty their own spools while Redis answers."""
        spool = self._data_dir / "spool"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while await asyncio.to_thread(_waiting, spool):
                    await replay_orphans(self._redis, spool, self._keys)
                    await asyncio.sleep(0.05)
        await Drain(self._redis, self._store, self._keys).catch_up()
        waiting = await asyncio.to_thread(_waiting, spool)
        return [f"{path}: settlements that could not be replayed yet" for path in waiting]

    async def _drop_entries(self, who: Who, name: str) -> int:
        """Stored answers carry no owner; the moment and the model of the request that stored one tell whose it is."""
        made = {(row.ts_ms, row.model) async for row in self._rows(who, name)}
        if await lessons.forget(self._redis, self._keys, made, name if who == "key" else None):
            await self._made_anew(self._keys.lessons)
        await forget(self._redis, self._keys, made)
        ids = [entry_id async for entry_id, when, model in self._entries() if (when, model) in made]
        dropped = 0
        for start in range(0, len(ids), _AT_ONCE):
            dropped += await drop(self._redis, ids[start : start + _AT_ONCE], self._keys)
        return dropped

    async def _rows(self, who: Who, name: str) -> AsyncIterator[LedgerEntry]:
        where: Any = {"end_user" if who == "user" else "key_id": (name,)}
        async for some in self._store.scan(_EVER, where):
            for row in some:
                yield row

    async def _entries(self) -> AsyncIterator[tuple[str, int, str]]:
        """Every stored answer as (id, when it was made, by which model)."""
        held: Any = await self._redis.zrange(self._keys.entries, 0, -1)
        ids = [entry_id.decode() for entry_id in held]
        for start in range(0, len(ids), _AT_ONCE):
            some = ids[start : start + _AT_ONCE]
            values: Any = await self._redis.mget([self._keys.exact(entry_id) for entry_id in some])
            for entry_id, value in zip(some, values, strict=True):
                entry = exact.decode(value) if value else None
                if entry is not None:
                    yield entry_id, entry.created_ms, entry.model

    async def _drop_counters(self, name: str) -> int:
        """Keys of Redis that end in the name (limits, budgets), and what alerts say of it."""
        own = {value for value in vars(self._keys).values() if isinstance(value, str)}
        found = [
            key
            async for key in self._redis.scan_iter(match=f"{_literal(self._keys.prefix)}*", count=1000)
            if key.decode(errors="replace").endswith(f":{name}") and key.decode(errors="replace") not in own
        ]
        if found:
            await self._redis.delete(*found)
        told: Any = await self._redis.hkeys(self._keys.told)
        fields = [field for field in told if name in field.decode().split(":")]
        if fields:
            await self._redis.hdel(self._keys.told, *fields)
        return len(found) + len(fields)

    async def _drop_budgets(self, who: Who, name: str) -> int:
        """Budgets of this user or key alone, and what budgets of every user or key have counted for it."""
        held: Any = await self._redis.hgetall(self._keys.definitions)
        budgets = {
            field: msgspec.json.decode(value, type=Budget)
            for field, value in held.items()
            if field.startswith(FIELD.encode())
        }
        scoped = {budget.id for budget in budgets.values() if budget.scope == who}
        own = [field for field, budget in budgets.items() if budget.id in scoped and budget.subject == name]
        accounts = [
            account
            for account, about in await opened(self._redis, self._keys)
            if about.subject == name and (about.budget in scoped or about.budget == name)
        ]
        if accounts:
            await self._redis.hdel(self._keys.accounts, *accounts)
            await self._redis.delete(*(self._keys.budget(account) for account in accounts))
            await self._drop_events({account.encode() for account in accounts})
        ids = [name] if who == "key" else []  # of the budget that is written on a key
        ids += [budgets[field].id for field in own]
        if ids:
            await self._redis.hdel(self._keys.ceilings, *ids)
        if own:
            await self._redis.hdel(self._keys.definitions, *own)
            await self._redis.xadd(self._keys.events, {"definitions": b"1"}, maxlen=10_000, approximate=True)
        return len(accounts) + len(own)

    async def _drop_events(self, accounts: set[bytes]) -> None:
        """What was told of their budgets."""
        messages: Any = await self._redis.xrange(self._keys.alerts)
        ids = [message_id for message_id, fields in messages if fields.get(b"account") in accounts]
        if ids:
            await self._redis.xdel(self._keys.alerts, *ids)
            await self._made_anew(self._keys.alerts)

    async def _blank_dead(self, who: Who, name: str) -> int:
        """Messages that no database would take keep their money and lose the name."""
        stream, field, blanked = dead_key(self._keys), "end_user" if who == "user" else "key_id", 0
        messages: Any = await self._redis.xrange(stream)
        for message_id, fields in messages:
            if name.encode() not in b"".join(fields.values()):
                continue
            kept = {b"reason": b"erased"}
            with contextlib.suppress(msgspec.MsgspecError, KeyError):
                row = msgspec.json.decode(fields[b"e"], type=dict[str, Any])
                if row.get(field) != name:
                    continue
                money = {part: row[part] for part in ("request_id", "ts_ms", "model", "cost_nano") if part in row}
                kept[b"e"] = msgspec.json.encode(money)
            pipe = self._redis.pipeline(transaction=True)
            pipe.xdel(stream, message_id)
            pipe.xadd(stream, kept)  # type: ignore[arg-type]
            await pipe.execute()
            blanked += 1
        if blanked:
            await self._made_anew(stream)
        return blanked

    async def _made_anew(self, stream: str) -> None:
        """The same messages in a new stream: of those deleted, Redis' memory and its snapshots keep the bytes."""
        async with self._redis.pipeline(transaction=True) as pipe:
            while True:
                with contextlib.suppress(WatchError):
                    await pipe.watch(stream)
                    messages: Any = await self._redis.xrange(stream)
                    about: Any = await self._redis.xinfo_stream(stream)
                    if about["groups"]:
                        return
                    pipe.multi()  # type: ignore[no-untyped-call]
                    pipe.delete(stream)
                    for message_id, fields in messages:
                        pipe.xadd(stream, fields, id=message_id)
                    await pipe.execute()
                    return

    async def _rewrite(self) -> list[str]:
        """A new append-only file, as commands: in a binary one, streams still hold what was deleted from them."""
        try:
            if await self._setting("appendonly") == "yes":
                await self._rewritten(await self._setting("aof-use-rdb-preamble"))
            if await self._setting("save"):
                await self._idle()
                await self._redis.bgsave()
                await self._idle()
        except (ResponseError, TimeoutError) as error:
            return [f"Redis: its files could not be written anew ({error}); run BGREWRITEAOF there"]
        return []

    async def _setting(self, name: str) -> str:
        held: Any = await self._redis.config_get(name)
        return {_text(key): _text(value) for key, value in held.items()}.get(name, "")

    async def _rewritten(self, preamble: str) -> None:
        await self._redis.config_set("aof-use-rdb-preamble", "no")
        try:
            await self._idle()
            await self._redis.bgrewriteaof()
            await self._idle()
        finally:
            await self._redis.config_set("aof-use-rdb-preamble", preamble)

    async def _idle(self) -> None:
        """Wait until Redis writes no file. Raises TimeoutError."""
        async with asyncio.timeout(REWRITE_S):
            while True:
                state: Any = await self._redis.info("persistence")
                if not any(state[kind] for kind in _WRITING):
                    return
                await asyncio.sleep(0.02)


def _literal(pattern: str) -> str:
    """For MATCH: an organisation may be named with its wildcards."""
    return "".join(f"[{letter}]" if letter in "*?[]" else letter for letter in pattern)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _waiting(spool: Path) -> list[Path]:
    return [path for path in sorted(spool.glob("*.jsonl")) if path.stat().st_size]


def _remove_snapshots(data_dir: Path) -> None:
    """And the conversations that local models keep on disk, which nobody can tell apart by who asked."""
    snapshot.remove_all(data_dir)
    shutil.rmtree(data_dir / "kv", ignore_errors=True)


def _mask_logs(logs: Path, names: set[str]) -> None:
    """In place and as long as before: whoever appends to a log goes on where it is."""
    needles = [name.encode() for name in names if len(name) >= LEAST_LETTERS]
    for path in sorted(logs.glob("*.log*")):
        with contextlib.suppress(OSError), path.open("r+b") as file:
            held = file.read()
            for needle in needles:
                at = held.find(needle)
                while at >= 0:
                    file.seek(at)
                    file.write(b"-" * len(needle))
                    at = held.find(needle, at + len(needle))


def _found_in_files(data_dir: Path, name: str) -> list[str]:
    needle = name.encode()
    return [f"{path}: the name stands in it" for path in _files(data_dir) if _holds(path, needle)]


def _files(data_dir: Path) -> Iterator[Path]:
    return (path for path in sorted(data_dir.rglob("*")) if path.is_file() and not path.is_symlink())


def _holds(path: Path, needle: bytes) -> bool:
    tail = b""
    try:
        with path.open("rb") as file:
            while piece := file.read(_CHUNK):
                if needle in tail + piece:
                    return True
                tail = piece[-len(needle) :]
    except OSError:  # gone meanwhile, as files of a running Redis may be
        return False
    return False
