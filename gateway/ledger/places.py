"""Numbers for what rollups are kept by, so that cells can be sorted and compared as arrays."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

import numpy as np
from sqlalchemy import Connection

from gateway.ledger import statements
from gateway.ledger.rollups import CUTS, DIMENSIONS, END_USER, EVERY, FOLLOWING, WITH_USER, Cut, picker
from gateway.ledger.tally import Ints

FOLLOWED = (*FOLLOWING, (END_USER, (WITH_USER,)))
_OWN = {cut.number: [DIMENSIONS.index(name) for name in cut.names] for cut in CUTS}
_MOST = 500_000
_UNKNOWN = "?"

Values = tuple[str, ...]


class Numbers(dict[Values, int]):
    """A number for each combination of values of one cut, given as it turns up; ``values`` has them in that order."""

    def __init__(self, cut: Cut) -> None:
        super().__init__()
        self.cut, self.values_of = cut, list[Values]()
        self._leads: list[tuple[Numbers, Callable[[Values], Values], array[int]]] = []

    def lead_to(self, other: Numbers) -> None:
        """``other`` is of a cut that has some of this one's dimensions: each number here has one there."""
        self._leads.append((other, picker(self.cut, other.cut), array("q")))

    def narrower(self) -> list[tuple[Numbers, Ints]]:
        """The cuts that follow from this one; for each number here, the one there."""
        return [(other, np.array(numbers, dtype=np.int64)) for other, _, numbers in self._leads]

    def __missing__(self, values: Values) -> int:
        number = self[values] = len(self)
        self.values_of.append(values)
        for other, pick, numbers in self._leads:
            numbers.append(other[pick(values)])
        return number


class Places:
    """The numbers of every cut, and which series of the database has which."""

    def __init__(self) -> None:
        self.cuts = {cut.number: Numbers(cut) for cut in CUTS}
        for source, targets in FOLLOWED:
            for target in targets:
                self.cuts[source.number].lead_to(self.cuts[target.number])
        self._series: dict[int, tuple[int, int]] = {}

    @property
    def full(self) -> bool:
        """Whether so many names have been met that it is time to forget them."""
        return len(self._series) > _MOST

    @property
    def every(self) -> Numbers:
        return self.cuts[EVERY.number]

    def of_series(self, connection: Connection, cut: Cut, ids: Sequence[int]) -> Ints:
        """The numbers of a cut's series. One that is not in the database, or another cut's, is called ``?``."""
        unknown = sorted(set(ids) - self._series.keys())
        for number, its_cut, *values in statements.series_values(connection, unknown):
            own = tuple(values[at] for at in _OWN[its_cut]) if its_cut in _OWN else ()
            self._series[number] = its_cut, self.cuts[its_cut][own] if own else 0
        lost = cut.number, self.cuts[cut.number][(_UNKNOWN,) * len(cut.names)]
        known = [self._series.get(number, lost) for number in ids]
        return np.array([number if its_cut == cut.number else lost[1] for its_cut, number in known], dtype=np.int64)
