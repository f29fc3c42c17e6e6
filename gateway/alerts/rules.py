"""What somebody should be told, found in the books and in what budgets hold. Pure: numbers in, findings out.

========================  ==============================================================================
``budget``                a budget has passed a threshold, or was exhausted; once a window and threshold
``forecast``              at this pace the month ends above ``month_usd``
``spike``                 this hour has cost ``spike`` times the average hour of the last week already
``error_rate``            of the requests of the last ten minutes, too many failed
``target_down``           a target has failed every call of the last ten minutes, or does not answer at all
``cache_drift``           semantic hits are of other similarities than a week before
``experiment``            an arm of an experiment has lost by its rule and was stopped; once a stop
``routing``               what is asked or how it is routed has left the bounds of ``monitoring``
``model_changed``         a target answers golden prompts as another model than before; once a change
========================  ==============================================================================

``spike`` to ``routing`` are states: they are told when they begin and again when they are over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import msgspec

from gateway.ledger.answers import Timeline
from gateway.types import DAY_MS, NANO, Attempt, Frozen, LedgerEntry

if TYPE_CHECKING:
    from gateway.config import AlertsConfig
    from gateway.economics import Forecast
    from gateway.policy.experiments import State

Kind = Literal[
    "experiment",
    "budget",
    "forecast",
    "spike",
    "error_rate",
    "target_down",
    "cache_drift",
    "routing",
    "model_changed",
    "test",
]
STATES = frozenset({"spike", "error_rate", "target_down", "cache_drift", "routing"})
RECENT_MS = 10 * 60_000
LEAST_REQUESTS = 20
LEAST_CALLS = 3
_STOPPED_MS = DAY_MS
_LEAST_HOURS = 24
_DONE = ("ok", "cancelled")


class Finding(Frozen, frozen=True, kw_only=True):
    """Something to be told. ``key`` says what it is about: the same key is the same finding, and told once."""

    key: str
    kind: Kind
    title: str
    text: str = ""
    severity: Literal["info", "warning", "critical"] = "warning"


class BudgetState(Frozen, frozen=True, kw_only=True):
    """What a budget holds in one window. ``alert_at``: shares of the limit; None: those of the configuration."""

    id: str
    name: str
    limit_nano: int
    spent_nano: int
    alert_at: tuple[float, ...] | None = None
    resets: str = ""


def budgets(states: Iterable[BudgetState], config: AlertsConfig) -> list[Finding]:
    """The highest threshold each budget has passed."""
    found = []
    for state in states:
        shares = config.budgets if state.alert_at is None else state.alert_at
        passed = [share for share in shares if state.spent_nano >= share * state.limit_nano > 0]
        if passed:
            found.append(_budget(state, max(passed)))
    return found


def _budget(state: BudgetState, share: float) -> Finding:
    used = state.spent_nano / state.limit_nano
    over = used >= 1
    resets = f" It starts anew {state.resets}." if state.resets else ""
    return Finding(
        key=f"budget:{state.id}:{state.limit_nano}:{share:g}",
        kind="budget",
        title=f"Budget {state.name}: {'exhausted' if over else f'{int(used * 100)}% used'}",
        text=f"{_usd(state.spent_nano)} of {_usd(state.limit_nano)} are spent.{resets}",
        severity="critical" if over else "warning",
    )


def forecast(told: Forecast, config: AlertsConfig, now_ms: int) -> list[Finding]:
    """Whether the month is heading beyond ``month_usd``; once a month."""
    limit = None if config.month_usd is None else round(config.month_usd * NANO)
    if limit is None or told.total_nano is None or told.total_nano <= limit:
        return []
    name = f"{datetime.fromtimestamp(now_ms / 1000, UTC):%Y-%m}"
    text = f"{_usd(told.spent_nano)} are spent, and about {_usd(told.day_nano)} a day go on top."
    title = f"{name} is heading for {_usd(told.total_nano)}, above {_usd(limit)}"
    return [Finding(key=f"forecast:{name}", kind="forecast", title=title, text=text)]


def spike(hours: Timeline, config: AlertsConfig) -> list[Finding]:
    """``hours``: the cost of each hour of the last week, the current one last."""
    costs = [point.cost_nano for line in hours.lines for point in line.points]
    used = next((costs[at:-1] for at, cost in enumerate(costs) if cost), [])
    if len(used) < _LEAST_HOURS:
        return []
    usual, now = sum(used) / len(used), costs[-1]
    if now < config.spike * usual or now < config.spike_usd * NANO:
        return []
    text = f"The average hour of the last week cost {_usd(round(usual))}."
    return [Finding(key="spike", kind="spike", title=f"Spending spike: {_usd(now)} in this hour", text=text)]


def errors(recent: Sequence[LedgerEntry], config: AlertsConfig) -> list[Finding]:
    """``recent``: rows of the last ten minutes."""
    failed = [entry for entry in recent if entry.status not in _DONE]
    if len(recent) < LEAST_REQUESTS or len(failed) < config.error_rate * len(recent):
        return []
    share = len(failed) / len(recent)
    codes = [entry.error.partition(":")[0] or entry.status for entry in failed]
    often = max(set(codes), key=codes.count)
    text = f"{len(failed)} of {len(recent)} in ten minutes; most often: {often}."
    return [Finding(key="error_rate", kind="error_rate", title=f"{share:.0%} of requests fail", text=text)]


def down(recent: Iterable[LedgerEntry], silent: Mapping[str, str], before: Iterable[str] = ()) -> list[Finding]:
    """Targets of which every call in ``recent`` failed; those that were down ``before`` and have not been called since;
    and local ones that are ``silent`` (name: how).
    """
    calls: dict[str, list[Attempt]] = {}
    for entry in recent:
        for attempt in msgspec.convert(entry.detail.get("attempts") or [], list[Attempt]):
            calls.setdefault(attempt.model, []).append(attempt)
    found = [
        _down(model, f"All of its {len(tries)} calls in ten minutes failed.")
        for model, tries in sorted(calls.items())
        if len(tries) >= LEAST_CALLS and all(_failed(attempt) for attempt in tries) and model not in silent
    ]
    found += [_down(model, "Nobody has called it since.") for model in before if model not in calls]
    return found + [_down(model, how) for model, how in sorted(silent.items())]


def drift(psi: float | None, most: float) -> list[Finding]:
    """``psi``: population stability index of the similarities of semantic hits, this week against the one before."""
    if psi is None or psi <= most:
        return []
    text = f"Population stability index {psi:.2f}, above {most:g}: look at the dashboard's page of the cache."
    return [Finding(key="cache_drift", kind="cache_drift", title="Questions to the cache have shifted", text=text)]


def stopped(states: Mapping[str, State], now_ms: int) -> list[Finding]:
    """The arms of experiments that were stopped within a day; ``states`` by the experiment's name."""
    return [
        Finding(
            key=f"experiment:{name}:{state.run}:{state.round}:{arm}",
            kind="experiment",
            title=f"Experiment {name}: {arm} was stopped",
            text=f"It {why.reason}. Its requests go to the control." if why.reason else "",
        )
        for name, state in sorted(states.items())
        for arm, why in state.stopped.items()
        if now_ms - why.at_ms < _STOPPED_MS
    ]


def _failed(attempt: Attempt) -> bool:
    """By its own fault: what it refused as the client's (4xx but 408 and 429) says that it is there."""
    refused = attempt.status is not None and 400 <= attempt.status < 500 and attempt.status not in (408, 429)
    return bool(attempt.error) and not refused


def down_key(model: str) -> str:
    return f"target_down:{model}"


def _down(model: str, text: str) -> Finding:
    return Finding(
        key=down_key(model), kind="target_down", title=f"Target {model} is down", text=text, severity="critical"
    )


def _usd(nano: int) -> str:
    dollars = nano / NANO
    return f"${dollars:,.2f}" if dollars >= 0.1 or not nano else f"${dollars:,.4g}"
