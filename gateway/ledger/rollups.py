"""Rows of the books folded into what reports read: counts, sums and histograms per hour (or day) and series.

A *cut* is a set of dimensions that rollups are kept by: one for each question a page asks at a glance, so that its
answer is a handful of cells however many rows there are, and ``every`` with all of them, for questions that combine
some. A *series* is one combination of values of a cut's dimensions; organisation and team belong to nearly each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import msgspec

from gateway.ledger import histogram
from gateway.ledger.histogram import Histogram
from gateway.types import DAY_MS, HOUR_MS

LONGEST_TAG = 256

OWNERS = ("organisation", "team")
COMBINED = (*OWNERS, "key_id", "policy", "rule", "model", "served", "cache", "status")
DIMENSIONS = (*COMBINED, "project", "tag", "end_user")
COUNTERS = (
    *("requests", "errors", "hits", "misses"),
    *("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens"),
    *("cost_nano", "embedding_nano", "verification_nano", "abandoned_nano", "baseline_nano", "saved_nano"),
    *("busy_us", "decode_tokens", "decode_us", "estimated", "unpriced", "incomplete", "rated", "rating_milli"),
)


@dataclass(frozen=True, slots=True)
class Cut:
    """Dimensions kept together beside those of ``owners``. ``number`` is what the tables know it by."""

    number: int
    own: tuple[str, ...]
    daily_only: bool = False
    owners: tuple[str, ...] = OWNERS

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.owners, *self.own)


EVERY = Cut(0, COMBINED[2:])
ALL = Cut(1, ())
SINGLE = tuple(Cut(2 + index, (name,)) for index, name in enumerate(COMBINED[2:]))
BY_KEY = SINGLE[0]
WITHOUT_KEY = Cut(9, COMBINED[3:])
WITHOUT_TEAM = Cut(24, COMBINED[3:], owners=OWNERS[:1])
PROJECT, TAG, END_USER = Cut(20, ("project",)), Cut(21, ("tag",)), Cut(22, ("end_user",), daily_only=True)
LEAN = tuple(
    Cut(30 + index, own, owners=OWNERS[:1])
    for index, own in enumerate(((), *((name,) for name in (*COMBINED[3:], "project", "tag"))))
)
"""Without teams: a handful of cells however many teams there are. The first counts everything."""
MODEL_SERVED = Cut(39, ("model", "served"), owners=OWNERS[:1])
"""What each model did itself: without what the cache gave in its name."""
WITH_USER = Cut(23, (), daily_only=True)
"""All requests that name an end user: what those of the first few leave over is read from here, not added up."""
CUTS = (*LEAN, MODEL_SERVED, ALL, *SINGLE, PROJECT, TAG, END_USER, WITHOUT_TEAM, WITHOUT_KEY, EVERY, WITH_USER)
"""The narrowest first: the first that has all dimensions of a question answers it."""

FACTS = (
    *("ts_ms", *COMBINED, "project", "tags", "end_user", "usage_source", "unpriced", "incomplete"),
    *COUNTERS[4:16],
    *("tokens_per_s", "duration_ms", "ttft_ms", "feedback"),
)
"""What of a row is counted; rows come as tuples in this order, ``tags`` as JSON text."""

Facts = tuple[Any, ...]
Place = tuple[int, int, tuple[str, ...]]
"""Cut, start of the hour or day (epoch ms), values of the cut's dimensions."""

_AT = {name: index for index, name in enumerate(FACTS)}
NAMES = slice(1, 1 + len(COMBINED))
"""Where the values of ``COMBINED`` are among a row's facts."""
_TAGS, _TIMES = _AT["tags"], _AT["tokens_per_s"]
_PROJECT, _USER, _SOURCE, _UNPRICED = _AT["project"], _AT["end_user"], _AT["usage_source"], _AT["unpriced"]
_COMPLETION, _CACHE, STATUS = _AT["completion_tokens"], _AT["cache"], _AT["status"]
_INCOMPLETE = _AT["incomplete"]
_AMOUNTS = tuple((COUNTERS.index(name), _AT[name]) for name in COUNTERS[4:16])
HITS = frozenset(("exact", "semantic", "coalesced"))
FINE = frozenset(("ok", "cancelled"))
_Picker = Callable[[tuple[str, ...]], tuple[str, ...]]


def picker(source: Cut, target: Cut) -> _Picker:
    """The values of one cut's dimensions among those of another."""
    at = tuple(source.names.index(name) for name in target.names)
    return itemgetter(*at) if len(at) > 1 else lambda values: (values[at[0]],)


