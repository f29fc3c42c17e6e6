"""What is watched, on the page of the models: golden prompts by target, and the last day of routing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.dashboard.tables import Column, Row, Table

if TYPE_CHECKING:
    from gateway.runtime import Runtime
    from gateway.watching.drift import Report
    from gateway.watching.probes import Target

_PROBES = (
    Column("name", "Target"),
    Column("rounds", "Rounds alike", "count"),
    Column("last_ms", "Last asked", "time"),
    Column("right", "Right", "share"),
    Column("usually", "Usually", "share", minor=True),
    Column("tokens", "Tokens an answer", "rate", minor=True),
    Column("latency_ms", "An answer took", "duration", minor=True),
    Column("reported", "Says it is", minor=True),
    Column("changed_ms", "Changed", "time"),
)
_MIXES = (
    Column("what", "Mix"),
    Column("psi", "Stability index"),
    Column("most", "Most changed"),
    Column("before", "Week before", "share"),
    Column("now", "Last day", "share"),
)
_BINS = (
    Column("predicted", "Predicted quality"),
    Column("answers", "Local answers", "count"),
    Column("expected", "Expected", "share"),
    Column("observed", "Observed", "share"),
)


async def facts(runtime: Runtime) -> dict[str, Any]:
    """Raises redis.RedisError."""
    from gateway.watching.probes import targets
    from gateway.watching.routing import latest

    found, told = await targets(runtime.redis, runtime.keys), await latest(runtime.redis, runtime.keys)
    return {
        "probes": [_target(target) for target in found],
        "routing": None if told is None else _routing(told),
    }


def tables(known: Mapping[str, Any]) -> tuple[Table, ...]:
    """Of what :func:`facts` told; {} of a worker whose Redis is away, or for whoever may not see it."""
    found = []
    if known.get("probes"):
        found.append(Table("probes", "Golden prompts", _PROBES, known["probes"], note=_remark))
    if told := known.get("routing"):
        found.append(
            Table("mixes", "What has shifted", _MIXES, told["mixes"], empty="No request has been decided yet.")
        )
        if told["calibration"]:
            found.append(Table("calibration", "Predicted and observed", _BINS, told["calibration"]))
    return tuple(found)


def figures(known: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of routing, for the page and its export."""
    told = known.get("routing") or {}
    return {name: value for name, value in told.items() if name not in ("mixes", "calibration")}


def _remark(row: Row) -> str:
    return str(row["remark"])


def _target(target: Target) -> dict[str, Any]:
    last, changed = target.last, target.changed
    remark = f"Not asked: {target.skipped}." if target.skipped else ""
    if changed is not None:
        shown = " and ".join(changed.channels)
        remark = f"Another model since then, by: {shown}; {changed.prompts} of {changed.asked} answers new. {remark}"
    return {
        "name": target.name,
        "rounds": target.rounds,
        "last_ms": target.last_ms or None,
        "right": last.right if last else None,
        "usually": target.usual.right if target.usual else None,
        "tokens": last.tokens if last else None,
        "latency_ms": last.latency_ms if last else None,
        "reported": last.reported if last else "",
        "changed_ms": changed.at_ms if changed else None,
        "remark": remark.strip(),
    }


def _routing(told: Report) -> dict[str, Any]:
    bins = [
        {
            "predicted": f"{number * 10} – {number * 10 + 10} %",
            "answers": each.answers,
            "expected": each.predicted / each.answers,
            "observed": each.good / each.answers,
        }
        for number, each in enumerate(told.calibrated)
        if each.answers
    ]
    return {
        "until_ms": told.until_ms,
        "requests": told.requests,
        "requests_before": told.requests_before,
        "calibration_error": told.calibration_error,
        "escalation_rate": told.escalation_rate,
        "regret": told.regret,
        "mixes": [
            msgspec.to_builtins(shift) | {"psi": None if shift.psi is None else round(shift.psi, 3)}
            for shift in told.shifts
        ],
        "calibration": bins,
    }
