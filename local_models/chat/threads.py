"""How many threads compute a step: all of them, or fewer while something else keeps the cores busy.

There is a barrier after every node of the graph, hundreds in a step, and each waits for the last thread. Where other
processes take turns on the cores, the last one has yet to get its turn: two threads are then many times slower than
one, which waits for nobody. So the share of a step is watched that the engine's own thread was on a core; where it
falls, fewer threads are tried for a few steps, and kept if those were shorter. Now and then more are tried again.
"""

from __future__ import annotations

from collections import deque
from statistics import median

# Below this share of a step on a core the thread was waiting for others.
_CROWDED = 0.75
_RATE = 0.1
# On a crowded machine one step takes several times as long as the next: medians are compared.
_TRIAL_STEPS, _RECENT_STEPS, _GAIN, _HOPELESS = 5, 9, 0.95, 4.0
# Steps between two trials: more after each that brought nothing.
_LEAST_REST, _MOST_REST = 16, 256


class Threads:
    """Chooses `count` for the next step from how the last ones went."""

    def __init__(self, most: int, least: int = 1) -> None:
        """`most`: where nothing else runs."""
        self._choices = [most]
        while self._choices[-1] > least:
            self._choices.append(max(least, self._choices[-1] // 2))
        self._at, self._share = 0, 1.0
        self._recent: deque[float] = deque(maxlen=_RECENT_STEPS)
        self._trying: int | None = None
        self._tried: list[float] = []
        self._rest = self._left = _LEAST_REST
        self._upwards, self._misses = False, 0

    @property
    def count(self) -> int:
        """Threads for the next step."""
        return self._choices[self._at if self._trying is None else self._trying]

    @property
    def settled(self) -> int:
        """The same without trials: for a step that somebody's first token waits for."""
        return self._choices[self._at]

    def observe(self, wall: float, cpu: float, usual: float) -> None:
        """Learn from a step of `count` threads: seconds it took, those its first was on a core, its usual ones."""
        if self._trying is not None:
            self._judge(wall / usual)
            return
        self._share += _RATE * (min(cpu / wall, 1.0) - self._share)
        self._recent.append(wall / usual)
        self._left -= 1
        if self._left <= 0:
            self._trying = self._worth_trying()

    def _worth_trying(self) -> int | None:
        more = self._at - 1 if self._at else None
        below = range(self._at + 1, len(self._choices)) if self._share < _CROWDED else range(0)
        fewer = below[self._misses % len(below)] if below else None
        self._upwards = more is not None and (fewer is None or not self._upwards)
        return more if self._upwards else fewer

    def _judge(self, slowness: float) -> None:
        self._tried.append(slowness)
        now = median(self._recent)
        hopeless = slowness > _HOPELESS * now
        if len(self._tried) < _TRIAL_STEPS and not hopeless:
            return
        if not hopeless and median(self._tried) < _GAIN * now:
            assert self._trying is not None, "a trial is under way"
            self._at, self._share = self._trying, 1.0
            self._recent = deque(self._tried, _RECENT_STEPS)
            self._rest, self._misses = _LEAST_REST, 0
        else:
            self._rest, self._misses = min(2 * self._rest, _MOST_REST), self._misses + 1
        self._trying, self._tried, self._left = None, [], self._rest
