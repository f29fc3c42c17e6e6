"""Fixed log-bucket histograms of milliseconds: any two add up, so percentiles of a month come from its days.

A bucket is 2^(1/8) wide, so a percentile is off by at most 4.4 %: bucket ``i`` holds ``(2^((i-25)/8), 2^((i-24)/8)]``
milliseconds. The first takes everything up to 0.125 ms, the last everything beyond 35 minutes. Only buckets that hold
something are kept (``{bucket: count}``); stored as little-endian 64-bit words, ``bucket << 48 | count`` each, so that
many of them are added up in one go (:func:`merged`) by whoever reads a long period.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Histogram = dict[int, int]

WORD_BYTES = 8
_PER_OCTAVE = 8
_OFFSET = 3 * _PER_OCTAVE
_LAST = _OFFSET + 21 * _PER_OCTAVE
_SHIFT = 48
_COUNT = (1 << _SHIFT) - 1


def bucket(milliseconds: float) -> int:
    """The bucket a duration falls into."""
    if milliseconds <= 0.125:
        return 0
    return min(_LAST, math.ceil(_PER_OCTAVE * math.log2(milliseconds)) + _OFFSET)


def buckets(milliseconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """:func:`bucket` of each."""
    import numpy as np

    place = _PER_OCTAVE * np.log2(np.maximum(milliseconds, 0.125)) + _OFFSET
    found: NDArray[np.int64] = np.clip(np.ceil(place), 0, _LAST).astype(np.int64)
    # Two libraries' logarithms may differ in the last bit, which matters on the edge of a bucket only.
    for at in np.flatnonzero((np.abs(place - np.rint(place)) < 1e-9) & (milliseconds > 0.125)):
        found[at] = bucket(float(milliseconds[at]))
    return found


def merge(into: Histogram, other: Histogram) -> None:
    """Add ``other``, which may hold negative counts; buckets that come out empty go."""
    for index, count in other.items():
        total = into.get(index, 0) + count
        if total:
            into[index] = total
        else:
            into.pop(index, None)


def percentiles(histogram: Histogram, ranks: Sequence[float] = (0.5, 0.95, 0.99)) -> list[float | None]:
    """The values (ms) below which these shares lie, in ascending order, None each where nothing was counted."""
    if not histogram:
        return [None] * len(ranks)
    total, seen = sum(histogram.values()), 0
    found: list[float | None] = []
    for index in sorted(histogram):
        seen += histogram[index]
        while len(found) < len(ranks) and seen >= ranks[len(found)] * total:
            found.append(2 ** ((index - _OFFSET - 0.5) / _PER_OCTAVE))
    return found


def share_under(histogram: Histogram, milliseconds: float) -> float | None:
    """The share (0 … 1) that took less; within the bucket of ``milliseconds`` it is interpolated. None where empty."""
    if not histogram:
        return None
    place = _PER_OCTAVE * math.log2(milliseconds) + _OFFSET
    full = math.ceil(place)
    below = sum([count for index, count in histogram.items() if index < full])
    return (below + histogram.get(full, 0) * (place - full + 1)) / sum(histogram.values())


def encode(histogram: Histogram) -> bytes:
    words = [index << _SHIFT | count for index, count in sorted(histogram.items())]
    return struct.pack(f"<{len(words)}Q", *words)


def decode(data: bytes) -> Histogram:
    return {word >> _SHIFT: word & _COUNT for word in struct.unpack(f"<{len(data) // 8}Q", data)}


def unpacked(encoded: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Buckets and their counts of stored histograms, one after the other."""
    import numpy as np

    words = np.frombuffer(b"".join(encoded), dtype="<u8")
    return (words >> np.uint64(_SHIFT)).astype(np.int64), (words & np.uint64(_COUNT)).astype(np.int64)


def merged(encoded: Sequence[bytes]) -> Histogram:
    """The sum of stored histograms."""
    if len(encoded) == 1:
        return decode(encoded[0])
    import numpy as np

    places, numbers = unpacked(encoded)
    # Not bincount with weights: those are doubles.
    counts = np.zeros(_LAST + 1, dtype=np.int64)
    np.add.at(counts, places, numbers)
    return {int(index): int(counts[index]) for index in np.flatnonzero(counts)}
