"""The experiments on the page of the policies: what each arm came to, and what of it is real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gateway.dashboard.tables import Column, Row, Table

if TYPE_CHECKING:
    from gateway.experiments.report import Arm, Report
    from gateway.policy.experiments import Declared, State
    from gateway.runtime import Runtime


async def arms(runtime: Runtime) -> list[dict[str, Any]]:
    """One row an arm, the control's first, with what the background process reported last; none without experiments.

    Raises:
        redis.RedisError
    """
    declared = runtime.view.policies.experiments.values()
    if not declared:
        return []
    from gateway.experiments import state

    known = await state.states(runtime.redis, runtime.keys)
    reports = await state.kept_reports(runtime.redis, runtime.keys)
    return [row for one in declared for row in _rows(one, one.state(known), reports.get(one.name))]


def _rows(of: Declared, state: State, report: Report | None) -> list[dict[str, Any]]:
    shares = of.shares_now(state)
    found = {arm.name: arm for arm in report.arms} if report is not None and report.run == of.run(state) else {}
    warnings = report.warnings if report is not None and found else ()
    rows = []
    for name, label in of.labels:
        row = {"experiment": of.name, "by": of.by, "arm": label, "share": shares[name], "requests": 0, "verdict": ""}
        row |= {"key": f"{of.name}/{name}"} | (_figures(found[name]) if name in found else {})
        row["state"] = "control" if name == of.control else "stopped" if name in state.stopped else ""
        if name == of.control:
            row["verdict"] = "; ".join(warnings)
        elif name in state.stopped and not row["verdict"]:
            row["verdict"] = f"stopped: {state.stopped[name].reason}"
        rows.append(row)
    return rows


def _figures(arm: Arm) -> dict[str, Any]:
    each = arm.cost_per_request_nano
    return {
        "requests": arm.requests,
        "units": arm.units,
        "each_nano": None if each is None else round(each),
        "saved_nano": arm.saved_nano,
        "hit_rate": arm.hit_rate,
        "error_rate": arm.errors / arm.requests if arm.requests else None,
        "p50_ms": arm.p50_ms,
        "p95_ms": arm.p95_ms,
        "rated": arm.rated,
        "rating": None if arm.rating is None else f"{arm.rating:+.2f}",
        "verdict": arm.verdict,
    }


def verdicts(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those that have something to say."""
    return [row for row in rows if row["verdict"]]


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """An arm is headed by its policy; below it stands what it is, or that it was stopped."""
    columns = (
        Column("arm", "Arm", "code"),
        Column("experiment", "Experiment"),
        Column("share", "Share now", "share"),
        Column("requests", "Requests", "count"),
        Column("units", "Sessions, users or keys", "count", minor=True),
        Column("each_nano", "A request", "money"),
        Column("saved_nano", "Saved", "money", minor=True),
        Column("hit_rate", "Cache hits", "share", minor=True),
        Column("error_rate", "Errors", "share"),
        Column("p50_ms", "p50", "duration", minor=True),
        Column("p95_ms", "p95", "duration", minor=True),
        Column("rating", "Rating"),
        Column("rated", "Rated", "count", minor=True),
    )

    def state(row: Row) -> str:
        return str(row["state"])

    return Table("experiments", "Experiments", columns, rows, key="key", note=state)
