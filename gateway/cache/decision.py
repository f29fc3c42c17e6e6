"""Whether a stored answer is served: one decision for each request, from its nearest stored questions.

*accept* serves; *explore* is a miss whose fresh answer shows whether serving would have been right; *reject* is a miss
that shows nothing. What is served is chosen so that the expected share of wrong answers among it stays within the
budget, by the idea of vCache (arXiv 2502.03771): a posterior learnt online, and requests explored wherever it is not
sure. A random share of what would be served is explored too, and closes the partition when it speaks against the
posterior (:mod:`gateway.cache.audit`). docs/cache.md has the assumptions.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Literal

import msgspec

from gateway.cache.audit import Audit
from gateway.cache.guard import reason
from gateway.cache.posterior import Observation, Posterior, Prior
from gateway.cache.verifier import Verifier
from gateway.cache.words import Text

Mode = Literal["question", "faq"]
Action = Literal["accept", "explore", "reject"]

NEIGHBOURS = 8
_JUDGED = 4
_SURE, _CLOSE = 0.999, 0.05


class Setting(msgspec.Struct, frozen=True):
    """How a mode decides. ``floor``: the least cosine of a neighbour. ``allowance``: how many times the budget the
    share of "different" labels may be, since of labels on free text half are taken to be false alarms. ``most``: bound
    of a single hit's probability of being wrong, in budgets.
    """

    floor: float
    prior: Prior
    allowance: float
    most: float


SETTINGS: dict[Mode, Setting] = {
    # Evidence: 1, the verifier's log-odds, (cosine − 0.9) · 20.
    "question": Setting(0.8, Prior((2.0, 0.2, 1.0), (10.0, 3.0, 20.0)), 2.0, math.inf),
    # Evidence: 1, (closest − 0.7) · 5, log-odds of the neighbours' vote, its margin · 5, agreeing ÷ 4,
    # (mean of the three closest that agree − 0.7) · 5.
    "faq": Setting(0.5, Prior((-2.0, 2.0, 0.5, 0.5, 0.5, 0.0), (0.3,) * 6), 1.0, 12.0),
}


class Neighbour(msgspec.Struct, frozen=True):
    """A stored question near the one asked. ``answer``: equal for equivalent answers."""

    entry: str
    text: Text
    similarity: float
    answer: str


class Verdict(msgspec.Struct, frozen=True):
    """What to do. ``p_same``: probability that the answer of ``entry`` serves; ``audited``: it would have been served,
    and was drawn to be checked with probability ``share``.
    """

    action: Action
    entry: str = ""
    answer: str = ""
    p_same: float = 0.0
    evidence: tuple[float, ...] = ()
    audited: bool = False
    share: float = 1.0


REJECTED = Verdict("reject")


class Judge:
    """Decides for one partition, and learns from what its fresh answers show. Owned by one event loop."""

    def __init__(self, mode: Mode, max_wrong_rate: float, verifier: Verifier, chance: random.Random) -> None:
        self.mode: Mode = mode
        self.max_wrong_rate = max_wrong_rate
        self._verifier, self._chance, self._setting = verifier, chance, SETTINGS[mode]
        self.posterior = Posterior(self._setting.prior)
        self.audit = Audit(max_wrong_rate * self._setting.allowance)
        self._limit = max_wrong_rate * self._setting.allowance

    def judge(self, asked: Text, neighbours: Sequence[Neighbour]) -> Verdict:
        """``neighbours``: nearest first."""
        near = [each for each in neighbours if each.similarity >= self._setting.floor]
        found = _agreeing(asked, near) if self.mode == "faq" else self._likeliest(asked, near)
        if found is None:
            return REJECTED
        evidence, target, surely = found
        self.posterior.ask(evidence)
        p_same = self.posterior.p_same(evidence)
        verdict = Verdict("explore", target.entry, target.answer, p_same, evidence)
        if 1 - p_same > self._limit or not surely:
            return verdict
        share = self.audit.share()
        if self._chance.random() < share:
            return msgspec.structs.replace(verdict, audited=True, share=share)
        return msgspec.structs.replace(verdict, action="accept")

    def learn(self, observation: Observation) -> None:
        """Take over what an explored request taught, here or on another worker."""
        if len(observation.evidence) == len(self._setting.prior.mean) and self.posterior.observe(observation):
            if observation.audited:
                self.audit.observe(not observation.same)
            if self.posterior.due:
                self.refit()

    def restore(self, observations: Sequence[Observation]) -> None:
        """Begin with what was learnt before, oldest first; what was observed in another mode is left out."""
        for each in observations:
            if len(each.evidence) == len(self._setting.prior.mean) and self.posterior.observe(each):
                for _ in range(round(1 / each.share) if each.share else 1):
                    self.posterior.ask(each.evidence)
                if each.audited:
                    self.audit.observe(not each.same)
        if self.posterior.observations:
            self.refit()

    def refit(self) -> None:
        """Fit now, and choose anew how sure a hit must be."""
        self.posterior.fit()
        budget, setting = self.max_wrong_rate, self._setting
        self._limit = self.posterior.threshold(setting.allowance * budget, setting.most * budget)

    def _likeliest(self, asked: Text, near: Sequence[Neighbour]) -> _Found | None:
        judged = [self._compared(asked, each) for each in near[:_JUDGED] if reason(asked, each.text) is None]
        return max(judged, key=lambda found: self.posterior.before(found[0]), default=None)

    def _compared(self, asked: Text, stored: Neighbour) -> _Found:
        """Served only if the verifier, or the verifier and the closeness, were sure enough before anything was learnt:
        what is learnt makes the cache stricter, never bolder.
        """
        p = min(max(self._verifier.p_same(asked, stored.text, stored.similarity), 1 - _SURE), _SURE)
        evidence = (1.0, math.log(p / (1 - p)), (stored.similarity - 0.9) * 20)
        return evidence, stored, 1 - max(p, self.posterior.before(evidence)) <= self.max_wrong_rate


_Found = tuple[tuple[float, ...], Neighbour, bool]


def observed(verdict: Verdict, name: str, same: bool) -> Observation:
    """What an explored request taught. ``name``: its entry, so that it counts once."""
    return Observation(name, verdict.evidence, same, verdict.audited, verdict.share)


def _agreeing(asked: Text, near: Sequence[Neighbour]) -> _Found | None:
    """The answer most of the nearest questions share, weighed by closeness, and the evidence for it."""
    if not near:
        return None
    votes: dict[str, float] = {}
    for each in near:
        closeness = math.exp((each.similarity - near[0].similarity) / _CLOSE)
        votes[each.answer] = votes.get(each.answer, 0.0) + closeness
    best = max(votes, key=lambda answer: votes[answer])
    alike = [each for each in near if each.answer == best]
    target = next((each for each in alike if reason(asked, each.text) is None), None)
    if target is None:
        return None
    share = min(max(votes[best] / sum(votes.values()), 1 - _SURE), _SURE)
    closest = alike[0].similarity
    other = next((each.similarity for each in near if each.answer != best), min(near[-1].similarity, closest))
    mean = sum(each.similarity for each in alike[:3]) / len(alike[:3])
    evidence = (
        *(1.0, (closest - 0.7) * 5, math.log(share / (1 - share))),
        *((closest - other) * 5, len(alike) / 4, (mean - 0.7) * 5),
    )
    return evidence, target, True
