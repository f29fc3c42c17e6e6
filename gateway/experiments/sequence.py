"""How two arms differ, by intervals that may be looked at after every request.

An ordinary 95 % interval that is looked at again and again is wrong far more often than one time in twenty. These are
asymptotic confidence sequences (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, Time-uniform central limit theory and
asymptotic confidence sequences, Annals of Statistics 52(6), 2024): with probability 1 − ``risk`` the truth is in all of
them at once, however often somebody looks.

What was assigned is a unit (a session, a user, a key), and requests of one unit are alike, so that a mean over requests
is taken for what it is: a ratio of two sums over units, whose variance is that of the units (the delta method; Deng,
Knoblich and Lu, Applying the delta method in metric analytics, KDD 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

UNITS_MIN = 30
"""In each arm. Below it a mean is not yet normally distributed, and nothing is said."""
TIGHTEST_AT = 1_000
"""Units in both arms at which the sequence is narrowest: 1.4 times as wide as an interval for one look."""
_CONCENTRATION = 100.0


class Moments(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over units: ``n`` is how much there was of a unit (its requests), ``x`` what that came to (their cost)."""

    units: int = 0
    n: float = 0.0
    x: float = 0.0
    nn: float = 0.0
    nx: float = 0.0
    xx: float = 0.0

    @property
    def mean(self) -> float:
        """Of a request; 0 where there was none."""
        return self.x / self.n if self.n else 0.0

    def variance(self, span: float = 0.0) -> float:
        """Of the mean; of values from a range of that ``span`` never less than if one unit had been the other extreme:
        nobody is sure that nothing fails because nothing has failed yet.
        """
        if self.units < 2 or not self.n:
            return span * span
        mean = self.mean
        residuals = self.xx - 2 * mean * self.nx + mean * mean * self.nn
        known = max(0.0, residuals) / (self.n * self.n) * self.units / (self.units - 1)
        return max(known, (span / self.units) ** 2)


class Interval(msgspec.Struct, frozen=True):
    """An estimate and the bounds of where the truth is."""

    estimate: float
    low: float
    high: float

    @property
    def real(self) -> bool:
        """Whether there is a difference at all."""
        return self.low > 0 or self.high < 0


def enough(control: Moments, arm: Moments) -> bool:
    return min(control.units, arm.units) >= UNITS_MIN


def difference(control: Moments, arm: Moments, risk: float, span: float = 0.0) -> Interval:
    """The arm's mean less the control's; ``span`` is that of the range their values lie in, 0 where there is none."""
    variance = arm.variance(span) + control.variance(span)
    return _around(arm.mean - control.mean, variance, control.units + arm.units, risk)


def ratio(control: Moments, arm: Moments, risk: float) -> Interval | None:
    """By what share (0.2: 20 %) the arm's mean is above the control's; None where either is not above 0."""
    if control.mean <= 0 or arm.mean <= 0:
        return None
    variance = sum(each.variance() / each.mean**2 for each in (control, arm))
    return grown(_around(math.log(arm.mean / control.mean), variance, control.units + arm.units, risk))


def grown(logarithm: Interval) -> Interval:
    """A difference of logarithms as a share."""
    return Interval(*(math.expm1(min(bound, 700.0)) for bound in (logarithm.estimate, logarithm.low, logarithm.high)))


def _around(estimate: float, variance: float, units: int, risk: float) -> Interval:
    half = math.sqrt(variance) * width(units, risk)
    return Interval(estimate, estimate - half, estimate + half)


def width(units: int, risk: float) -> float:
    """Half of the interval, in standard errors: the paper's boundary, made narrowest at ``TIGHTEST_AT``."""
    log_risk = -2 * math.log(risk)
    rho2 = (log_risk + math.log(log_risk) + 1) / TIGHTEST_AT
    scaled = units * rho2
    return math.sqrt(2 * (scaled + 1) / scaled * math.log(math.sqrt(scaled + 1) / risk))


def mismatch(counts: Sequence[int], shares: Sequence[float]) -> float:
    """An always-valid p-value of the arms having units in these shares (a sample ratio mismatch where it is tiny).

    The reciprocal of the Bayes factor against a Dirichlet prior around the shares (Lindon and Malek, Anytime-valid
    inference for multinomial count data, NeurIPS 2022).
    """
    total = sum(counts)
    log_factor = math.lgamma(_CONCENTRATION) - math.lgamma(_CONCENTRATION + total)
    for count, share in zip(counts, shares, strict=True):
        prior = _CONCENTRATION * share
        log_factor += math.lgamma(prior + count) - math.lgamma(prior) - count * math.log(share)
    return min(1.0, math.exp(-max(log_factor, -700.0)) if log_factor < 700 else 0.0)
