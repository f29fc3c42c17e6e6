"""The scripted upstream as a server: which plan answers which request, and its lifecycle."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import msgspec

from tests.support.loop_thread import LoopThread
from tests.support.upstream import anthropic_wire, openai_wire
from tests.support.upstream.answer import answer
from tests.support.upstream.connection import Connection
from tests.support.upstream.plan import Plan
from tests.support.upstream.record import Received, Record, State
from tests.support.upstream.reply import Reply, raw

_ANSWERED = ("/v1/chat/completions", "/v1/messages", "/v1/embeddings", "/v1/moderations")


class Upstream:
    """A provider that does as it is told.

    A request takes the first plan there is: one enqueued for its model, one enqueued for any, `plans[model]`,
    `default`. Plans may be set from any thread while it serves. Without `record` only `total` is kept. `log`
    names a file that gets a JSON line for each reply that has ended.
    """

    def __init__(self, *, port: int = 0, record: bool = True, log: Path | None = None) -> None:
        self.default = Plan()
        self.plans: dict[str, Plan] = {}
        self.port = port
        self._once: dict[str | None, deque[Plan]] = {}
        self._record = Record(keep=record, log=log)
        self._connections: set[Connection] = set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connect, "127.0.0.1", self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in list(self._connections):
            connection.close()
        await self._server.wait_closed()
        self._record.close()

    @classmethod
    @contextmanager
    def in_thread(cls, *, port: int = 0, record: bool = True, log: Path | None = None) -> Iterator["Upstream"]:
        """Serve on a uvloop of its own, in a thread of its own."""
        with LoopThread() as thread, thread.entered(cls(port=port, record=record, log=log)) as upstream:
            yield upstream

    def reset(self) -> None:
        """Forget all plans and all requests so far; call it between requests."""
        self.default = Plan()
        self.plans.clear()
        self._once.clear()
        self._record.forget()

    @property
    def url(self) -> str:
        """Without a path, as Anthropic's client takes it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """With /v1, as OpenAI's client takes it."""
        return f"{self.url}/v1"

    @property
    def requests(self) -> list[Received]:
        """All requests so far, in the order they came; empty without `record`."""
        return self._record.requests

    @property
    def total(self) -> int:
        """How many requests there were."""
        return self._record.total

    def enqueue(self, *plans: Plan, model: str | None = None) -> None:
        """Answer the next requests, of one model or of any, with these plans, each once."""
        self._once.setdefault(model, deque()).extend(plans)

    async def wait_for(self, n: int, state: State = "received", *, within: float = 30) -> list[Received]:
        """Wait until `n` requests in all have reached `state`; returns all that have. Raises TimeoutError."""
        await self.wait_until(lambda: len(self._record.in_state(state)) >= n, within=within)
        return self._record.in_state(state)

    async def wait_until(self, predicate: Callable[[], bool], *, within: float = 30) -> None:
        """Wait, on any loop, until `predicate` holds; tried after every change here. Raises TimeoutError."""
        await asyncio.wait_for(asyncio.wrap_future(self._record.when(predicate)), within)

    def wait_for_blocking(self, n: int, state: State = "received", *, within: float = 30) -> list[Received]:
        """`wait_for`, for a caller without a loop."""
        self.wait_until_blocking(lambda: len(self._record.in_state(state)) >= n, within=within)
        return self._record.in_state(state)

    def wait_until_blocking(self, predicate: Callable[[], bool], *, within: float = 30) -> None:
        """`wait_until`, for a caller without a loop."""
        self._record.when(predicate).result(within)

    def _connect(self) -> Connection:
        return Connection(self._reply, self._record, self._connections)

    def _reply(self, received: Received) -> Reply:
        path = received.path.partition("?")[0]
        try:
            received.json = msgspec.json.decode(received.body) if received.body else None
        except msgspec.DecodeError as failure:
            return _error(path, Plan(), 400, f"We could not parse the JSON body of your request: {failure}")
        plan = self._take(received.model)
        if plan.status != 200:
            return _error(path, plan, plan.status, f"The scripted upstream answers {plan.status}.")
        if plan.raw is not None:
            return raw(plan, plan.raw)
        if (received.method, path) == ("GET", "/v1/models"):
            return openai_wire.models(self.plans or ["scripted"], plan)
        body = received.json if isinstance(received.json, dict) else {}
        if received.method == "POST" and path in _ANSWERED:
            return _answered(path, received, body, plan)
        return _error(path, plan, 404, f"Invalid URL ({received.method} {path})")

    def _take(self, model: str | None) -> Plan:
        for name in (model, None):
            if once := self._once.get(name):
                return once.popleft()
        return self.plans.get(model, self.default) if model else self.default


def _answered(path: str, received: Received, body: dict[str, object], plan: Plan) -> Reply:
    if path == "/v1/embeddings":
        return openai_wire.embeddings(body, plan)
    if path == "/v1/moderations":
        return openai_wire.moderations(body, plan)
    said = answer(received.id, body, plan)
    if path == "/v1/messages":
        return anthropic_wire.message_stream(said) if received.streamed else anthropic_wire.message(said)
    return openai_wire.chat_stream(said) if received.streamed else openai_wire.chat(said)


def _error(path: str, plan: Plan, status: int, message: str) -> Reply:
    if path == "/v1/messages":
        return anthropic_wire.error(plan, status, message)
    return openai_wire.error(plan, status, message)
