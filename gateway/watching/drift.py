"""Does routing still fit: the last day compared with the week before it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from gateway.stability import stability_index
from gateway.types import HOUR_MS, Frozen
from gateway.watching.hours import OTHER, Hour, Predicted, Votes, added

if TYPE_CHECKING:
    from gateway.config import MonitoringConfig

LATELY_HOURS, BEFORE_HOURS = 24, 7 * 24
RARE = 0.01
"""Values rarer than this in both windows count as one: few counts make a large index out of chance."""


class Shift(Frozen, frozen=True, kw_only=True):
    """One mix, then and now. ``psi``: population stability index, None where either window has too few requests.

    ``most``: the value whose share has changed most, from ``before`` to ``now`` (0 … 1).
    """

    what: str
    psi: float | None
    most: str
    before: float
    now: float


class Report(Frozen, frozen=True, kw_only=True):
    """Each figure is None where too little is known of it. ``requests`` of the last day and of the week before.

    ``calibration_error``: the mean distance of the predicted and the observed quality of local answers, weighted by
    their number (ECE). ``escalation_rate``: of the local tries that may be given up, those that were. ``regret``: how
    much better (0 … 1) hosted answers were rated than local ones: a shadow's to the same request where enough of those
    are rated, else all of them.
    """

    until_ms: int
    requests: int
    requests_before: int
    shifts: tuple[Shift, ...]
    calibration_error: float | None
    calibrated: tuple[Predicted, ...]
    escalation_rate: float | None
    escalation_rate_before: float | None
    regret: float | None
    local: Votes
    hosted: Votes


def windows(hours: Iterable[Hour], now_ms: int) -> tuple[Hour, Hour]:
    """The last day, the running hour included, and the week before it."""
    end = now_ms - now_ms % HOUR_MS + HOUR_MS
    middle = end - LATELY_HOURS * HOUR_MS
    start = middle - BEFORE_HOURS * HOUR_MS
    kept = list(hours)
    lately = added((hour for hour in kept if middle <= hour.start_ms < end), middle)
    return lately, added((hour for hour in kept if start <= hour.start_ms < middle), start)


def report(hours: Iterable[Hour], now_ms: int, config: MonitoringConfig) -> Report:
    now, before = windows(hours, now_ms)
    names = sorted(now.mixes.keys() | before.mixes.keys())
    return Report(
        until_ms=now_ms,
        requests=now.requests,
        requests_before=before.requests,
        shifts=tuple(
            shift(name, now.mixes.get(name, {}), before.mixes.get(name, {}), config.requests) for name in names
        ),
        calibration_error=_calibration_error(now.calibration, config.labels),
        calibrated=now.calibration,
        escalation_rate=_rate(now, config.labels),
        escalation_rate_before=_rate(before, config.labels),
        regret=_regret(now, config.labels),
        local=now.local,
        hosted=now.hosted,
    )


def shift(what: str, now: Mapping[str, int], before: Mapping[str, int], least: int) -> Shift:
    """How far a mix has moved, and which of its values most; ``least``: requests that either window must have."""
    sums = sum(now.values()), sum(before.values())
    shares = {
        name: (now.get(name, 0) / max(1, sums[0]), before.get(name, 0) / max(1, sums[1]))
        for name in now.keys() | before.keys()
    }
    most = max(sorted(shares), key=lambda name: abs(shares[name][0] - shares[name][1]), default="")
    psi = _psi(now, before, [name for name in shares if max(shares[name]) < RARE]) if min(sums) >= least else None
    p, q = shares.get(most, (0.0, 0.0))
    return Shift(what=what, psi=psi, most=most, before=q, now=p)


def _psi(now: Mapping[str, int], before: Mapping[str, int], rare: Iterable[str]) -> float:
    rare = {*rare, OTHER}
    counts = [(now.get(name, 0), before.get(name, 0)) for name in now.keys() | before.keys() if name not in rare]
    together = sum(now.get(name, 0) for name in rare), sum(before.get(name, 0) for name in rare)
    return stability_index([*counts, together] if any(together) else counts)


def _calibration_error(bins: Iterable[Predicted], least: int) -> float | None:
    kept = [each for each in bins if each.answers]
    answers = sum(each.answers for each in kept)
    return sum(abs(each.predicted - each.good) for each in kept) / answers if answers >= least else None


def _rate(hour: Hour, least: int) -> float | None:
    return hour.escalated / hour.weighed if hour.weighed >= max(1, least) else None


def _regret(hour: Hour, least: int) -> float | None:
    for local, other in (hour.shadowed, (hour.local, hour.hosted)):
        if local.rated >= least and other.rated >= least and local.mean is not None and other.mean is not None:
            return other.mean - local.mean
    return None
