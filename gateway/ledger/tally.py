"""Cells of the rollups as arrays: what rows and cells of a day are added up and compared in.

NumPy does here for a million cells what :class:`gateway.ledger.rollups.Cell` does for the few of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.ledger import histogram
from gateway.ledger.rollups import COUNTERS, Cell

Ints = NDArray[np.int64]

_BUCKET_BITS = 9
_TTFT = 1 << 8
_BUCKET = _TTFT - 1


@dataclass(frozen=True, slots=True)
class Tally:
    """Cells, ascending by ``codes``, no two alike. ``sums`` has a line for each, in the order of ``COUNTERS``.

    Histograms are ``counts`` of ``marks``, ascending: place of the cell ≪ 9, + 256 for time to first token, + bucket.
    """

    codes: Ints
    sums: Ints
    marks: Ints
    counts: Ints

    def recoded(self, codes: Ints) -> Tally:
        """The same cells under other codes; those that share one are added up."""
        return tally(codes, self.sums, self.marks, self.counts)

    def same(self, other: Tally) -> bool:
        mine, theirs = ((one.codes, one.sums, one.marks, one.counts) for one in (self, other))
        return all(np.array_equal(left, right) for left, right in zip(mine, theirs, strict=True))

    def cells(self) -> dict[int, Cell]:
        """By code, for telling them apart one by one."""
        found = [Cell(sums) for sums in self.sums.tolist()]
        for mark, count in zip(self.marks.tolist(), self.counts.tolist(), strict=True):
            cell, bucket = found[mark >> _BUCKET_BITS], mark & _BUCKET
            (cell.ttft if mark & _TTFT else cell.latency)[bucket] = count
        return dict(zip(self.codes.tolist(), found, strict=True))


def tally(codes: Ints, sums: Ints, marks: Ints, counts: Ints) -> Tally:
    """Add up what shares a code; ``marks`` name the items by their place in ``codes``."""
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    first = np.concatenate(([True], ordered[1:] != ordered[:-1])) if len(ordered) else np.zeros(0, dtype=bool)
    starts = np.flatnonzero(first)
    place = np.empty(len(codes), dtype=np.int64)
    place[order] = np.cumsum(first) - 1
    added = np.add.reduceat(sums[order], starts, axis=0) if len(starts) else _no_sums()
    return Tally(ordered[starts], added, *_counted(place, marks, counts))


def _counted(place: Ints, marks: Ints, counts: Ints) -> tuple[Ints, Ints]:
    moved = place[marks >> _BUCKET_BITS] << _BUCKET_BITS | marks & (_TTFT | _BUCKET)
    order = np.argsort(moved, kind="stable")
    ordered = moved[order]
    if not len(ordered):
        return ordered, counts[:0]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    return ordered[starts], np.add.reduceat(counts[order], starts)


def together(tallies: Sequence[Tally]) -> Tally:
    """The sum of all of them."""
    if not tallies:
        nothing = np.zeros(0, dtype=np.int64)
        return Tally(nothing, _no_sums(), nothing, nothing)
    if len(tallies) == 1:
        return tallies[0]
    before = np.cumsum([0, *(len(each.codes) for each in tallies[:-1])])
    marks = [each.marks + (int(at) << _BUCKET_BITS) for each, at in zip(tallies, before, strict=True)]
    return tally(
        np.concatenate([each.codes for each in tallies]),
        np.concatenate([each.sums for each in tallies]),
        np.concatenate(marks),
        np.concatenate([each.counts for each in tallies]),
    )


def _no_sums() -> Ints:
    return np.zeros((0, len(COUNTERS)), dtype=np.int64)


def row_marks(duration_ms: NDArray[np.float64], ttft_ms: NDArray[np.float64], counted: NDArray[np.bool_]) -> Ints:
    """Marks of rows, one count each: those ``counted``, of time to first token where it is not negative."""
    latency, ttft = np.flatnonzero(counted), np.flatnonzero(counted & (ttft_ms >= 0))
    return np.concatenate(
        (
            latency << _BUCKET_BITS | histogram.buckets(duration_ms[latency]),
            ttft << _BUCKET_BITS | _TTFT | histogram.buckets(ttft_ms[ttft]),
        )
    )


def stored_marks(latency: Sequence[bytes], ttft: Sequence[bytes]) -> tuple[Ints, Ints]:
    """Marks and counts of stored histograms, two for each cell."""
    both = [_unpacked(encoded, kind) for encoded, kind in ((latency, 0), (ttft, _TTFT))]
    return np.concatenate([marks for marks, _ in both]), np.concatenate([counts for _, counts in both])


def _unpacked(encoded: Sequence[bytes], kind: int) -> tuple[Ints, Ints]:
    lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded)) // histogram.WORD_BYTES
    buckets, counts = histogram.unpacked(encoded)
    return np.repeat(np.arange(len(encoded)), lengths) << _BUCKET_BITS | kind | buckets, counts


def columns(values: Iterable[Sequence[int]]) -> Ints:
    """Columns of whole numbers side by side."""
    return np.stack([np.array(column, dtype=np.int64) for column in values], axis=1)
