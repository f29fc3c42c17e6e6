"""What somebody should be told of what is watched. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from gateway.alerts.rules import Finding
from gateway.types import DAY_MS
from gateway.watching.drift import Report
from gateway.watching.probes import Target
from gateway.watching.standing import Change

if TYPE_CHECKING:
    from gateway.config import MonitoringConfig

TOLD_FOR_MS = DAY_MS
"""How long a change of a model, or a report, is news."""
_SHOWN_BY = {
    "answer": "other answers",
    "right": "another share of right answers",
    "length": "answers of another length",
    "reported": "another name",
}


def changed_models(targets: Iterable[Target], now_ms: int) -> list[Finding]:
    """Targets that have become another model in the last day."""
    recent = [target for target in targets if target.changed and now_ms - target.changed.at_ms < TOLD_FOR_MS]
    return [_changed(target.name, target.changed) for target in recent if target.changed]


def _changed(name: str, change: Change) -> Finding:
    before, after = change.before, change.after
    parts = [f"Shown by {' and '.join(_SHOWN_BY[channel] for channel in change.channels)}"]
    parts.append(f"{change.prompts} of {change.asked} answers had not been seen in {change.rounds} rounds before")
    parts.append(f"right {before.right:.0%} → {after.right:.0%}")
    parts.append(f"{before.tokens:.0f} → {after.tokens:.0f} tokens an answer")
    if before.reported != after.reported:
        parts.append(f"it said that it was '{before.reported}' and now '{after.reported}'")
    return Finding(
        key=f"model_changed:{name}:{change.at_ms}",
        kind="model_changed",
        title=f"Target {name} answers as another model",
        text="; ".join(parts) + ".",
        severity="critical" if after.right < before.right - 0.1 else "warning",
    )


def unfit_routing(told: Report, config: MonitoringConfig, now_ms: int) -> list[Finding]:
    """Where the last day has left its bounds; nothing of a report that is a day old itself."""
    return list(_unfit(told, config)) if now_ms - told.until_ms < TOLD_FOR_MS else []


def _unfit(told: Report, config: MonitoringConfig) -> Iterator[Finding]:
    for shift in told.shifts:
        if shift.psi is not None and shift.psi > config.psi:
            text = f"Population stability index {shift.psi:.2f}, above {config.psi:g}: "
            text += f"'{shift.most}' had {shift.before:.0%} in the week before and has {shift.now:.0%} now."
            yield _finding(shift.what, f"Requests have shifted: {shift.what.replace('_', ' ')}", text)
    error, rate, regret = told.calibration_error, told.escalation_rate, told.regret
    if error is not None and error > config.calibration_error:
        text = f"Their quality is off by {error:.2f} on average, above {config.calibration_error:g}."
        yield _finding("calibration", "Local answers are not as good as predicted, or better", text)
    if rate is not None and rate > config.escalation_rate:
        text = f"Above {config.escalation_rate:.0%}: what is given up is paid twice."
        yield _finding("escalations", f"{rate:.0%} of local tries are given up", text)
    if regret is not None and regret > config.regret:
        text = f"Hosted answers are rated better by {regret:.2f} (of 1), above {config.regret:g}."
        yield _finding("regret", "Local answers are rated worse than hosted ones", text)


def _finding(what: str, title: str, text: str) -> Finding:
    return Finding(key=f"routing:{what}", kind="routing", title=title, text=text)
