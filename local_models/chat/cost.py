"""What a step costs: seconds by number of tokens, learnt as the engine runs."""

from __future__ import annotations

import bisect

_SPEED_RATE, _SHAPE_RATE = 0.1, 0.02
# One step that the machine was elsewhere for says little about the next.
_OUTLIER = 4.0


class StepCost:
    """A curve over the tokens of a step, measured at warm-up, times how fast the machine is just now.

    The curve bends (the second row of a step costs a fraction of the first, the hundredth as much as the fiftieth), so
    it is kept as points; the factor follows what else runs on the machine.
    """

    def __init__(self, points: dict[int, float]) -> None:
        """`points`: seconds by tokens of a step, at least one."""
        self._sizes = sorted(points)
        self._shape = [points[size] for size in self._sizes]
        self._speed = 1.0

    def seconds(self, tokens: int) -> float:
        """About what a step of so many tokens takes now."""
        return self._speed * self._at(tokens)

    def usual(self, tokens: int) -> float:
        """About what it takes where nothing else runs on the machine."""
        return self._at(tokens)

    def within(self, seconds: float, most: int) -> int:
        """The largest step, of at most `most` tokens, that takes no longer than `seconds`; 0 where none does."""
        return bisect.bisect_right(range(1, most + 1), seconds, key=self.seconds)

    def observe(self, tokens: int, seconds: float) -> None:
        """Learn from a step."""
        if tokens <= 0 or seconds <= 0:
            return
        ratio = min(seconds / self._at(tokens), _OUTLIER * self._speed)
        self._speed += _SPEED_RATE * (ratio - self._speed)
        at = min(bisect.bisect_left(self._sizes, tokens), len(self._sizes) - 1)
        self._shape[at] *= (ratio / self._speed) ** _SHAPE_RATE

    def _at(self, tokens: int) -> float:
        sizes, shape = self._sizes, self._shape
        above = bisect.bisect_left(sizes, tokens)
        if above < len(sizes) and sizes[above] == tokens:
            return shape[above]
        if above == 0:
            return shape[0]
        low = min(above, len(sizes) - 1) - 1
        if low < 0:
            return shape[0] * tokens / sizes[0]
        slope = max(0.0, (shape[low + 1] - shape[low]) / (sizes[low + 1] - sizes[low]))
        return shape[low] + slope * (tokens - sizes[low])
