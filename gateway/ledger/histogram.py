"""Fixed log-bucket histograms of milliseconds: any two add up, so percentiles of a month come from its days.

A bucket is 2^(1/8) wide, so a percentile is off by at most 4.4 %: bucket ``i`` holds ``(2^((i-25)/8), 2^((i-24)/8)]``
milliseconds. The first takes everything up to 0.125 ms, the last everything beyond 35 minutes. Only buckets that hold
something are kept (``{bucket: count}``); stored as JSON ``[bucket, count, bucket, count, …]``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

Histogram = dict[int, int]

_PER_OCTAVE = 8
_OFFSET = 3 * _PER_OCTAVE
_LAST = _OFFSET + 21 * _PER_OCTAVE


def bucket(milliseconds: float) -> int:
    """The bucket a duration falls into."""
    if milliseconds <= 0.125:
        return 0
    return min(_LAST, math.ceil(_PER_OCTAVE * math.log2(milliseconds)) + _OFFSET)


def merge(into: Histogram, other: Histogram) -> None:
    """Add ``other``, which may hold negative counts; buckets that come out empty go."""
    for index, count in other.items():
        total = into.get(index, 0) + count
        if total:
            into[index] = total
        else:
            into.pop(index, None)


def percentiles(histogram: Histogram, ranks: Iterable[float] = (0.5, 0.95, 0.99)) -> list[float | None]:
    """The values (ms) below which these shares lie, None each where nothing was counted."""
    return [_percentile(histogram, rank) for rank in ranks]


def _percentile(histogram: Histogram, rank: float) -> float | None:
    wanted = rank * sum(histogram.values())
    seen = 0
    for index in sorted(histogram):
        seen += histogram[index]
        if seen >= wanted:
            return 2 ** ((index - _OFFSET - 0.5) / _PER_OCTAVE)
    return None


def encode(histogram: Histogram) -> str:
    return msgspec.json.encode([part for item in sorted(histogram.items()) for part in item]).decode()


def decode(text: str) -> Histogram:
    flat: list[int] = msgspec.json.decode(text, type=list[int])
    return dict(zip(flat[::2], flat[1::2], strict=True))
