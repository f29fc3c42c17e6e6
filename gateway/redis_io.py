"""Redis on the hot path: one connection a worker, on which the commands of concurrent requests share round trips.

Commands issued within one turn of the event loop leave in one write, and replies are matched in order (Redis answers a
connection in order). What no client waits for, settling, travels with the next request's first command. Measured beside
redis-py on one core: 7–17 µs of CPU a command against 50–100 µs. Whatever is not on the way of a request (streams,
admin, background) uses redis-py through :func:`client`.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import hiredis

from gateway.config import Settings, socket_path
from gateway.errors import RedisAway

if TYPE_CHECKING:
    from redis.asyncio import Redis

_PENDING_MAX = 20_000
_PATIENCE_S = 0.005
_READING_S = 0.05
# At the start of a reply, or behind a "-" where Redis 6.2 quotes the error of a command inside a script.
_AWAY = re.compile(r"(?:^|.* -)(?:LOADING|OOM|READONLY|MISCONF|MASTERDOWN|CLUSTERDOWN|NOREPLICAS|BUSY)\b")


class Keys:
    """Names of everything kept in Redis for one organisation; the hash tag keeps them on one cluster slot."""

    def __init__(self, organisation: str = "default") -> None:
        prefix = f"fg:{{{organisation}}}:"
        self.prefix = prefix
        self.api_keys = prefix + "keys"
        self.intents = prefix + "intents"
        self.swept = prefix + "swept"
        self.ledger = prefix + "ledger"
        self.events = prefix + "events"
        self.told = prefix + "told"
        self.entries = prefix + "cache:entries"
        self.sizes = prefix + "cache:sizes"
        self.bytes = prefix + "cache:bytes"
        self.worth = prefix + "cache:worth"
        self.saved = prefix + "cache:saved"
        self.hits = prefix + "cache:hits"
        self.days = prefix + "cache:days"
        self.lessons = prefix + "cache:lessons"
        self.definitions = prefix + "definitions"
        self.ceilings = prefix + "ceilings"
        self.accounts = prefix + "accounts"
        self.alerts = prefix + "alerts"
        self.experiments = prefix + "experiments"

    def limits(self, key_id: str) -> str:
        return f"{self.prefix}l:{key_id}"

    def running(self, key_id: str) -> str:
        return f"{self.prefix}c:{key_id}"

    def budget(self, account: str) -> str:
        return f"{self.prefix}b:{account}"

    def once(self, request_id: str) -> str:
        return f"{self.prefix}once:{request_id}"

    def warm(self, conversation: str) -> str:
        return f"{self.prefix}w:{conversation}"

    def alive(self, worker: str) -> str:
        return f"{self.prefix}alive:{worker}"

    def missing(self, worker: str) -> str:
        return f"{self.prefix}missing:{worker}"

    def exact(self, digest: str) -> str:
        return f"{self.prefix}x:{digest}"

    def normal(self, digest: str) -> str:
        return f"{self.prefix}n:{digest}"

    def outcomes(self, partition: str) -> str:
        return f"{self.prefix}o:{partition}"

    def vectors(self, partition: str) -> str:
        return f"{self.prefix}v:{partition}"


class Script:
    """A Lua script with its digest. Only what Redis 6.2 has."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


def redis_url(settings: Settings) -> str:
    """Where Redis is: the configured URL, or the embedded server's socket."""
    return settings.config.redis.url or f"unix://{socket_path(settings.data_dir, 'redis')}"


def client(url: str, **options: Any) -> Redis:
    """A redis-py client (bytes in, bytes out) for everything off the hot path. Retrying is its callers' business."""
    from redis.asyncio import Redis as Client
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    return Client.from_url(url, **{"retry": Retry(NoBackoff(), 0), **options})


