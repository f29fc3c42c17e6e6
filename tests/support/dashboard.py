"""A gateway whose dashboard is looked at: a real worker with books that a test fills."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway.budget.accounts import catch_up
from gateway.budget.definitions import Budget
from gateway.budget.levels import FIELD, Tree
from gateway.ledger.store import SqlStore
from gateway.types import LedgerEntry, Principal
from tests.support.gateway import ADMIN, Gateway, gateway, hosted, local
from tests.support.ledger import key_record
from tests.support.loop_thread import LoopThread
from tests.support.traffic import NAMES

MODELS = (local("local-small", "http://127.0.0.1:9/v1"), hosted("gpt-4o-mini", "http://127.0.0.1:9/v1"))
POLICY: Mapping[str, Any] = {
    "name": "default",
    "baseline": "gpt-4o-mini",
    "rules": [
        {"name": "easy", "when": "prompt_tokens < 50", "use": ["local-small"]},
        {"name": "all", "use": ["gpt-4o-mini"]},
    ],
}


class Looked:
    """The gateway behind ``url``; its books are in ``folder``."""

    def __init__(self, thread: LoopThread, running: Gateway, folder: Path) -> None:
        self.thread, self.gateway, self.folder, self.url = thread, running, folder, running.url

    def append(self, *entries: LedgerEntry) -> None:
        self.thread.run(_fill(self.folder, entries))

    def browser(self, **headers: str) -> httpx.Client:
        """Keeps cookies, as a browser does, and asks for HTML."""
        return httpx.Client(base_url=self.url, headers={"accept": "text/html"} | headers, timeout=30.0)

    def json(self, path: str, **headers: str) -> Any:
        reply = httpx.get(f"{self.url}/dashboard{path}", headers=headers, timeout=30.0)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def key(self, name: str, **limits: Any) -> tuple[str, str]:
        """A fresh API key and its id."""
        key = self.thread.run(self.gateway.key(name, **limits))
        return key, self.gateway.key_id(key)

    def budget(self, budget_id: str, spent_nano: int, **definition: Any) -> None:
        """Define a budget, of which this much is spent in its present window."""
        self.thread.run(_define(self.gateway, Budget(id=budget_id, **definition), spent_nano))

    def admin(self) -> httpx.Client:
        """Signed in with the admin key."""
        signed_in = self.browser()
        assert signed_in.post("/dashboard/sign-in", data={"key": ADMIN}).status_code == 303
        return signed_in


@contextmanager
def looked_at(folder: Path, entries: Sequence[LedgerEntry] = (), **sections: Any) -> Iterator[Looked]:
    """Serve a gateway over books with these rows; closed with the block. A reload finds its keys in the environment."""
    with LoopThread() as thread, pytest.MonkeyPatch.context() as environment:
        environment.setenv("GATEWAY_ADMIN_KEY", ADMIN)
        environment.setenv("BIG_KEY", "upstream-secret")
        thread.run(_fill(folder, entries), timeout=60)
        with thread.entered(gateway(folder, MODELS, (POLICY,), **sections)) as running:
            yield Looked(thread, running, folder)


async def _define(running: Gateway, budget: Budget, spent_nano: int) -> None:
    runtime, now_ms = running.runtime, int(time.time() * 1000)
    await runtime.redis.hset(runtime.keys.definitions, f"{FIELD}{budget.id}", msgspec.json.encode(budget))
    tree = Tree()
    fields: Any = await runtime.redis.hgetall(runtime.keys.definitions)
    tree.load(fields)
    whose = Principal(key_id="k", team=budget.subject if budget.scope == "team" else "")
    applying = tree.levels(whose, "", (), now_ms).accounts
    applying += tree.of_model(budget.organisation, budget.subject, now_ms)
    account = next(one for one in applying if one.budget == budget.id)
    await catch_up(runtime.redis, runtime.keys, account, budget.limit_nano or 0, {account.slice: spent_nano}, now_ms)


async def _fill(folder: Path, entries: Sequence[LedgerEntry]) -> None:
    data = folder / "data"
    data.mkdir(exist_ok=True)
    store = SqlStore(f"sqlite+aiosqlite:///{data / 'ledger.sqlite3'}")
    await store.migrate()
    await store.append(entries)
    for key_id, name in NAMES.items():
        await store.put_key(key_record(key_id, name=name))
    await store.close()
