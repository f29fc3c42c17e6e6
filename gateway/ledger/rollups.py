"""Rows of the books folded into what reports read: counts, sums and histograms per hour (or day) and series."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.ledger import histogram
from gateway.ledger.histogram import Histogram
from gateway.types import LedgerEntry

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
DIMENSIONS = ("organisation", "team", "key_id", "policy", "rule", "model", "served", "cache", "status")
COUNTERS = (
    "requests",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "cost_nano",
    "baseline_nano",
    "saved_nano",
    "estimated",
    "unpriced",
)

Dimensions = tuple[str, ...]
Place = tuple[int, Dimensions]


@dataclass(slots=True)
class Cell:
    """What one series did in one period. ``sums`` are in the order of ``COUNTERS``."""

    sums: list[int]
    latency: Histogram = field(default_factory=dict)
    ttft: Histogram = field(default_factory=dict)

    def add(self, other: Cell) -> None:
        self.sums = [mine + theirs for mine, theirs in zip(self.sums, other.sums, strict=True)]
        histogram.merge(self.latency, other.latency)
        histogram.merge(self.ttft, other.ttft)

    @property
    def empty(self) -> bool:
        return not any(self.sums) and not self.latency and not self.ttft


def dimensions(entry: LedgerEntry) -> Dimensions:
    """The series of a row, in the order of ``DIMENSIONS``."""
    return tuple(getattr(entry, name) for name in DIMENSIONS)


def fold(added: Iterable[LedgerEntry], removed: Iterable[LedgerEntry], width_ms: int) -> dict[Place, Cell]:
    """What a change of rows does to the rollup of this width (ms): ``{(start_ms, dimensions): Cell}``."""
    cells: dict[Place, Cell] = {}
    for sign, entries in ((1, added), (-1, removed)):
        for entry in entries:
            place = (entry.ts_ms - entry.ts_ms % width_ms, dimensions(entry))
            change = _one(entry, sign)
            known = cells.setdefault(place, change)
            if known is not change:
                known.add(change)
    return cells


def _one(entry: LedgerEntry, sign: int) -> Cell:
    sums = [
        1,
        entry.prompt_tokens,
        entry.completion_tokens,
        entry.cached_tokens,
        entry.cost_nano,
        entry.baseline_nano,
        entry.saved_nano,
        entry.usage_source == "estimated",
        entry.unpriced,
    ]
    return Cell(
        sums=[sign * int(value) for value in sums],
        latency={histogram.bucket(entry.duration_ms): sign},
        ttft={} if entry.ttft_ms is None else {histogram.bucket(entry.ttft_ms): sign},
    )


def differences(expected: Mapping[Place, Cell], found: Mapping[Place, Cell]) -> list[dict[str, Any]]:
    """Where rollups (``found``) do not say what the rows (``expected``) say; empty when they agree."""
    wrong = []
    for place in sorted(expected.keys() | found.keys()):
        should, does = expected.get(place), found.get(place)
        if should != does:
            wrong.append({"start_ms": place[0], "series": place[1], "rows": should, "rollup": does})
    return wrong
