"""What the ledger says of how good local answers were: votes of users and judges, and answers that were given up.

A label is one row with feedback (on a shadow's row too: a judge votes with the admin key), or one whose local try was
escalated. Whoever votes, votes for themselves: a tenant (a team, or a key that is in none) counts for at most
``VOTES_MAX`` votes, and so does a key, however many there are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from gateway.policy.dial import DIALLED, without
from gateway.policy.model import ESCALATED, PINNED
from gateway.policy.profiled import BAND
from gateway.types import SHADOW_KEY, Features, Frozen, LedgerEntry

TAUGHT = "feedback"
"""What a fitted correction is called among the contributions to a difficulty."""
TAUGHT_BY = "+ledger@"
"""What follows the name of a scorer that is corrected by an artefact."""
VOTES_MAX = 100.0
VOTES_READ = 2_000
"""Of a key no more are read, the newest: nobody can crowd out what others have said."""
ESCALATED_VOTE = 0.5
"""An answer that was given up is half a vote against it: the model was unsure, nobody has seen it."""


class Tenant(NamedTuple):
    """Who may not be moved by others, and moves no others: a team, or a key that is in none."""

    organisation: str
    name: str


class Decided(Frozen, frozen=True, kw_only=True):
    """A logged decision: ``difficulty`` at the dial's neutral position, ``prior`` also without what was learned."""

    row: LedgerEntry
    features: Features
    difficulty: float
    prior: float
    scorer: str

    @property
    def shipped(self) -> str:
        """The scorer without what corrected it."""
        return self.scorer.partition(TAUGHT_BY)[0]


class Label(Frozen, frozen=True, kw_only=True):
    """``good`` (0 … 1) is what was thought of an answer of a ``local`` or a hosted model to the request ``of``."""

    of: str
    decided: Decided
    tenant: Tenant
    key_id: str
    local: bool
    good: float
    weight: float = 1.0


def decided(row: LedgerEntry) -> Decided | None:
    """None where no policy decided, by difficulty or at all."""
    logged: Mapping[str, Any] | None = row.detail.get("decision")
    if logged is None or "features" not in row.detail or row.rule == PINNED:
        return None
    difficulty = logged.get("difficulty")
    if difficulty is None or row.status != "ok":
        return None
    parts = logged.get("contributions") or ()
    try:
        features = msgspec.convert(row.detail["features"], Features)
    except msgspec.ValidationError:
        return None  # of an older gateway, which knew fewer of them
    return Decided(
        row=row,
        features=features,
        difficulty=without(difficulty, parts, DIALLED),
        prior=without(difficulty, parts, DIALLED, TAUGHT),
        scorer=logged.get("scorer") or "",
    )


def latest(rows: Iterable[LedgerEntry]) -> tuple[list[Decided], str]:
    """The decisions of rows in the order of time that compare with the newest ones, and the scorer these have."""
    found = [one for row in rows if (one := decided(row)) is not None]
    scorer = next((one.shipped for one in reversed(found) if one.prior < BAND), "")
    return [one for one in found if compares(one.shipped, one.prior, scorer)], scorer


def compares(scorer: str, prior: float, of: str) -> bool:
    """Whether a difficulty means what it means to another scorer: from ``BAND`` on the rules score alone."""
    return prior >= BAND or scorer == of


def says_something(row: LedgerEntry) -> bool:
    """Whether a row has a vote in it."""
    return row.feedback is not None or any(each.get("error") == ESCALATED for each in row.detail.get("attempts") or ())


def labels(found: Iterable[Decided], local: Container[str]) -> list[Label]:
    """What is known of the answers to these; ``local``: the names of models that run here."""
    kept = list(found)
    asked = {one.row.request_id: one.row for one in kept}
    return [label for one in kept for label in _labels(one, asked, local)]


def _labels(one: Decided, asked: Mapping[str, LedgerEntry], local: Container[str]) -> Iterator[Label]:
    row = one.row
    of = str(row.detail.get("shadow_of") or row.request_id)
    whose = asked.get(of, row)
    tenant = Tenant(whose.organisation, whose.team or whose.key_id)
    if row.feedback is not None and row.served in ("local", "hosted"):
        good = (min(1.0, max(-1.0, row.feedback)) + 1) / 2
        yield Label(of=of, decided=one, tenant=tenant, key_id=whose.key_id, local=row.model in local, good=good)
    if row.key_id != SHADOW_KEY and any(
        each.get("error") == ESCALATED and each.get("model") in local for each in row.detail.get("attempts") or ()
    ):
        yield Label(of=of, decided=one, tenant=tenant, key_id=whose.key_id, local=True, good=0.0, weight=ESCALATED_VOTE)


def weighed(votes: list[Label]) -> list[float]:
    """The weight of each: a key's, and then a tenant's, add up to ``VOTES_MAX`` at most."""
    weights = [vote.weight for vote in votes]
    for whose in (_key, _tenant):
        sums: dict[Any, float] = defaultdict(float)
        for vote, weight in zip(votes, weights, strict=True):
            sums[whose(vote)] += weight
        weights = [
            weight * min(1.0, VOTES_MAX / sums[whose(vote)]) for vote, weight in zip(votes, weights, strict=True)
        ]
    return weights


def _key(vote: Label) -> tuple[Tenant, str]:
    return vote.tenant, vote.key_id


def _tenant(vote: Label) -> Tenant:
    return vote.tenant
