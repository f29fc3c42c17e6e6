"""What an experiment has shown so far: each arm's figures to the nano-dollar, and what of the differences is real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from gateway.experiments.comparing import METRICS, Compared, compare
from gateway.experiments.sequence import Moments, mismatch
from gateway.ledger.answers import Measures, Period, Where
from gateway.policy.experiments import Declared, State, Stopped, tag
from gateway.types import Frozen

if TYPE_CHECKING:
    from gateway.ledger.arms import By, Sums

MISMATCHED = 0.001
"""Below this p-value the arms do not have the units they should."""
_UNEQUAL, _HITS = 1.5, 0.02
_NOTHING = Moments()


class Books(Protocol):
    """What is asked of :class:`gateway.ledger.store.SqlStore`."""

    async def totals(self, period: Period, where: Where | None = None) -> Measures: ...
    async def experiment(
        self, prefix: str, by: By, since_ms: int | None, until_ms: int
    ) -> tuple[int, Mapping[str, Mapping[str, Sums]]]: ...


class Arm(Frozen, frozen=True, kw_only=True):
    """One arm. ``share`` is what it gets now, of all requests; ``units`` its sessions, users or keys.

    Money is in nano-dollars, times are in milliseconds, ``rating`` is the mean of ``rated`` feedbacks (-1 to 1).
    ``compared`` with the control, and whether it was stopped.
    """

    name: str
    label: str
    share: float
    units: int
    requests: int
    errors: int
    cost_nano: int
    baseline_nano: int
    saved_nano: int
    rated: int
    rating: float | None
    hit_rate: float | None
    p50_ms: float | None
    p95_ms: float | None
    compared: tuple[Compared, ...] = ()
    stopped: Stopped | None = None

    @property
    def cost_per_request_nano(self) -> float | None:
        return self.cost_nano / self.requests if self.requests else None

    @property
    def verdict(self) -> str:
        """In words, what is real first."""
        ranked = sorted(self.compared, key=lambda one: one.standing not in ("better", "worse"))
        told = "; ".join(one.text for one in ranked)
        return f"stopped: {self.stopped.reason}. {told}" if self.stopped else told


class Report(Frozen, frozen=True, kw_only=True):
    """``arms``: the control first. ``mismatch``: the p-value of the arms having the units they should."""

    name: str
    control: str
    by: str
    run: str
    since_ms: int
    until_ms: int
    arms: tuple[Arm, ...]
    mismatch: float
    warnings: tuple[str, ...] = ()


async def report(books: Books, of: Declared, state: State, now_ms: int, since_ms: int | None = None) -> Report:
    """``since_ms``: leave out what came before the hour that this is in.

    Raises:
        LedgerAway: the books cannot be read now.
    """
    run, since_ms = of.run(state), None if since_ms is None else Period(since_ms, now_ms).since_ms
    prefix = tag(of.name, run, "")
    began, sums = await books.experiment(prefix, of.by, since_ms, now_ms + 1)
    moments = {label: _moments(found) for label, found in sums.items()}
    arms = []
    for name, label in of.labels:
        totals = await books.totals(Period(began, now_ms + 1), {"tag": (tag(of.name, run, name),)})
        both = moments
        if (stopped := state.stopped.get(name)) is not None:  # the control goes on, in other times than the arm was in
            both = await _sums(books, prefix, of, began, stopped.at_ms)
        compared = () if name == of.control else _compared(of, both, label)
        arms.append(_arm(of, state, name, label, totals, moments.get(label), compared))
    running = [arm for arm in arms if arm.stopped is None]
    return Report(
        name=of.name,
        control=of.control,
        by=of.by,
        run=run,
        since_ms=began,
        until_ms=now_ms,
        arms=tuple(arms),
        mismatch=_mismatch(of, running),
        warnings=tuple(_warnings(of, running)),
    )


async def _sums(books: Books, prefix: str, of: Declared, since_ms: int, until_ms: int) -> dict[str, dict[str, Moments]]:
    _, sums = await books.experiment(prefix, of.by, since_ms, until_ms)
    return {label: _moments(found) for label, found in sums.items()}


def _moments(sums: Mapping[str, Sums]) -> dict[str, Moments]:
    return {
        metric: Moments(units=int(units), n=n, x=x, nn=nn, nx=nx, xx=xx)
        for metric, (units, n, x, nn, nx, xx) in sums.items()
    }


def _compared(of: Declared, moments: Mapping[str, Mapping[str, Moments]], label: str) -> tuple[Compared, ...]:
    empty: Mapping[str, Moments] = dict.fromkeys(METRICS, _NOTHING)
    control = moments.get(dict(of.labels)[of.control], empty)
    return compare(control, moments.get(label, empty), of.stop, arms=len(of.arms), by=of.by)


def _arm(
    of: Declared,
    state: State,
    name: str,
    label: str,
    totals: Measures,
    moments: Mapping[str, Moments] | None,
    compared: tuple[Compared, ...],
) -> Arm:
    return Arm(
        name=name,
        label=label,
        share=of.shares_now(state)[name],
        units=moments["cost"].units if moments else 0,
        requests=totals.requests,
        errors=totals.errors,
        cost_nano=totals.cost_nano,
        baseline_nano=totals.baseline_nano,
        saved_nano=totals.saved_nano,
        rated=totals.rated,
        rating=totals.rating,
        hit_rate=totals.hit_rate,
        p50_ms=totals.latency_ms.p50,
        p95_ms=totals.latency_ms.p95,
        compared=compared,
        stopped=state.stopped.get(name),
    )


def _mismatch(of: Declared, running: Sequence[Arm]) -> float:
    """Of the arms that go on: the others have what they had when they were stopped."""
    shares = [of.shares[arm.name] for arm in running]
    return mismatch([arm.units for arm in running], [share / sum(shares) for share in shares])


def _warnings(of: Declared, running: Sequence[Arm]) -> list[str]:
    found = []
    if _mismatch(of, running) < MISMATCHED:
        total = sum(arm.units for arm in running)
        have = ", ".join(f"{arm.name} {arm.units / total:.1%} for {of.shares[arm.name]:.1%}" for arm in running)
        found.append(f"the arms do not have the {of.by}s they should ({have}): do not trust what is said of them")
    shares, hits = [of.shares[arm.name] for arm in running], [arm.hit_rate or 0.0 for arm in running]
    if max(shares) > _UNEQUAL * min(shares) and max(hits) > _HITS:
        found.append(
            "each arm has a cache of its own, in which a smaller arm finds less: its cost is held to be higher than it"
            " would be alone"
        )
    return found
