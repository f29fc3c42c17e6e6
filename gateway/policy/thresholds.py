"""Where the thresholds of a policy belong, by what is known of local answers (``gateway router calibrate``).

A threshold is the X of a rule ``difficulty < X`` whose first model is local. Each is set apart, on the requests that
the rule would take if they were easy: how good local answers are at a difficulty is fitted to votes (isotonic
regression: not better where it is harder), hosted answers are taken as their votes say, or as perfect. Requests and
votes are split in halves by request; a threshold is chosen on one and judged on the other, with bootstrap intervals.
It goes no further than there are votes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gateway.errors import GatewayError
from gateway.policy.dial import UNMEASURED, Dial
from gateway.policy.engine import CompiledPolicy
from gateway.policy.situation import Situation, identities
from gateway.types import Decision, Features, Frozen, LedgerEntry, Score

Values: TypeAlias = NDArray[np.float64]
_Chosen: TypeAlias = NDArray[np.int64] | slice
Aim: TypeAlias = Literal["quality", "cost"]

THRESHOLD = re.compile(r"(?P<before>\bdifficulty\s*<=?\s*)(?P<value>\d*\.?\d+)")
VOTES_MIN = 100
"""Fewer votes on local answers, in both halves together, set no threshold."""

_HOSTED_VOTES_MIN = 20
_FURTHEST_VOTES = 5
_STEP = 100
_ROUNDS = 200


class Threshold(NamedTuple):
    """One that may be moved: its rule, which of the policy's rules that is, the number that stands there, and the
    difficulty ``at`` the dial's neutral position that it comes to for requests that ask for no quality.
    """

    rule: str
    place: int
    value: float
    at: float


class Case(NamedTuple):
    """One request that a threshold decides: what it costs here and away, nano-dollars."""

    of: str
    difficulty: float
    here_nano: int
    away_nano: int


class Vote(NamedTuple):
    """How ``good`` (0 … 1) a local or a hosted answer to a request was, and what that counts."""

    of: str
    difficulty: float
    local: bool
    good: float
    weight: float


class Estimate(NamedTuple):
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float


class Reached(Frozen, frozen=True, kw_only=True):
    """What a threshold comes to on held-back requests: the share answered here; quality and cost as shares of those of
    sending all of them away.
    """

    requests: int
    votes: int
    local: float
    quality: Estimate
    cost: Estimate


class Fitted(Frozen, frozen=True, kw_only=True):
    """A threshold as it was and as it should be."""

    rule: str
    place: int
    was: float
    now: float
    before: Reached
    held: Reached


class Unfit(Exception):
    """A threshold cannot be set; the message says why."""


def thresholds(policy: CompiledPolicy, dial: Dial = UNMEASURED) -> list[Threshold]:
    """Of the rules that begin with a local model and compare ``difficulty`` with one number."""
    found = []
    for place, rule in enumerate(policy.rules):
        bounds = THRESHOLD.findall(rule.when.source) if rule.when else []
        model = policy.models.get(rule.use[0])
        if len(bounds) == 1 and not rule.local_only and model is not None and model.is_local:
            value = float(bounds[0][1])
            found.append(Threshold(rule.name, place, value, dial.stands_for(value, policy.policy.cost_quality)))
    return found


def decided_by(
    policy: CompiledPolicy, among: Sequence[Threshold], row: LedgerEntry, features: Features, difficulty: float
) -> tuple[Threshold, str, str] | None:
    """The threshold a request hangs on, and the models it goes to below and above; None where it hangs on none."""
    easy = _decide(policy, row, features, 0.0)
    threshold = next((one for one in among if easy is not None and one.rule == easy.rule), None)
    if easy is None or threshold is None:
        return None
    here = easy.targets[0]
    for harder in (max(difficulty, threshold.value + 1e-9), 1.0):  # a rule behind this one may be local as well
        hard = _decide(policy, row, features, harder)
        if hard is not None and policy.models[here].is_local and not policy.models[hard.targets[0]].is_local:
            return threshold, here, hard.targets[0]
    return None


def _decide(policy: CompiledPolicy, row: LedgerEntry, features: Features, difficulty: float) -> Decision | None:
    whose = identities(row.request_id, row.session, row.end_user, row.key_id)
    situation = Situation(now_ms=row.ts_ms, identities=whose)
    try:
        return policy.decide(features, Score(difficulty=difficulty), unavailable=_all_there, situation=situation)
    except GatewayError:
        return None


def _all_there(_: str) -> None:
    return None


def fit(threshold: Threshold, cases: Iterable[Case], votes: Iterable[Vote], target: float, aim: Aim) -> Fitted:
    """Where a threshold belongs for ``target``: that share of the quality, or of the cost, of sending all away.

    Raises:
        Unfit: there are too few votes or requests, or the target is out of reach of what was voted on.
    """
    all_cases, all_votes = list(cases), list(votes)
    count = sum(vote.local for vote in all_votes)
    if count < VOTES_MIN or len(all_cases) < VOTES_MIN:
        raise Unfit(f"{count} votes on local answers and {len(all_cases)} requests; at least {VOTES_MIN} are needed")
    fitting, held = (_Half(all_cases, all_votes, side) for side in (0, 1))
    now = _best(fitting, target, aim)
    return Fitted(
        rule=threshold.rule,
        place=threshold.place,
        was=threshold.value,
        now=now,
        before=held.reached(threshold.at),
        held=held.reached(now),
    )


class _Half:
    """Half of what is known, by request."""

    def __init__(self, cases: list[Case], votes: list[Vote], side: int) -> None:
        own = [case for case in cases if _side(case.of) == side]
        said = [vote for vote in votes if _side(vote.of) == side]
        self._difficulty = np.array([case.difficulty for case in own])
        self._costs = np.array([(case.here_nano, case.away_nano) for case in own], np.float64).reshape(-1, 2)
        self._local = np.array([(vote.difficulty, vote.good, vote.weight) for vote in said if vote.local]).reshape(
            -1, 3
        )
        self._hosted = np.array([(vote.good, vote.weight) for vote in said if not vote.local]).reshape(-1, 2)
        if not len(own) or not len(self._local):
            raise Unfit("too few requests to hold some of them back")

    @property
    def furthest(self) -> float:
        """The difficulty beyond which next to nobody has voted."""
        return float(np.sort(self._local[:, 0])[-_FURTHEST_VOTES:][0])

    def curve(self, at: Values) -> tuple[Values, Values]:
        """Quality and cost of each threshold in ``at``, as shares of those of sending everything away."""
        return self._curve(at, slice(None), slice(None), slice(None))

    def reached(self, threshold: float) -> Reached:
        draw = np.random.default_rng(0)

        def pick(values: Values) -> NDArray[np.int64]:
            return draw.integers(0, len(values), len(values))

        at = np.array([threshold])
        drawn = [self._curve(at, pick(self._difficulty), pick(self._local), pick(self._hosted)) for _ in range(_ROUNDS)]
        quality, cost = self.curve(at)
        return Reached(
            requests=len(self._difficulty),
            votes=len(self._local),
            local=float((self._difficulty < threshold).mean()),
            quality=_estimate(quality, [one for one, _ in drawn]),
            cost=_estimate(cost, [one for _, one in drawn]),
        )

    def _curve(self, at: Values, cases: _Chosen, votes: _Chosen, hosted: _Chosen) -> tuple[Values, Values]:
        difficulty, costs = self._difficulty[cases], self._costs[cases]
        good, away = falling(*self._local[votes].T), self._away(self._hosted[hosted])
        order = np.argsort(difficulty)
        below = np.searchsorted(difficulty[order], at, side="left")
        kept, saved = (
            np.concatenate(([0.0], np.cumsum(each[order]))) for each in (good(difficulty), costs[:, 0] - costs[:, 1])
        )
        quality = (kept[below] + away * (len(order) - below)) / (away * len(order))
        return quality, 1 + saved[below] / max(1.0, float(costs[:, 1].sum()))

    @staticmethod
    def _away(votes: Values) -> float:
        """How good hosted answers are; where hardly anybody has said so: perfect, which favours them."""
        if len(votes) < _HOSTED_VOTES_MIN or not votes[:, 1].sum():
            return 1.0
        return max(0.05, float(np.average(votes[:, 0], weights=votes[:, 1])))


def _side(of: str) -> int:
    return hashlib.blake2b(of.encode(), digest_size=1).digest()[0] & 1


def _best(half: _Half, target: float, aim: Aim) -> float:
    steps = np.arange(_STEP + 1) / _STEP
    within = steps[steps <= half.furthest + 1 / _STEP]
    quality, cost = half.curve(within)
    enough = quality >= target if aim == "quality" else cost <= target
    if not enough.any():
        raise Unfit(f"local answers were rated up to a difficulty of {within[-1]:g}: there the cost is {cost[-1]:.0%}")
    found = within[enough]
    return float(found[-1] if aim == "quality" else found[0])


def _estimate(value: Values, drawn: list[Values]) -> Estimate:
    low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5])
    return Estimate(float(value[0]), float(low), float(high))


def falling(x: Values, y: Values, weight: Values) -> Callable[[Values], Values]:
    """Weighted isotonic regression of ``y`` on ``x``, not rising (pool adjacent violators), as a step function."""
    ends, at = np.unique(x, return_inverse=True)
    masses = np.bincount(at, weight)
    blocks: list[tuple[float, float, float]] = []
    for end, sum_, mass in zip(ends.tolist(), np.bincount(at, weight * y).tolist(), masses.tolist(), strict=True):
        while blocks and blocks[-1][1] * mass < sum_ * blocks[-1][2]:
            _, before, more = blocks.pop()
            sum_, mass = sum_ + before, mass + more
        blocks.append((end, sum_, mass))
    uppers, sums, weights = np.array(blocks).T
    levels = sums / weights
    return lambda wanted: np.asarray(levels[np.minimum(np.searchsorted(uppers, wanted, side="left"), len(levels) - 1)])
