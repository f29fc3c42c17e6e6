"""One arm beside the control, metric by metric: how they differ, whether that is real, and whether the arm has lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from gateway.experiments.sequence import UNITS_MIN, Interval, Moments, difference, enough, grown, ratio
from gateway.policy.model import Stop
from gateway.types import NANO, Frozen

Metric = Literal["cost", "latency", "errors", "quality"]
Standing = Literal["better", "worse", "no worse", "unknown"]

METRICS: tuple[Metric, ...] = ("cost", "latency", "errors", "quality")
RISK = 0.05
"""That anything is called real in an experiment whose arms do not differ, however often it is looked at."""
MARGINS: Mapping[Metric, float] = {"cost": 0.1, "latency": 0.1, "errors": 0.02, "quality": 0.05}
"""How much worse is still no worse, where no rule says when an arm is stopped."""

_SPANS: Mapping[Metric, float] = {"errors": 1.0, "quality": 2.0}
_WORDS: Mapping[Metric, tuple[str, str, str, str]] = {
    # lower, higher, and how no difference is spoken of
    "cost": ("costs {} less", "costs {} more", "cost", "dearer"),
    "latency": ("answers {} faster", "answers {} slower", "latency", "slower"),
    "errors": ("fails {} less often", "fails {} more often", "errors", "higher"),
    "quality": ("is rated {} lower", "is rated {} higher", "quality", "worse"),
}


class Compared(Frozen, frozen=True, kw_only=True):
    """How an arm differs from the control by one metric.

    ``estimate``, ``low`` and ``high`` are the arm's less the control's: of ``cost`` and ``latency`` a share of the
    control's (0.2: 20 % more), unless ``absolute``: then US dollars a request, since the control's costs nothing; of
    ``errors`` a share of requests, of ``quality`` points of feedback. None where there are too few ``units``.
    ``lost``: surely worse than ``margin`` allows, which is then that of the stopping rule.
    """

    metric: Metric
    units: int
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    absolute: bool = False
    standing: Standing = "unknown"
    margin: float = 0.0
    lost: bool = False
    text: str = ""


def compare(
    control: Mapping[str, Moments], arm: Mapping[str, Moments], stop: Stop, *, arms: int, by: str
) -> tuple[Compared, ...]:
    """``arms``: how many are compared with the control at once, who share the risk; ``by``: what a unit is called."""
    risk = RISK / (len(METRICS) * arms)
    return tuple(_compare(metric, control[metric], arm[metric], stop, risk, by) for metric in METRICS)


def limit(stop: Stop, metric: Metric) -> float | None:
    """How much worse the stopping rule lets an arm be: a share or, of quality, points; None where it has no say."""
    if metric == "quality":
        return None if stop.quality is None else -stop.quality
    written: str | None = getattr(stop, metric)
    return None if written is None else float(written.strip("+%")) / 100


def _compare(metric: Metric, control: Moments, arm: Moments, stop: Stop, risk: float, by: str) -> Compared:
    rule = limit(stop, metric)
    margin, units = MARGINS[metric] if rule is None else rule, min(control.units, arm.units)
    if not enough(control, arm):
        rated = " with feedback" if metric == "quality" else ""
        text = f"{_WORDS[metric][2]}: not yet known ({units} of {UNITS_MIN} {by}s an arm{rated})"
        return Compared(metric=metric, units=units, margin=margin, text=text)
    found, absolute = _interval(metric, control, arm, risk)
    standing = _standing(metric, found, 0.0 if absolute else margin)
    surely = found.high < -margin if metric == "quality" else found.low > (0.0 if absolute else margin)
    return Compared(
        metric=metric,
        units=units,
        estimate=found.estimate,
        low=found.low,
        high=found.high,
        absolute=absolute,
        standing=standing,
        margin=margin,
        lost=rule is not None and surely,
        text=_told(metric, found, standing, margin, absolute=absolute),
    )


def _interval(metric: Metric, control: Moments, arm: Moments, risk: float) -> tuple[Interval, bool]:
    """And whether it is of dollars."""
    if metric == "latency":
        return grown(difference(control, arm, risk)), False  # of logarithms: the typical request, not the longest
    if metric == "cost":
        shares = ratio(control, arm, risk)
        if shares is not None:
            return shares, False
        dollars = difference(control, arm, risk)
        return Interval(*(bound / NANO for bound in (dollars.estimate, dollars.low, dollars.high))), True
    return difference(control, arm, risk, _SPANS[metric]), False


def _standing(metric: Metric, found: Interval, margin: float) -> Standing:
    low, high = (-found.high, -found.low) if metric == "quality" else (found.low, found.high)
    if high < 0:
        return "better"
    if low > 0:
        return "worse"
    return "no worse" if high <= margin else "unknown"


def _told(metric: Metric, found: Interval, standing: Standing, margin: float, *, absolute: bool) -> str:
    lower, higher, name, worse = _WORDS[metric]
    if found.real:
        words = lower if found.high < 0 else higher
        ends = sorted((abs(found.low), abs(found.high)))
        range_ = f"{_number(metric, ends[0], absolute)} to {_amount(metric, ends[1], absolute)}"
        return f"{words.format(_amount(metric, abs(found.estimate), absolute))} ({range_}), real"
    if found.low == found.high == 0:
        return f"{name}: the same"
    told = f"{name} not {worse} by more than {_amount(metric, margin, absolute)}"
    if absolute:
        return f"{name}: not yet known"
    return told if standing == "no worse" else f"{told}: not yet known"


def _number(metric: Metric, value: float, absolute: bool) -> str:
    if absolute:
        return f"${value:.3g}"
    return f"{value:.2f}" if metric == "quality" else f"{100 * value:.3g}"


def _amount(metric: Metric, value: float, absolute: bool) -> str:
    unit = "" if absolute or metric == "quality" else " points" if metric == "errors" else " %"
    return _number(metric, value, absolute) + unit
