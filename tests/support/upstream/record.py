"""What the scripted upstream received, and ways to wait for it without sleeping."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from pathlib import Path
from typing import Any, Literal, TextIO

import msgspec

from tests.support.upstream.plan import Plan, Usage

State = Literal["received", "completed", "disconnected"]


_NOTHING_SAID = Plan()


class Received(msgspec.Struct, eq=False):
    """One request as it came in and what became of it. Times are `time.monotonic()` seconds.

    `usage` is what the reply has reported so far, None where it reported none. `completed`: the last byte of
    the reply was written. `disconnected`: the client left before that. A reply cut by its plan is neither.
    """

    id: str
    method: str
    path: str
    raw_headers: list[tuple[bytes, bytes]]
    body: bytes
    keep_alive: bool = True
    json: Any = None
    plan: Plan = _NOTHING_SAID
    status: int = 0
    usage: Usage | None = None
    completed: bool = False
    disconnected: bool = False
    at: float = msgspec.field(default_factory=time.monotonic)
    first_byte_at: float | None = None
    ended_at: float | None = None

    @property
    def model(self) -> str | None:
        """The model asked for, None where the body names none."""
        model = self.json.get("model") if isinstance(self.json, dict) else None
        return model if isinstance(model, str) else None

    @property
    def streamed(self) -> bool:
        """Whether the request asked for a stream."""
        return isinstance(self.json, dict) and self.json.get("stream") is True

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Names as they came, repeated ones repeated."""
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self.raw_headers]

    def header(self, name: str) -> str | None:
        """The first header of that name in any case, None where there is none."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def is_(self, state: State) -> bool:
        """Whether the request has reached `state`; every recorded request is "received"."""
        return state == "received" or (self.completed if state == "completed" else self.disconnected)


class Record:
    """All requests received, a log of them, and those who wait for a change; safe to use from any thread."""

    def __init__(self, *, keep: bool = True, log: Path | None = None) -> None:
        self.requests: list[Received] = []
        self.total = 0
        self._keep = keep
        self._log: TextIO | None = log.open("a", buffering=1) if log else None
        self._lock = threading.Lock()
        self._waiting: list[tuple[Callable[[], bool], Future[None]]] = []

    def opened(self, received: Received) -> None:
        """A request was read whole."""
        self.total += 1
        if self._keep:
            self.requests.append(received)
            self._changed()

    def ended(self, received: Received) -> None:
        """A reply is over, one way or another."""
        received.ended_at = time.monotonic()
        if self._log:
            self._log.write(msgspec.json.encode(_log_line(received)).decode() + "\n")
        if self._keep:
            self._changed()

    def forget(self) -> None:
        """As if nothing had been received yet."""
        self.requests.clear()
        self.total = 0

    def in_state(self, state: State) -> list[Received]:
        """The requests that have reached `state`, in the order they came."""
        return [received for received in self.requests if received.is_(state)]

    def when(self, predicate: Callable[[], bool]) -> Future[None]:
        """A future that is done once `predicate` holds; it is tried now and after every change."""
        future: Future[None] = Future()
        with self._lock:
            self._waiting.append((predicate, future))
        self._changed()
        return future

    def close(self) -> None:
        """Close the log."""
        if self._log:
            self._log.close()

    def _changed(self) -> None:
        with self._lock:
            self._waiting = [waiting for waiting in self._waiting if not _settled(*waiting)]


def _settled(predicate: Callable[[], bool], future: Future[None]) -> bool:
    if future.done():
        return True
    try:
        if predicate():
            future.set_result(None)
    except InvalidStateError:  # the waiter gave up just now
        return True
    except Exception as failure:  # the waiter's own mistake belongs to the waiter, not to the connection
        future.set_exception(failure)
    return future.done()


def _log_line(received: Received) -> dict[str, Any]:
    names = "id path model streamed status usage completed disconnected at ended_at"
    return {name: getattr(received, name) for name in names.split()}
