"""A reliability diagram as SVG: what the verifier said of held-out pairs, against how many of them were the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

EDGES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0)
_SIZE, _MARGIN = 400, 50


class Bin(msgspec.Struct, frozen=True):
    """Pairs of which the verifier said about the same. ``said`` and ``was``: weighted means, 0 … 1."""

    low: float
    high: float
    pairs: int
    said: float
    was: float


def bins(p: Floats, labels: Floats, weights: Floats) -> Iterator[Bin]:
    """Finer towards 1, where decisions are made. All three arrays: shape (pairs,)."""
    for low, high in pairwise(EDGES):
        inside = (p >= low) & ((p < high) | (high == EDGES[-1]))
        if inside.any():
            said, was = (float(np.average(values[inside], weights=weights[inside])) for values in (p, labels))
            yield Bin(low, high, int(inside.sum()), said, was)


def svg(found: Sequence[Bin], title: str) -> str:
    """The diagram: a perfect verifier's points lie on the diagonal; a point's area goes by its pairs."""
    most = max(each.pairs for each in found)
    points = "".join(
        f'<circle cx="{_x(each.said):.1f}" cy="{_y(each.was):.1f}" r="{2 + 8 * (each.pairs / most) ** 0.5:.1f}">'
        f"<title>said {each.said:.3f}, was {each.was:.3f}, {each.pairs} pairs</title></circle>"
        for each in found
    )
    ticks = "".join(
        f'<text x="{_x(at)}" y="{_y(0) + 18}" text-anchor="middle">{at:g}</text>'
        f'<text x="{_x(0) - 8}" y="{_y(at) + 4}" text-anchor="end">{at:g}</text>'
        for at in (0, 0.25, 0.5, 0.75, 1)
    )
    whole = _SIZE + 2 * _MARGIN
    middle = whole / 2
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole} {whole}" font-family="sans-serif"',
            f' font-size="12"><rect width="{whole}" height="{whole}" fill="#fff"/>',
            f'<text x="{middle}" y="24" text-anchor="middle" font-size="14">{title}</text>',
            f'<rect x="{_x(0)}" y="{_y(1)}" width="{_SIZE}" height="{_SIZE}" fill="none" stroke="#999"/>',
            f'<line x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}" stroke="#999" stroke-dasharray="4"/>',
            f'<g fill="#2563eb" fill-opacity="0.7">{points}</g>',
            f'<g fill="#333">{ticks}<text x="{middle}" y="{whole - 8}" text-anchor="middle">said</text>',
            f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">was</text></g>',
            "</svg>\n",
        )
    )


def _x(value: float) -> float:
    return _MARGIN + value * _SIZE


def _y(value: float) -> float:
    return _MARGIN + (1 - value) * _SIZE
