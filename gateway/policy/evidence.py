"""What a threshold is set by: votes on answers in the ledger, or, where there are too few, what the probe found.

The probe's questions are each scored as they would be in service, by all the others (leave-one-out).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from gateway.policy.competence import Asked, Competence
from gateway.policy.engine import CompiledPolicy
from gateway.policy.feedback import Decided, Label, weighed
from gateway.policy.probe import Question
from gateway.policy.profile import Profile
from gateway.policy.profiled import ProfiledScorer
from gateway.policy.situation import likely_nano
from gateway.policy.thresholds import Case, Threshold, Vote, decided_by
from gateway.types import SHADOW_KEY, ChatRequest, Features, LedgerEntry, Principal

CostOf = Callable[[str, LedgerEntry], int | None]
"""Nano-dollars of a row's tokens at a model; None where its price is not known."""

_ASKING = Principal(key_id="probe")


@dataclass(frozen=True)
class Known:
    """The requests that hang on one threshold, and the votes on answers to such requests."""

    cases: list[Case] = field(default_factory=list)
    votes: list[Vote] = field(default_factory=list)

    @property
    def local_votes(self) -> int:
        return sum(vote.local for vote in self.votes)


def of_ledger(
    policy: CompiledPolicy, among: Sequence[Threshold], found: Iterable[Decided], votes: list[Label], cost: CostOf
) -> dict[str, Known]:
    """By rule; ``votes`` are of the decisions ``found``."""
    known = {one.rule: Known() for one in among}
    for one in found:
        if one.row.key_id == SHADOW_KEY:
            continue
        placed = decided_by(policy, among, one.row, one.features, one.difficulty)
        if placed is not None:
            threshold, here, away = placed
            costs = cost(here, one.row), cost(away, one.row)
            if costs[0] is not None and costs[1] is not None:
                known[threshold.rule].cases.append(Case(one.row.request_id, one.difficulty, costs[0], costs[1]))
    for label, weight in zip(votes, weighed(votes), strict=True):
        one = label.decided
        placed = decided_by(policy, among, one.row, one.features, one.difficulty)
        if placed is not None:
            vote = Vote(label.of, one.difficulty, label.local, label.good, weight)
            known[placed[0].rule].votes.append(vote)
    return known


def of_profile(
    policy: CompiledPolicy,
    among: Sequence[Threshold],
    profile: Profile,
    questions: Sequence[Question],
    traffic: Mapping[str, Known],
    at_ms: int,
) -> dict[str, Known]:
    """The same from a profile: its questions are the votes, and the requests too where ``traffic`` has hardly any."""
    known = {one.rule: Known() for one in among}
    for place, (features, difficulty) in enumerate(_scored(policy, profile, questions)):
        of = f"probe-{place}"
        placed = decided_by(policy, among, LedgerEntry(request_id=of, ts_ms=at_ms), features, difficulty)
        if placed is None:
            continue
        threshold, here, away = placed
        known[threshold.rule].votes.append(Vote(of, difficulty, True, float(profile.right[place] == "1"), 1.0))
        tokens = features.prompt_tokens, features.max_tokens, at_ms
        costs = [likely_nano(policy.prices, policy.models[name], *tokens) for name in (here, away)]
        if costs[0] is not None and costs[1] is not None:
            known[threshold.rule].cases.append(Case(of, difficulty, costs[0], costs[1]))
    return {
        rule: replace(one, cases=traffic[rule].cases) if len(traffic[rule].cases) >= len(questions) else one
        for rule, one in known.items()
    }


def _scored(
    policy: CompiledPolicy, profile: Profile, questions: Sequence[Question]
) -> Iterator[tuple[Features, float]]:
    asked = Asked.of_profile(profile)
    if asked is None:
        return
    competence = Competence(profile, asked)
    for place, question in enumerate(questions):
        messages = [{"role": "user", "content": question.prompt}]
        features = policy.features(ChatRequest(id="probe", model="auto", messages=messages, fields={}), _ASKING)
        scorer = ProfiledScorer(competence.without(place))
        yield features, scorer.score(features, asked.vectors[place]).difficulty
