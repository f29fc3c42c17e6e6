"""The geometry of charts; templates draw it as SVG. Text stays outside the SVG, which is stretched to its box.

A chart is WIDTH × HEIGHT units, y downwards. The numbers behind each stand in a table beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

WIDTH, HEIGHT = 1000.0, 200.0
SERIES_MAX = 6
_STEPS = tuple(Decimal(step) for step in ("1", "1.5", "2", "3", "4", "5", "6", "8", "10"))
_LABELS = 7


@dataclass(frozen=True)
class Segment:
    """A part of a bar; ``series`` is its place in the legend."""

    series: int
    y: float
    height: float


@dataclass(frozen=True)
class Bar:
    """``title`` is what hovering shows, a line each; ``href`` what a click leads to."""

    x: float
    width: float
    title: str
    href: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Stacked:
    """Bars over time. ``ticks`` label the y axis from top to bottom, ``labels`` the x axis from left to right."""

    bars: tuple[Bar, ...]
    legend: tuple[tuple[str, int], ...]
    ticks: tuple[str, ...]
    labels: tuple[str, ...]
    line: str


@dataclass(frozen=True)
class Step:
    """A row of a waterfall, in per cent of its width. ``kind``: total, less, more."""

    title: str
    kind: str
    nano: int
    x: float
    width: float


def ceiling(value: int) -> int:
    """The next round number at or above ``value``: where an axis ends."""
    if value <= 0:
        return 1
    size = Decimal(10) ** Decimal(value).adjusted()
    step = next(step for step in _STEPS if step * size >= value)
    return int((step * size).to_integral_value(ROUND_CEILING))


def stacked(
    starts: Sequence[tuple[str, str, str]],
    series: Mapping[str, Sequence[int]],
    text: Callable[[int], str],
    line: Sequence[int] = (),
    line_title: str = "",
) -> Stacked:
    """Stack ``series`` (name → a value for each start, not negative) over ``starts`` (title, axis label, href).

    ``line`` is drawn across as a comparison, as far as it goes; ``text`` writes a value out.
    """
    tops = [sum(values[n] for values in series.values()) for n in range(len(starts))]
    top = ceiling(max([*tops, *line], default=0))
    slot = WIDTH / max(1, len(starts))
    gap = min(slot * 0.16, 6.0)
    bars = []
    for n, (title, _, href) in enumerate(starts):
        lines = [f"{title}: {text(tops[n])}"]
        lines += [f"{name}: {text(values[n])}" for name, values in series.items() if values[n]]
        lines += [f"{line_title}: {text(line[n])}"] if n < len(line) else []
        parts = _segments([values[n] for values in series.values()], top)
        bars.append(Bar(round(n * slot + gap / 2, 2), round(slot - gap, 2), "\n".join(lines), href, parts))
    return Stacked(
        tuple(bars),
        tuple((name, sum(values)) for name, values in series.items()),
        (text(top), text(top // 2), text(0)),
        _labels([label for _, label, _ in starts]),
        _steps(line, top, slot),
    )


def _segments(values: Sequence[int], top: int) -> tuple[Segment, ...]:
    found, below = [], HEIGHT
    for number, value in enumerate(values):
        height = HEIGHT * value / top
        below -= height
        if value:
            found.append(Segment(number, round(below, 2), round(height, 2)))
    return tuple(found)


def _steps(values: Sequence[int], top: int, slot: float) -> str:
    """A line with a level for each bar, as SVG points."""
    points = []
    for n, value in enumerate(values):
        y = HEIGHT * (1 - value / top)
        points += [f"{n * slot:.1f},{y:.1f}", f"{(n + 1) * slot:.1f},{y:.1f}"]
    return " ".join(points)


def _labels(labels: Sequence[str]) -> tuple[str, ...]:
    """At most ``_LABELS`` of them, evenly spread from the first to the last."""
    if len(labels) <= _LABELS:
        return tuple(labels)
    last = len(labels) - 1
    return tuple(labels[round(n * last / (_LABELS - 1))] for n in range(_LABELS))


def waterfall(baseline: int, changes: Sequence[tuple[str, int]], final: str) -> list[Step]:
    """From the baseline by its ``changes`` (negative: saved) to what is left, in per cent of the widest point."""
    levels = [baseline]
    for _, change in changes:
        levels.append(levels[-1] + change)
    low, high = min(0, *levels), max(1, *levels)

    def step(title: str, kind: str, nano: int, first: int, second: int) -> Step:
        start, end = sorted((first, second))
        width = 100 * (end - start) / (high - low)
        return Step(title, kind, nano, round(100 * (start - low) / (high - low), 3), round(width, 3))

    steps = [step("At the baseline model's price", "total", baseline, 0, baseline)]
    for (title, change), level in zip(changes, levels, strict=False):
        steps.append(step(title, "less" if change < 0 else "more", change, level, level + change))
    return [*steps, step(final, "total", levels[-1], 0, levels[-1])]


def path(points: Sequence[tuple[float, float]]) -> str:
    """SVG points of values in 0…1 × 0…1 (y upwards, held between top and bottom)."""
    return " ".join(f"{WIDTH * x:.1f},{HEIGHT * (1 - min(1.0, max(0.0, y))):.1f}" for x, y in points)
