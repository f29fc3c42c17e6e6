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
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from gateway.cache.audit import Audit
from gateway.cache.guard import reason
from gateway.cache.posterior import OBSERVATIONS_MAX, Observation, Posterior, Prior
from gateway.cache.verifier import MEASURES, Measures, Verifier, measure
from gateway.cache.words import Text, foreign

Mode = Literal["question", "faq"]
Action = Literal["accept", "explore", "reject"]

NEIGHBOURS = 8
_JUDGED = 4
_SURE, _CLOSE = 0.999, 0.05
_OPENING = (2.0, 0.2, 1.0)  # of the evidence: the verifier and the closeness together
_REMEMBERED = 2_000
_FEWER_UNMATCHED, _TYPOS = MEASURES.index("fewer_unmatched"), MEASURES.index("typos")
_NOBODY, _CROWDED = 0.75, 0.85  # where no neighbour has such an answer; from where another one speaks against a hit


class Setting(msgspec.Struct, frozen=True):
    """How a mode decides. ``floor``: the least cosine of a neighbour. ``cold``: the most a hit may be given to be wrong
    while nothing was observed, in budgets; ``most``: that of any hit later on.

    ``young``: until so many outcomes were observed, what is served must be surer than ``opens``, and a question is
    served once before it is checked; after that at most ``unchecked`` times the budget. ``again``: how often requests
    are wrong that closeness alone serves, to how often their questions are, since what is asked again and again is
    oftener right; ``bearable``: the most such a question may be given to be wrong, in budgets.
    """

    floor: float
    prior: Prior
    cold: float
    most: float
    young: int = 0
    opens: float = 1.0
    unchecked: float = 0.0
    again: float = math.inf
    bearable: float = 0.0


