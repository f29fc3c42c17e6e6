"""A worker in this process: the real application under real uvicorn on loopback, with a real Redis beside it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import uvicorn
import yaml

from gateway.backends.fleet import Fleet
from gateway.backends.operations import Operations
from gateway.config import load
from gateway.http.worker import build_runtime, server_config
from gateway.runtime import Runtime
from gateway.types import LedgerEntry
from gateway.warmth import Warmth
from tests.support.redis_server import RedisServer
from tests.support.waiting import until

ADMIN = "admin-secret-for-tests"
LOCAL_PRICE = {"usd_per_hour": 0.04}
PRICE = {"input": 2.5, "output": 10, "cached_input": 1.25}
EVERYTHING_BIG = {"name": "default", "baseline": "big", "rules": [{"name": "all", "use": ["big"]}]}


def hosted(name: str, base_url: str, **more: Any) -> dict[str, Any]:
    """An openai_compatible target with a price."""
    return {
        "name": name,
        "provider": "openai_compatible",
        "base_url": base_url,
        "api_key": "${BIG_KEY}",
        "price": PRICE,
        "max_retries": 0,
        **more,
    }


def local(name: str, base_url: str, **more: Any) -> dict[str, Any]:
    """A local model that is served behind a URL."""
    return {"name": name, "local": "smollm2-135m-instruct", "url": base_url, **LOCAL_PRICE, **more}


class Gateway:
    """What a test holds: where it answers, and its inside."""

    def __init__(self, url: str, runtime: Runtime, redis: RedisServer, folder: Path) -> None:
        self.url, self.runtime, self.redis, self.folder = url, runtime, redis, folder
        self.base_url = f"{url}/v1"
        self.http = httpx.AsyncClient(base_url=url, timeout=30.0, limits=httpx.Limits(max_connections=None))
        self._ids: dict[str, str] = {}

    async def chat(
        self, prompt: str = "hello", *, key: str = "", headers: Mapping[str, str] | None = None, **body: Any
    ) -> httpx.Response:
        """POST a chat completion; the httpx response, read whole."""
        content = {"model": "auto", "messages": [{"role": "user", "content": prompt}], **body}
        return await self.http.post("/v1/chat/completions", json=content, headers=_headers(key, headers))

    @contextlib.asynccontextmanager
    async def open(
        self, prompt: str = "hello", *, key: str = "", headers: Mapping[str, str] | None = None, **body: Any
    ) -> AsyncIterator[httpx.Response]:
        """A streamed chat completion, open: its head has come, its body is the caller's to read or leave."""
        content = {"model": "auto", "messages": [{"role": "user", "content": prompt}], "stream": True, **body}
        given = _headers(key, headers)
        async with self.http.stream("POST", "/v1/chat/completions", json=content, headers=given) as reply:
            yield reply

    async def get(self, path: str, key: str = "") -> httpx.Response:
        return await self.http.get(path, headers=_headers(key))

    async def key(self, name: str = "test", **limits: Any) -> str:
        """A fresh API key."""
        reply = await self.admin("POST", "/admin/keys", json={"name": name, **limits})
        assert reply.status_code == 201, reply.text
        made = reply.json()
        self._ids[made["key"]] = made["id"]
        return str(made["key"])

    def key_id(self, key: str) -> str:
        """The id of a key made here."""
        return self._ids[key]

    async def admin(self, method: str, path: str, **more: Any) -> httpx.Response:
        return await self.http.request(method, path, headers={"authorization": f"Bearer {ADMIN}"}, **more)

    async def rows(self, count: int) -> list[LedgerEntry]:
        """All rows on the ledger stream, once there are ``count``; one more fails the test."""
        with contextlib.suppress(TimeoutError):
            await until(lambda: self._has_rows(count), within_s=20)
        await self.runtime.books.drain()  # what is still being settled would be a row too many
        rows = await self._rows()
        assert len(rows) == count, [(row.request_id, row.status, row.error) for row in rows]
        return rows

    async def fresh(self) -> None:
        """As if just started: Redis is empty, no conversation is known, and every target is well."""
        runtime, view = self.runtime, self.runtime.view
        await runtime.books.drain()
        await runtime.redis.flushdb()
        runtime.ring.forget()
        runtime.books.tree.load({b"": b""})
        runtime.semantic.apply({b"purge": b""})
        runtime.pipeline.settling.warmth = Warmth(runtime.books)
        operations = Operations.build(view.settings, view.prices)
        runtime.view = msgspec.structs.replace(view, fleet=Fleet.build(view.settings), operations=operations)
        await asyncio.gather(view.fleet.close(), view.operations.close())

    async def budget(self, key: str) -> dict[str, int]:
        """``left``, ``reserved``, ``spent`` and ``limit`` of a key's budget, nano-dollars; {} before its first use."""
        held: Any = await self.runtime.redis.hgetall(self.runtime.keys.budget(self.key_id(key)))
        return {name: int(held[name.encode()]) for name in ("limit", "left", "reserved", "spent") if held}

    async def nothing_held(self, key: str) -> None:
        """Assert that every request is settled: no intent, no slot and no part of the budget is held."""
        await self.runtime.books.drain()
        assert await self.runtime.redis.hkeys(self.runtime.keys.intents) == []
        assert await self.runtime.redis.zcard(self.runtime.keys.running(self.key_id(key))) == 0
        budget = await self.budget(key)
        if budget:
            assert budget["reserved"] == 0
            assert budget["left"] + budget["spent"] == budget["limit"]

    async def _has_rows(self, count: int) -> bool:
        return len(await self._rows()) >= count

    async def _rows(self) -> list[LedgerEntry]:
        messages: Any = await self.runtime.redis.xrange(self.runtime.keys.ledger)
        return [msgspec.json.decode(fields[b"e"], type=LedgerEntry) for _, fields in messages if b"e" in fields]


