"""Quality against cost, a line for each way, as an SVG of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.bench.routing.curve import Point

_WIDTH, _HEIGHT, _LEFT, _TOP = 720, 420, 64, 48
_COLOURS = ("#64748b", "#0f766e", "#b45309", "#7c3aed")
_DASHES = ("6 4", "2 3", "8 3 2 3", "none")


def svg(curves: Mapping[str, Sequence[Point]], title: str) -> str:
    """Share of right answers over dollars for a thousand prompts; the last curve is drawn boldest."""
    points = [point for curve in curves.values() for point in curve]
    most, least = max(point.usd for point in points) * 1.05, min(point.quality for point in points) - 0.03
    right, bottom = _WIDTH - 24, _HEIGHT - 56

    def x(usd: float) -> float:
        return _LEFT + usd / most * (right - _LEFT)

    def y(quality: float) -> float:
        return bottom - (quality - least) / (1 - least) * (bottom - _TOP)

    parts = [f'<text x="{_LEFT}" y="26" font-size="15">{title}</text>']
    for tenth in range(int(least * 10) + 1, 11):
        parts.append(f'<path d="M{_LEFT} {y(tenth / 10):.1f}H{right}" stroke="#e2e8f0"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(tenth / 10) + 4:.1f}" text-anchor="end">{tenth * 10} %</text>')
    for step in range(6):
        usd = most / 1.05 * step / 5
        parts.append(f'<text x="{x(usd):.1f}" y="{bottom + 20}" text-anchor="middle">{usd * 1000:.1f}</text>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text x="{middle}" y="{bottom + 40}" text-anchor="middle">USD for a million prompts</text>')
    for place, ((name, curve), colour, dash) in enumerate(zip(curves.items(), _COLOURS, _DASHES, strict=True)):
        line = " ".join(f"{x(point.usd):.1f},{y(point.quality):.1f}" for point in sorted(curve, key=_by_cost))
        width = 3 if place == len(curves) - 1 else 2
        stroke = f'stroke="{colour}" stroke-width="{width}" stroke-dasharray="{dash}"'
        parts.append(f'<polyline points="{line}" fill="none" {stroke}/>')
        at = bottom - 18 * (len(curves) - place)
        parts.append(f'<path d="M{right - 190} {at - 4}h32" {stroke}/>')
        parts.append(f'<text x="{right - 150}" y="{at}" fill="{colour}">{name}</text>')
    style = 'font-family="system-ui, sans-serif" font-size="12" fill="#0f172a"'
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" {style}>\n'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _by_cost(point: Point) -> tuple[float, float]:
    return point.usd, point.quality
