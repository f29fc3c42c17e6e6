"""What was read of days that are over, kept by a process that reads the same books again and again.

An open page asks for the same ninety days every few seconds, of which only today's change. Whoever does change a day
that is over (feedback, a row that came late, an erasure) writes a new token into the database in the same transaction;
a reader looks at it with every question and forgets what it kept under another.
"""

from __future__ import annotations

import itertools
import secrets
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, select

from gateway.ledger import statements
from gateway.ledger.tables import rollup_day, state
from gateway.types import DAY_MS, HOUR_MS

_TOKEN = "past"
# Clocks of two machines may differ: a reader takes a day for over an hour after the writer does.
_LATE_MS = HOUR_MS
MOST_BYTES = 64 * 1024 * 1024
_SAMPLE = 32

Part = tuple[Table, int, int]
_Found = TypeVar("_Found", bound=Mapping[Any, Any])


def changed(connection: Connection, days: Iterable[int]) -> None:
    """Tell readers that rollups of these days (their first ms) change in this transaction."""
    if any(day + DAY_MS <= time.time() * 1000 for day in days):
        statements.put_state(connection, _TOKEN, secrets.token_hex(8))


class Memory:
    """``clock``: seconds since 1970. Bounded by the bytes it holds, the least recently asked for goes first."""

    def __init__(self, clock: Callable[[], float] = time.time, most_bytes: int = MOST_BYTES) -> None:
        self._clock, self._most, self._token = clock, most_bytes, ""
        self._kept: OrderedDict[Hashable, tuple[int, Any]] = OrderedDict()
        self._size = 0

    def look(self, connection: Connection) -> str:
        """The state of the days that are over, as ``get`` wants it; in the transaction that their parts are read in."""
        token = connection.execute(select(state.c.value).where(state.c.name == _TOKEN)).scalar() or ""
        if token != self._token:
            self._kept.clear()
            self._token, self._size = token, 0
        return token

    def split(self, part: Part) -> list[Part]:
        """A part of a period as what is over and what is not."""
        table, since, until = part
        over = int(self._clock() * 1000) - _LATE_MS
        over -= over % DAY_MS
        return [part] if not since < over < until else [(table, since, over), (table, over, until)]

    def get(self, token: str, part: Part, question: Hashable, find: Callable[[], _Found]) -> _Found:
        """The answer to a question about a part, found again unless all of it is over and was found before.

        ``token``: what ``look`` gave. Two questions may be read at the same time, one of them as the days were before
        a change: what it finds is not for others.
        """
        table, since, until = part
        if table is not rollup_day or until > self._clock() * 1000 - _LATE_MS or token != self._token:
            return find()
        key = (since, until, question)
        if key in self._kept:
            self._kept.move_to_end(key)
            known: _Found = self._kept[key][1]
            return known
        found = find()
        if token != self._token:  # another question has seen a change meanwhile
            return found
        size = held_bytes(found)
        self._kept[key] = size, found
        self._size += size
        while self._size > self._most:
            self._size -= self._kept.popitem(last=False)[1][0]
        return found


def held_bytes(found: Mapping[Any, Any]) -> int:
    """What a mapping takes in memory, with what it holds: of a long one as told by some of its items, taken evenly."""
    own = sys.getsizeof(found)
    if not found:
        return own
    step = -(-len(found) // _SAMPLE)
    some = [sum(map(_deep, item)) for item in itertools.islice(found.items(), None, None, step)]
    return own + sum(some) * len(found) // len(some)


def _deep(value: Any) -> int:
    inside = itertools.chain(value, value.values()) if isinstance(value, dict) else value
    return sys.getsizeof(value) + (sum(map(_deep, inside)) if isinstance(value, dict | tuple) else 0)
