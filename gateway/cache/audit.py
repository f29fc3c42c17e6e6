"""Checking the promise: a random share of would-be hits is answered afresh, and the outcomes are tested as they come.

The share depends on how many would-be hits there were and on what checks have shown, never on what the next one is, so
that the checked ones are a fair sample. The test is a betting confidence sequence for the mean of bounded outcomes
(Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, JRSS B 2024): it may be read after
every outcome, and within an epoch it is wrong with probability at most ``RISK``, however often it is read.
"""

from __future__ import annotations

import math

RISK = 0.05
EPOCH = 200
SHARE, EARLY_SHARE, EARLY = 0.03, 0.125, 40
ALARM_SHARE, ALARM = 0.25, 10  # of the hits after one that was found to be wrong
_LESS = 0.02  # from this budget on, less is checked: the larger the budget, the less a wrong hit matters
# Parts of the capital that is bet on "more than the budget is wrong"; their mean is a bet that needs no tuning.
_BETS = (0.01, 0.03, 0.1, 0.3, 0.9)


class Audit:
    """Closed from when the wrong share of a partition's would-be hits is surely above ``budget`` until it is back."""

    def __init__(self, budget: float) -> None:
        self.budget = max(budget, 1e-6)
        self.closed = False
        self.checked = self.wrong = 0
        self._would = self._alarm = 0
        self._restart()

    def _restart(self) -> None:
        self._capital = [1.0] * len(_BETS)
        self._seen = self._seen_wrong = 0

    def share(self) -> float:
        """The probability with which the next would-be hit is checked: all of them while closed; the first is not."""
        self._would += 1
        if self.closed:
            return 1.0
        if self._would == 1:
            return 0.0
        if self._alarm:
            self._alarm -= 1
            return ALARM_SHARE
        return (EARLY_SHARE if self._would <= EARLY else SHARE) * min(1.0, math.sqrt(_LESS / self.budget))

    def observe(self, wrong: bool) -> None:
        """Take the outcome of a checked one."""
        self.checked, self.wrong = self.checked + 1, self.wrong + wrong
        self._seen, self._seen_wrong = self._seen + 1, self._seen_wrong + wrong
        self._alarm = ALARM if wrong else self._alarm
        won = (wrong - self.budget) / self.budget
        self._capital = [capital * (1 + bet * won) for capital, bet in zip(self._capital, _BETS, strict=True)]
        if self.closed:
            if self._seen * self.budget >= 1 and self._seen_wrong <= self.budget * self._seen:
                self.closed = False
                self._restart()
        elif sum(self._capital) / len(_BETS) >= 1 / RISK:
            self.closed = True
            self._restart()
        elif self._seen >= EPOCH:
            self._restart()

    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the wrong share among all that were checked: for the eye, not for the test."""
        n = self.checked
        if not n:
            return 0.0, 1.0
        z2 = 1.96**2
        share, over = self.wrong / n, 1 + z2 / n
        middle = (share + z2 / (2 * n)) / over
        half = 1.96 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / over
        return max(0.0, middle - half), min(1.0, middle + half)
