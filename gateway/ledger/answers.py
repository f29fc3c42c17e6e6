"""What the books answer with: the values that :class:`gateway.ledger.store.SqlStore` hands to pages and reports.

Money is nano-dollars. A period begins and ends on the hour (UTC): :class:`Period` widens what it is given. ``where``
narrows an answer: for each dimension it names, rows with any of the values listed; ``''`` is a value like any other
(the key without a team). Everything but :class:`Page` is read from the rollups, never from the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from gateway.types import HOUR_MS, LedgerEntry

Dimension = Literal[
    "organisation",
    "team",
    "key_id",
    "policy",
    "rule",
    "model",
    "served",
    "cache",
    "status",
    "project",
    "tag",
    "end_user",
]
Where = Mapping[Dimension, Sequence[str]]
Order = Literal["requests", "errors", "cost_nano", "saved_nano", "prompt_tokens", "completion_tokens"]


class Period(msgspec.Struct, frozen=True):
    """From ``since_ms`` up to, but without, ``until_ms``; epoch milliseconds, widened to whole hours."""

    since_ms: int
    until_ms: int

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "since_ms", self.since_ms - self.since_ms % HOUR_MS)
        msgspec.structs.force_setattr(self, "until_ms", self.until_ms + -self.until_ms % HOUR_MS)


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """How long answered requests (status ``ok``) took, milliseconds; None where there was none.

    ``under_100`` and ``under_300`` are the shares (0 … 1) of them that took less than that.
    """

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    under_100: float | None = None
    under_300: float | None = None


class Measures(msgspec.Struct, frozen=True, kw_only=True):
    """What some requests come to.

    ``errors``: neither ``ok`` nor ``cancelled``. ``hits`` were answered from the cache, ``misses`` asked it in vain.
    ``saved_nano`` = ``baseline_nano`` − ``cost_nano``; ``embedding_nano``, ``verification_nano`` and ``abandoned_nano``
    are parts of the cost. ``busy_us``: time local models computed. ``decode_tokens`` took ``decode_us``. ``estimated``,
    ``unpriced`` and ``incomplete`` count rows with that flag; ``rated`` counts those with feedback, which adds up to
    ``rating_milli`` thousandths.
    """

    requests: int = 0
    errors: int = 0
    hits: int = 0
    misses: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano: int = 0
    embedding_nano: int = 0
    verification_nano: int = 0
    abandoned_nano: int = 0
    baseline_nano: int = 0
    saved_nano: int = 0
    busy_us: int = 0
    decode_tokens: int = 0
    decode_us: int = 0
    estimated: int = 0
    unpriced: int = 0
    incomplete: int = 0
    rated: int = 0
    rating_milli: int = 0
    latency_ms: Times = Times()
    ttft_ms: Times = Times()

    @property
    def hit_rate(self) -> float | None:
        """Hits ÷ look-ups; None where the cache was not asked."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else None

    @property
    def tokens_per_s(self) -> float | None:
        """Mean decode rate of streamed answers."""
        return self.decode_tokens / self.decode_us * 1e6 if self.decode_us else None

    @property
    def rating(self) -> float | None:
        """Mean feedback, −1 … 1."""
        return self.rating_milli / self.rated / 1000 if self.rated else None


class Group(msgspec.Struct, frozen=True):
    """The requests that share one value of a dimension."""

    name: str
    measures: Measures


class Breakdown(msgspec.Struct, frozen=True, kw_only=True):
    """The first ``limit`` values of a dimension; ``rest`` is all others together, ``distinct`` how many there are."""

    by: Dimension
    groups: tuple[Group, ...]
    rest: Measures
    distinct: int


class Line(msgspec.Struct, frozen=True):
    """One value's measures over time, a point for each of :attr:`Timeline.starts`."""

    name: str
    points: tuple[Measures, ...]


class Timeline(msgspec.Struct, frozen=True, kw_only=True):
    """Measures over time; a step is an hour or a day (UTC).

    Without ``by`` it has one line, named ``''``. With it: a line for each of the first ``limit`` values and, where
    there are more, ``rest`` (else None).
    """

    by: Dimension | None
    step_ms: int
    starts: tuple[int, ...]
    lines: tuple[Line, ...]
    rest: Line | None


class Page(msgspec.Struct, frozen=True):
    """Some rows, newest first. ``next`` goes on from here (None: that was all); a page may be short and yet go on."""

    rows: tuple[LedgerEntry, ...]
    next: str | None


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A rollup cell that does not say what the rows say; a side is None where that has no such cell.

    ``series`` names the cell: its dimensions and their values. ``table`` is ``ledger`` where as many rows as ``rows``
    counts carry the series of other values than theirs, so that no page would find them under these.
    """

    table: str
    start_ms: int
    series: dict[str, str]
    rows: Measures | None
    rollup: Measures | None


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """What an erasure has touched: rows that no longer say who, in these months, and contents that are gone."""

    rows: int
    contents: int
    months: tuple[str, ...] = ()