def _headers(key: str, headers: Mapping[str, str] | None = None) -> dict[str, str]:
    return dict(headers or {}) | ({"authorization": f"Bearer {key}"} if key else {})


def events(text: str) -> list[Any]:
    """The JSON of each event of a stream that ended as it should, with [DONE]."""
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert lines[-1] == "[DONE]", lines
    return [json.loads(line) for line in lines[:-1]]


def said(events_: Sequence[Any]) -> str:
    """The text of a stream's first choice."""
    deltas = [choice["delta"] for event in events_ for choice in event["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


def write_policies(folder: Path, policies: Sequence[Mapping[str, Any]]) -> None:
    (folder / "policies").mkdir(exist_ok=True)
    for policy in policies:
        (folder / "policies" / f"{policy['name']}.yaml").write_text(yaml.safe_dump(dict(policy)))


@contextlib.asynccontextmanager
async def gateway(
    folder: Path,
    models: Sequence[Mapping[str, Any]],
    policies: Sequence[Mapping[str, Any]] = (EVERYTHING_BIG,),
    *,
    env: Mapping[str, str] | None = None,
    **sections: Any,
) -> AsyncIterator[Gateway]:
    """A gateway over these models and policies; the embedder is off unless a section says otherwise."""
    config = {
        "data_dir": str(folder / "data"),
        "redis": {"url": f"unix://{folder}/redis.sock"},
        "embedder": {"enabled": False},
        "models": [dict(model) for model in models],
        **sections,
    }
    (folder / "gateway.yaml").write_text(yaml.safe_dump(config))
    write_policies(folder, policies)
    surroundings = {"GATEWAY_ADMIN_KEY": ADMIN, "BIG_KEY": "upstream-secret", **(env or {})}
    redis = RedisServer(folder).start()
    try:
        settings = load(folder / "gateway.yaml", surroundings)
        async with serving(build_runtime(settings)) as (url, runtime):
            under_test = Gateway(url, runtime, redis, folder)
            async with under_test.http:
                yield under_test
    finally:
        redis.kill()


@contextlib.asynccontextmanager
async def serving(runtime: Runtime) -> AsyncIterator[tuple[str, Runtime]]:
    """Uvicorn on this loop, on a free port."""
    # asyncio switches Nagle's algorithm off only where the protocol is spelled out: else each reply takes 40 ms more.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    listening.listen(2048)
    server = uvicorn.Server(server_config(runtime, loop="none"))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    task = asyncio.create_task(server.serve(sockets=[listening]))
    await until(lambda: server.started or task.done())
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", runtime
    finally:
        server.should_exit = True
        await task
