"""What a policy would have changed, added up, and the bounds a change has to keep (``cost>+5%``)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from gateway.policy.replay import Rates, Told
from gateway.types import Frozen


class Difference(Frozen, frozen=True, kw_only=True):
    """What a policy would have changed, in nano-dollars and milliseconds.

    ``latency_*``: what the targets took on average in the period; None where a new one has not been asked in it.
    ``quality``: the mean predicted change and its 95 % interval; None where it was not predicted.
    ``unpriced``: flips to a target without a known price, left out of the cost.
    """

    requests: int
    flipped: int
    refused: int
    hits_lost: int
    unpriced: int
    cost_was_nano: int
    cost_nano: int
    latency_was_ms: float | None
    latency_ms: float | None
    quality: tuple[float, float, float] | None
    moves: dict[str, int]
    teams: dict[str, tuple[int, int]]
    keys: dict[str, tuple[int, int]]


class Comparison:
    """Adds up what is told of each request; keeps the first ``flips`` of those that change."""

    def __init__(self, rates: Mapping[str, Rates], flips: int) -> None:
        self._rates, self._most = rates, flips
        self.flips: list[Told] = []
        self._counts = dict.fromkeys(("requests", "flipped", "refused", "hits_lost", "unpriced"), 0)
        self._costs = [0, 0]
        self._ms = [0.0, 0.0]
        self._timed = True
        self._quality: list[float] = []
        self._moves: dict[str, int] = {}
        self._by: dict[str, dict[str, list[int]]] = {"team": {}, "key_id": {}}

    def add(self, told: Told) -> None:
        cost = told.cost_was_nano if told.cost_nano is None else told.cost_nano
        self._count("requests")
        self._costs[0] += told.cost_was_nano
        self._costs[1] += cost
        for name, sums in self._by.items():
            pair = sums.setdefault(getattr(told, name), [0, 0])
            pair[0] += told.cost_was_nano
            pair[1] += cost
        self._time(told)
        if told.flipped:
            self._flip(told)

    def result(self) -> Difference:
        requests = self._counts["requests"]
        timed = self._timed and requests > 0
        return Difference(
            **self._counts,
            cost_was_nano=self._costs[0],
            cost_nano=self._costs[1],
            latency_was_ms=self._ms[0] / requests if timed else None,
            latency_ms=self._ms[1] / requests if timed else None,
            quality=_interval(self._quality, requests),
            moves=dict(sorted(self._moves.items(), key=lambda move: -move[1])),
            teams={name: (was, now) for name, (was, now) in self._by["team"].items()},
            keys={name: (was, now) for name, (was, now) in self._by["key_id"].items()},
        )

    def _count(self, what: str) -> None:
        self._counts[what] += 1

    def _flip(self, told: Told) -> None:
        self._count("flipped")
        if not told.now:
            self._count("refused")
        elif told.cost_nano is None:
            self._count("unpriced")
        if told.hit_lost:
            self._count("hits_lost")
        if told.quality is not None:
            self._quality.append(told.quality)
        move = f"{told.was} → {told.now or 'refused'}"
        self._moves[move] = self._moves.get(move, 0) + 1
        if len(self.flips) < self._most:
            self.flips.append(told)

    def _time(self, told: Told) -> None:
        for place, name in enumerate((told.was, told.now)):
            if name in ("cache", ""):
                continue
            rate = self._rates.get(name)
            if rate is None or not rate.requests:
                self._timed = False
            else:
                self._ms[place] += rate.ms / rate.requests


def _interval(deltas: list[float], requests: int) -> tuple[float, float, float] | None:
    """Mean change over all requests, and its 95 % interval by the normal approximation; unchanged ones count as 0."""
    if not deltas or not requests:
        return None
    mean = sum(deltas) / requests
    spread = math.sqrt(max(0.0, sum(delta**2 for delta in deltas) / requests - mean**2) / requests)
    return mean, mean - 1.96 * spread, mean + 1.96 * spread


Measure = Callable[[Difference], float]

_MEASURES: dict[str, Measure] = {
    "cost": lambda all_: (all_.cost_nano - all_.cost_was_nano) / all_.cost_was_nano if all_.cost_was_nano else 0.0,
    "flips": lambda all_: all_.flipped / all_.requests if all_.requests else 0.0,
    "refused": lambda all_: all_.refused / all_.requests if all_.requests else 0.0,
    "latency": lambda all_: (all_.latency_ms or 0) / all_.latency_was_ms - 1 if all_.latency_was_ms else 0.0,
    "quality": lambda all_: all_.quality[0] if all_.quality else 0.0,
}
_BOUND = re.compile(r"(?P<what>[a-z]+)\s*(?P<sign>[<>])\s*(?P<value>[+-]?\d+(?:\.\d+)?)%")


class Bound(NamedTuple):
    """A change that is not wanted: ``cost>+5%``."""

    text: str
    what: str
    above: bool
    value: float

    @classmethod
    def read(cls, text: str) -> Bound:
        """Raises ValueError where it is not one."""
        found = _BOUND.fullmatch(text.strip())
        if found is None or found["what"] not in _MEASURES:
            raise ValueError(f"'{text}' is not a bound such as cost>+5% (one of {', '.join(_MEASURES)})")
        return cls(text, found["what"], found["sign"] == ">", float(found["value"]) / 100)

    def broken(self, difference: Difference) -> bool:
        value = _MEASURES[self.what](difference)
        return value > self.value if self.above else value < self.value