FOLLOWING = (
    (EVERY, (WITHOUT_KEY, BY_KEY)),
    (WITHOUT_KEY, (WITHOUT_TEAM, ALL, *SINGLE[1:])),
    (WITHOUT_TEAM, (*LEAN[:-2], MODEL_SERVED)),
    (PROJECT, LEAN[-2:-1]),
    (TAG, LEAN[-1:]),
)
"""Which cuts follow from which, each from the narrowest that is there by then."""
_DERIVED = tuple(
    (source.number, tuple((target.number, picker(source, target)) for target in targets))
    for source, targets in FOLLOWING
)


@dataclass(slots=True)
class Cell:
    """What one series did in one period. ``sums`` are in the order of ``COUNTERS``."""

    sums: list[int] = field(default_factory=lambda: [0] * len(COUNTERS))
    latency: Histogram = field(default_factory=dict)
    ttft: Histogram = field(default_factory=dict)

    def add(self, other: Cell) -> None:
        self.sums = [mine + theirs for mine, theirs in zip(self.sums, other.sums, strict=True)]
        histogram.merge(self.latency, other.latency)
        histogram.merge(self.ttft, other.ttft)

    def count(self, row: Facts, sign: int) -> None:
        """Add (or, with −1, take away) one row."""
        sums, status, cache = self.sums, row[STATUS], row[_CACHE]
        sums[0] += sign
        if status not in FINE:
            sums[1] += sign
        if cache in HITS:
            sums[2] += sign
        elif cache == "miss":
            sums[3] += sign
        for index, at in _AMOUNTS:
            if amount := row[at]:
                sums[index] += sign * amount
        if row[_SOURCE] == "estimated":
            sums[18] += sign
        if row[_UNPRICED]:
            sums[19] += sign
        if row[_INCOMPLETE]:
            sums[20] += sign
        rate, duration, ttft, feedback = row[_TIMES:]
        if rate and row[_COMPLETION] > 1:
            sums[16] += sign * (row[_COMPLETION] - 1)
            sums[17] += sign * round((row[_COMPLETION] - 1) / rate * 1e6)
        if feedback is not None:
            sums[21] += sign
            sums[22] += sign * round(feedback * 1000)
        if status == "ok":
            _tally(self.latency, duration, sign)
            if ttft is not None:
                _tally(self.ttft, ttft, sign)


def _tally(counts: Histogram, milliseconds: float, sign: int) -> None:
    index = histogram.bucket(milliseconds)
    counts[index] = counts.get(index, 0) + sign


Cells = dict[Place, Cell]


def fold(added: Iterable[Facts], removed: Iterable[Facts] = ()) -> tuple[Cells, Cells]:
    """What a change of rows does to the rollups of hours and of days."""
    hours: Cells = {}
    days: Cells = {}
    for sign, rows in ((1, added), (-1, removed)):
        for row in rows:
            start = row[0] - row[0] % HOUR_MS
            names = row[NAMES]
            _cell(hours, (EVERY.number, start, names)).count(row, sign)
            if row[_PROJECT]:
                _cell(hours, (PROJECT.number, start, (*names[:2], row[_PROJECT]))).count(row, sign)
            if len(row[_TAGS]) > 2:
                for tag in tags_of(row[_TAGS]):
                    _cell(hours, (TAG.number, start, (*names[:2], tag))).count(row, sign)
            if row[_USER]:
                day = row[0] - row[0] % DAY_MS
                _cell(days, (END_USER.number, day, (*names[:2], row[_USER]))).count(row, sign)
                _cell(days, (WITH_USER.number, day, names[:2])).count(row, sign)
    _derive(hours)
    for (cut, start, names), cell in hours.items():
        _cell(days, (cut, start - start % DAY_MS, names)).add(cell)
    return hours, days


def tags_of(text: str) -> set[str]:
    """The tags of a row, as it keeps them (JSON text); one given twice counts once, a long one by its beginning."""
    tags: list[str] = msgspec.json.decode(text, type=list[str])
    return {tag[:LONGEST_TAG].replace("\0", "\ufffd") for tag in tags}


def _cell(cells: Cells, place: Place) -> Cell:
    found = cells.get(place)
    if found is None:
        found = cells[place] = Cell()
    return found


def _derive(hours: Cells) -> None:
    """The narrower cuts, from those that have their dimensions."""
    for source, targets in _DERIVED:
        cells = [(start, names, cell) for (cut, start, names), cell in hours.items() if cut == source]
        for target, pick in targets:
            for start, names, cell in cells:
                _cell(hours, (target, start, pick(names))).add(cell)