SETTINGS: dict[Mode, Setting] = {
    # Evidence: 1, the verifier's log-odds, (cosine − 0.9) · 20, how far the cosine of the nearest with another answer
    # is above 0.85 · 10, (cosine of the nearest other one with the same answer − 0.8) · 10.
    "question": Setting(
        *(0.8, Prior((0.95, 0.0, 0.86, -2.6, -0.6), (5.0, 80.0, 80.0, 20.0, 20.0), trust=3.0)),
        *(2.0, 2.0),
        young=10,
        opens=0.01,
        unchecked=600.0,
        again=0.5,
        bearable=4.0,
    ),
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
    and was drawn to be checked with probability ``share``. ``measures``: what the verifier went by, where it was asked.
    """

    action: Action
    entry: str = ""
    answer: str = ""
    p_same: float = 0.0
    evidence: tuple[float, ...] = ()
    audited: bool = False
    share: float = 1.0
    measures: tuple[float, ...] = ()


REJECTED = Verdict("reject")


class Judge:
    """Decides for one partition, and learns from what its fresh answers show. Owned by one event loop."""

    def __init__(self, mode: Mode, max_wrong_rate: float, verifier: Verifier, chance: random.Random) -> None:
        self.mode: Mode = mode
        self.max_wrong_rate = max_wrong_rate
        self.verifier, self._chance, self._setting = verifier, chance, SETTINGS[mode]
        self.posterior = Posterior(self._setting.prior)
        self.audit = Audit(max_wrong_rate)
        self._limit = max_wrong_rate * self._setting.cold
        self._alike: OrderedDict[str, str] = OrderedDict()
        self._served: OrderedDict[tuple[str, str], int] = OrderedDict()

    def judge(self, asked: Text, neighbours: Sequence[Neighbour], said: Mapping[str, float] | None = None) -> Verdict:
        """``neighbours``: nearest first. ``said``: by entry, the probability a better judge than the verifier gave."""
        known = [self._resolved(each) for each in neighbours if each.similarity >= self._setting.floor]
        found = _agreeing(asked, known) if self.mode == "faq" else self._likeliest(asked, known, said or {})
        if found is None:
            return REJECTED
        self.posterior.ask(found.evidence)
        p_same, target = self.posterior.p_same(found.evidence), found.target
        verdict = Verdict(
            "explore", target.entry, target.answer, p_same, found.evidence, measures=tuple(found.measures)
        )
        if not self._may(found, 1 - p_same) or self._often(asked, target.entry):
            return verdict
        share = self.audit.share()
        if self._chance.random() < share:
            return msgspec.structs.replace(verdict, audited=True, share=share)
        return msgspec.structs.replace(verdict, action="accept")

    def _may(self, found: _Found, wrong: float) -> bool:
        """Whether it may be served, being given to be wrong with this probability."""
        if found.surely and wrong <= self._limit:
            return True
        return found.closely and wrong <= self.max_wrong_rate * self._setting.bearable

    @property
    def _young(self) -> bool:
        return len(self.posterior.observations) < self._setting.young

    def _often(self, asked: Text, entry: str) -> bool:
        """Whether this question was served with this entry so often that it is time to see whether that is right: a
        popular mistake is the dearest one. What was checked has an answer of its own from then on.
        """
        if not self._setting.unchecked:
            return False
        times = self._served.pop((asked.raw, entry), 0)
        if times >= max(1, 0 if self._young else self._setting.unchecked * self.max_wrong_rate):
            return True
        self._served[asked.raw, entry] = times + 1
        if len(self._served) > _REMEMBERED:
            self._served.popitem(last=False)
        return False

    def uncertain(self, asked: Text, neighbours: Sequence[Neighbour], low: float, high: float) -> list[Neighbour]:
        """Those of which the verifier says something from ``low`` to ``high``, and the guard nothing."""
        near = [each for each in neighbours if each.similarity >= self._setting.floor][:_JUDGED]
        plain = [each for each in near if reason(asked, each.text) is None]
        return [each for each in plain if low <= self.verifier.p_same(asked, each.text, each.similarity) <= high]

    def _resolved(self, stored: Neighbour) -> Neighbour:
        """Answers that were found to say the same count as one."""
        first = self._alike.get(stored.answer)
        return stored if first is None else msgspec.structs.replace(stored, answer=first)

    def _merge(self, observation: Observation) -> None:
        if observation.same and len(observation.answers) == 2:
            fresh, stored = observation.answers
            first = self._alike.get(stored, stored)
            if fresh != first:
                self._alike[fresh] = first
            if len(self._alike) > OBSERVATIONS_MAX:
                self._alike.popitem(last=False)

    def learn(self, observation: Observation) -> None:
        """Take over what an explored request taught, here or on another worker."""
        if len(observation.evidence) == len(self._setting.prior.mean) and self.posterior.observe(observation):
            self._merge(observation)
            if observation.audited:
                self.audit.observe(not observation.same)
            if self.posterior.due:
                self.refit()

    def restore(self, observations: Sequence[Observation]) -> None:
        """Begin with what was learnt before, oldest first; what was observed in another mode is left out."""
        for each in observations:
            if len(each.evidence) == len(self._setting.prior.mean) and self.posterior.observe(each):
                self._merge(each)
                for _ in range(round(1 / each.share) if each.share else 1):
                    self.posterior.ask(each.evidence)
                if each.audited:
                    self.audit.observe(not each.same)
        if self.posterior.observations:
            self.refit()

    def refit(self) -> None:
        """Fit now, and choose anew how sure a hit must be."""
        self.posterior.fit()
        budget = self.max_wrong_rate
        self._limit = self.posterior.threshold(budget, self._setting.most * budget)

    def _likeliest(self, asked: Text, near: Sequence[Neighbour], said: Mapping[str, float]) -> _Found | None:
        plain = [each for each in near[:_JUDGED] if reason(asked, each.text) is None]
        judged = [self._compared(asked, each, near, said.get(each.entry)) for each in plain]
        return max(judged, key=lambda found: self.posterior.before(found.evidence), default=None)

    def _compared(self, asked: Text, stored: Neighbour, near: Sequence[Neighbour], said: float | None) -> _Found:
        """Of one that the guard lets pass. Served only if the verifier, or the closeness, were sure enough before
        anything was learnt: what is learnt makes the cache stricter, never bolder. While little was learnt, only the
        verifier can be, or it and the closeness together.
        """
        measures = measure(asked, stored.text, stored.similarity, guarded=False)
        p = min(max(self.verifier.p_of(measures) if said is None else said, 1 - _SURE), _SURE)
        other = max((each.similarity for each in near if each.answer != stored.answer), default=_NOBODY)
        variants = [each for each in near if each.answer == stored.answer and each.entry != stored.entry]
        variant = max((each.similarity for each in variants), default=_NOBODY)
        evidence = (
            *(1.0, math.log(p / (1 - p)), (stored.similarity - 0.9) * 20),
            *(max(other - _CROWDED, 0.0) * 10, (max(variant, _NOBODY) - 0.8) * 10),
        )
        before = self.posterior.before(evidence)
        if self._young:
            both = 1 / (1 + math.exp(-sum(w * e for w, e in zip(_OPENING, evidence, strict=False))))
            surely = 1 - max(p, both) <= min(self.max_wrong_rate, self._setting.opens)
        else:
            surely = 1 - max(p, before) <= self.max_wrong_rate
        closely = (1 - before) * self._setting.again <= self.max_wrong_rate
        judged = said is not None or not (_replaced(measures) and foreign(asked) and foreign(stored.text))
        return _Found(evidence, stored, surely and judged, measures.tolist(), closely and judged)


class _Found(NamedTuple):
    evidence: tuple[float, ...]
    target: Neighbour
    surely: bool = True
    measures: Sequence[float] = ()
    closely: bool = False


def _replaced(measures: Measures) -> bool:
    """Whether each of the two texts has a word that is not the same in the other. In a language that neither verifier
    nor encoder were trained on, both can be sure of opposites.
    """
    return bool(measures[_FEWER_UNMATCHED] + measures[_TYPOS] > 0)


def observed(verdict: Verdict, name: str, same: bool) -> Observation:
    """What an explored request taught. ``name``: its entry, so that it counts once."""
    return Observation(name, verdict.evidence, same, verdict.audited, verdict.share, said=verdict.p_same)


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
    return _Found(evidence, target)
