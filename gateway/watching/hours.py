"""What the books' rows say of routing, an hour at a time: counts that add up, and nothing of what was asked.

Requests of users count that a policy decided on: not those that name their model, nor shadows' and probes'. Shadows
count for regret only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gateway.policy.model import ESCALATED, PINNED
from gateway.types import SHADOW_KEY, Frozen, LedgerEntry
from gateway.watching.golden import PROBE_KEY

DECILES = 10
"""Bins of difficulties and of predicted quality."""
VALUES_MAX = 40
"""Values kept apart in a mix; those beyond are ``other``."""
OTHER = "other"

Mix = dict[str, int]


class Votes(Frozen, frozen=True, kw_only=True):
    """Answers that were rated: how many, and the sum of how good they were (0 … 1)."""

    rated: int = 0
    good: float = 0.0

    def __add__(self, other: Votes) -> Votes:
        return Votes(rated=self.rated + other.rated, good=self.good + other.good)

    @property
    def mean(self) -> float | None:
        return self.good / self.rated if self.rated else None


class Predicted(Frozen, frozen=True, kw_only=True):
    """Answers that were predicted about as good: their number, the sums of what was predicted and of what came."""

    answers: int = 0
    predicted: float = 0.0
    good: float = 0.0

    def __add__(self, other: Predicted) -> Predicted:
        return Predicted(
            answers=self.answers + other.answers,
            predicted=self.predicted + other.predicted,
            good=self.good + other.good,
        )


class Hour(Frozen, frozen=True, kw_only=True):
    """``mixes`` by what is counted (``rule``, ``model``, ``difficulty``, features), each by value.

    ``calibration``: by decile of the predicted chance that the local answer is good. ``weighed`` local tries had an
    escalation to fear, of which ``escalated`` were given up. ``local`` and ``hosted``: ratings of their answers.
    ``shadowed``: ratings of a local answer and of a shadow's to the same request.
    """

    start_ms: int
    requests: int = 0
    mixes: dict[str, Mix] = {}  # noqa: RUF012 -- msgspec makes a new one for each
    calibration: tuple[Predicted, ...] = (Predicted(),) * DECILES
    weighed: int = 0
    escalated: int = 0
    local: Votes = Votes()
    hosted: Votes = Votes()
    shadowed: tuple[Votes, Votes] = (Votes(), Votes())


def added(hours: Iterable[Hour], start_ms: int = 0) -> Hour:
    """Several as one."""
    mixes: dict[str, Counter[str]] = {}
    whole = Hour(start_ms=start_ms)
    for hour in hours:
        for name, mix in hour.mixes.items():
            mixes.setdefault(name, Counter()).update(mix)
        whole = Hour(
            start_ms=start_ms,
            requests=whole.requests + hour.requests,
            calibration=tuple(map(_sum, whole.calibration, hour.calibration)),
            weighed=whole.weighed + hour.weighed,
            escalated=whole.escalated + hour.escalated,
            local=whole.local + hour.local,
            hosted=whole.hosted + hour.hosted,
            shadowed=(whole.shadowed[0] + hour.shadowed[0], whole.shadowed[1] + hour.shadowed[1]),
        )
    return Hour(**{**_fields(whole), "mixes": {name: dict(mix) for name, mix in mixes.items()}})


def counted(start_ms: int, rows: Sequence[LedgerEntry]) -> Hour:
    """The rows of one hour."""
    own = [row for row in rows if _decided(row)]
    mixes: dict[str, Counter[str]] = {}
    calibration, weighed, escalated = [Predicted()] * DECILES, 0, 0
    votes = {"local": Votes(), "hosted": Votes()}
    for row in own:
        for name, value in _values(row):
            mixes.setdefault(name, Counter())[value] += 1
        gave_up, held = _gave_up(row), row.detail.get("confidence") is not None
        weighed += gave_up or held
        escalated += gave_up
        if (good := _good(row)) is not None and row.served in votes:
            votes[row.served] += Votes(rated=1, good=good)
        expected, came = _expected(row), _came(row, gave_up, held)
        if expected is not None and came is not None:
            place = min(DECILES - 1, int(expected * DECILES))
            calibration[place] += Predicted(answers=1, predicted=expected, good=came)
    return Hour(
        start_ms=start_ms,
        requests=len(own),
        mixes={name: _bounded(mix) for name, mix in mixes.items()},
        calibration=tuple(calibration),
        weighed=weighed,
        escalated=escalated,
        local=votes["local"],
        hosted=votes["hosted"],
        shadowed=_compared(rows, own),
    )


def _sum(one: Predicted, other: Predicted) -> Predicted:
    return one + other


def _fields(hour: Hour) -> dict[str, Any]:
    return {name: getattr(hour, name) for name in hour.__struct_fields__}


def _decided(row: LedgerEntry) -> bool:
    inner = row.key_id in (SHADOW_KEY, PROBE_KEY)
    return not inner and row.rule != PINNED and bool(row.detail.get("decision")) and "features" in row.detail


def _values(row: LedgerEntry) -> Iterable[tuple[str, str]]:
    """What is counted of a request; numbers by size."""
    features: Mapping[str, Any] = row.detail["features"]
    yield "rule", row.rule
    yield "model", row.model
    if row.difficulty is not None:
        yield "difficulty", f"{min(DECILES - 1, int(row.difficulty * DECILES)) / DECILES:.1f}"
    for name in ("language", "question", "privacy"):
        yield name, str(features.get(name) or "none")
    yield "subject", "code" if features.get("code") else "maths" if features.get("maths") else "other text"
    yield "needs", " ".join(features.get("needs") or ()) or "nothing"
    for name in ("prompt_tokens", "turns"):
        yield name, f"up to {(1 << max(0, int(features.get(name) or 0) - 1).bit_length())}"


def _gave_up(row: LedgerEntry) -> bool:
    return any(attempt.get("error") == ESCALATED for attempt in row.detail.get("attempts") or ())


def _good(row: LedgerEntry) -> float | None:
    return None if row.feedback is None else (min(1.0, max(-1.0, row.feedback)) + 1) / 2


def _expected(row: LedgerEntry) -> float | None:
    """How likely a good local answer was said to be; None where the first target was not a local model."""
    attempts = row.detail.get("attempts") or ()
    first = str(attempts[0].get("model")) if attempts else ""
    if not (row.served == "local" and row.model == first) and not _gave_up(row):
        return None
    predicted = dict(row.detail["decision"].get("quality") or ())
    if first in predicted:
        return min(1.0, max(0.0, float(predicted[first])))
    return None if row.difficulty is None else 1 - row.difficulty


def _came(row: LedgerEntry, gave_up: bool, held: bool) -> float | None:
    """What came of a local try: given up, rated, or kept by the cascade; None where nobody has said anything."""
    if gave_up:
        return 0.0
    good = _good(row)
    return good if good is not None else 1.0 if held else None


def _compared(rows: Sequence[LedgerEntry], own: Sequence[LedgerEntry]) -> tuple[Votes, Votes]:
    """Local answers and shadows' answers to the same requests, where both were rated."""
    answers = {row.request_id: good for row in own if row.served == "local" and (good := _good(row)) is not None}
    mine, theirs = Votes(), Votes()
    for row in rows:
        of, good = str(row.detail.get("shadow_of") or ""), _good(row)
        if row.key_id == SHADOW_KEY and good is not None and row.served == "hosted" and of in answers:
            mine += Votes(rated=1, good=answers[of])
            theirs += Votes(rated=1, good=good)
    return mine, theirs


def _bounded(mix: Counter[str]) -> Mix:
    kept = dict(mix.most_common(VALUES_MAX))
    rest = mix.total() - sum(kept.values())
    return {**kept, OTHER: kept.get(OTHER, 0) + rest} if rest else kept