class _Connection(asyncio.Protocol):
    """RESP over one transport; replies resolve futures in order."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.pending: deque[tuple[asyncio.Future[Any], float]] = deque()
        self.lost = self.loop.create_future()
        self._reader = hiredis.Reader()
        self._out: list[bytes] = []
        self._flushing = False
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is one without saying so

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            future, _ = self.pending.popleft()
            if not future.done():
                future.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        for future, _ in self.pending:
            if not future.done():
                future.set_exception(RedisAway("connection lost"))
        self.pending.clear()
        if not self.lost.done():
            self.lost.set_result(None)

    def send(self, args: tuple[Any, ...], *, patient: bool = False) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.loop.create_future()
        self.pending.append((future, self.loop.time()))
        if not patient and not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush)
        elif patient and not self._out:
            self.loop.call_later(_PATIENCE_S, self._flush)
        self._out.append(hiredis.pack_command(args))
        return future

    def _flush(self) -> None:
        out, self._out, self._flushing = self._out, [], False
        if out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(out))

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _checked(reply: Any) -> Any:
    """What Redis said, unless that is an error."""
    if not isinstance(reply, hiredis.ReplyError):
        return reply
    if _AWAY.match(str(reply)):
        raise RedisAway(str(reply))
    raise reply


class RedisLink:
    """A self-mending connection. Calls fail at once while it is away, and within ``timeout_s`` when Redis hangs.

    ``scripts`` are loaded with each connection: one that Redis did not know would run after commands sent later.
    """

    def __init__(self, url: str, *, timeout_s: float = 0.5, scripts: Sequence[Script] = ()) -> None:
        from redis.asyncio.connection import parse_url

        self._where: dict[str, Any] = dict(parse_url(url))
        self._secure = url.startswith("rediss://")
        self._timeout_s, self._scripts = timeout_s, scripts
        self._connection: _Connection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()

    @property
    def connected(self) -> bool:
        return self._connection is not None

    async def start(self, wait_s: float = 0.0) -> None:
        """Begin connecting; wait up to ``wait_s`` seconds for the first connection."""
        self._keeper = asyncio.create_task(self._keep())
        if wait_s:
            try:
                await asyncio.wait_for(self._connected.wait(), wait_s)
            except TimeoutError:
                return

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._connection is not None:
            self._connection.abort()

    async def call(self, *args: Any, patient: bool = False) -> Any:
        """Send one command, return its reply. A patient one leaves with the next that is not, or 5 ms later.

        Raises:
            RedisAway: not connected, hung, overloaded or unable to write.
            hiredis.ReplyError: the command itself was wrong (a bug).
        """
        return _checked(await self._send(args, patient))

    async def run(self, script: Script, keys: tuple[str, ...], *args: Any, patient: bool = False) -> Any:
        """Run a Lua script by digest, loading it where Redis has lost it."""
        count = str(len(keys))
        reply = await self._send(("EVALSHA", script.sha, count, *keys, *args), patient)
        if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("NOSCRIPT"):
            reply = await self._send(("EVAL", script.source, count, *keys, *args), False)
        return _checked(reply)

    def _send(self, args: tuple[Any, ...], patient: bool) -> asyncio.Future[Any]:
        connection = self._connection
        if connection is None or connection.lost.done():
            raise RedisAway("not connected")
        if len(connection.pending) >= _PENDING_MAX:
            raise RedisAway("too many commands pending")
        return connection.send(args, patient=patient)

    async def _keep(self) -> None:
        delay = 0.02
        while True:
            try:
                async with asyncio.timeout(2 * self._timeout_s):  # wait_for() may swallow the cancellation of close()
                    connection = await self._connect()
            except (OSError, TimeoutError, RedisAway, hiredis.ReplyError):
                await asyncio.sleep(delay)
                delay = min(delay * 2, 0.5)
                continue
            delay = 0.02
            self._connection = connection
            self._connected.set()
            try:
                await self._watch(connection)
            finally:
                self._connection = None
                self._connected.clear()
                connection.abort()

    async def _watch(self, connection: _Connection) -> None:
        """Until the connection is lost, or its oldest command has waited too long."""
        while not connection.lost.done():
            await asyncio.wait({connection.lost}, timeout=self._timeout_s / 2)
            oldest = connection.pending[0] if connection.pending else None
            if oldest is not None and connection.loop.time() - oldest[1] > self._timeout_s:
                # It may have been this process that stood still: what has come meanwhile is read first.
                await asyncio.wait({connection.lost}, timeout=_READING_S)
                if connection.pending and connection.pending[0] is oldest:
                    return

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        where = self._where
        if path := where.get("path"):
            _, connection = await loop.create_unix_connection(_Connection, path)
        else:
            context = ssl.create_default_context() if self._secure else None
            host, port = where.get("host", "localhost"), where.get("port", 6379)
            _, connection = await loop.create_connection(_Connection, host, port, ssl=context)
        try:
            await self._greet(connection)
        except BaseException:  # also where it takes too long and is cancelled: a socket a try would pile up
            connection.abort()
            raise
        return connection

    async def _greet(self, connection: _Connection) -> None:
        where = self._where
        if password := where.get("password"):
            user = [where["username"]] if where.get("username") else []
            await self._expect_ok(connection, "AUTH", *user, password)
        if db := where.get("db"):
            await self._expect_ok(connection, "SELECT", str(db))
        await self._expect_ok(connection, "PING")
        loading = [connection.send(("SCRIPT", "LOAD", script.source)) for script in self._scripts]
        await asyncio.gather(*loading)  # where a user may not, it is as it was: `run` sends the whole script

    @staticmethod
    async def _expect_ok(connection: _Connection, *args: str) -> None:
        reply = await connection.send(args)
        if isinstance(reply, hiredis.ReplyError):
            raise RedisAway(str(reply))
