"""The growth of a lookup with the number of entries, as an SVG of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tests.bench.cache.speed import Point

_WIDTH, _HEIGHT, _LEFT, _TOP = 720, 380, 64, 48
_LINES: tuple[tuple[str, str, Callable[[Point], float]], ...] = (
    ("#c2410c", "whole lookup", lambda point: point.recall_ms),
    ("#64748b", "bare embedding call", lambda point: point.embed_ms),
    ("#0f766e", "search alone", lambda point: point.search_ms),
)


def svg(points: Sequence[Point]) -> str:
    """Median milliseconds over entries; entries on a logarithmic axis."""
    top = max(point.recall_ms for point in points) * 1.15
    first, last = math.log10(points[0].entries), math.log10(points[-1].entries)
    right, bottom = _WIDTH - 170, _HEIGHT - 48

    def x(entries: int) -> float:
        return _LEFT + (math.log10(entries) - first) / max(last - first, 1e-9) * (right - _LEFT)

    def y(milliseconds: float) -> float:
        return bottom - milliseconds / top * (bottom - _TOP)

    parts = [f'<text x="{_LEFT}" y="26" font-size="15">Semantic lookup by number of entries, median ms</text>']
    for tick in _ticks(top):
        parts.append(f'<path d="M{_LEFT} {y(tick):.1f}H{right}" stroke="#e2e8f0"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    parts += [
        f'<text x="{x(point.entries):.1f}" y="{bottom + 20}" text-anchor="middle">{_short(point)}</text>'
        for point in points
    ]
    for colour, name, value in _LINES:
        path = " ".join(f"{x(point.entries):.1f},{y(value(point)):.1f}" for point in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x(point.entries):.1f}" cy="{y(value(point)):.1f}" r="3" fill="{colour}"/>'
            for point in points
        ]
        end = points[-1]
        label = f"{name} {value(end):.2f}"
        parts.append(f'<text x="{right + 10}" y="{y(value(end)) + 4:.1f}" fill="{colour}">{label}</text>')
    style = 'font-family="system-ui, sans-serif" font-size="12" fill="#0f172a"'
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" {style}>\n'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _ticks(top: float) -> list[float]:
    step = next(step for step in (0.5, 1, 2, 5, 10, 20, 50, 100, 1000) if top / step <= 8 or step == 1000)
    return [step * number for number in range(int(top / step) + 1)]


def _short(point: Point) -> str:
    thousands = point.entries / 1000
    return f"{thousands / 1000:g}M" if thousands >= 1000 else f"{thousands:g}k"
