"""The chance that an answer is right, by both: what the model's profile says of the prompt, and how sure it was.

One logistic regression stacks them (Wolpert 1992, doi:10.1016/S0893-6080(05)80023-1). It is fitted to the questions of
the probe, each with the evidence of all the others, so that neither is trusted more than it deserves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gateway.policy.calibration import FOLDS, Errors, errors
from gateway.types import Frozen, Signals

if TYPE_CHECKING:
    from gateway.policy.competence import Likely

Values: TypeAlias = NDArray[np.float64]

_PENALTY, _STEPS, _HALVED = 2.0, 30, 40
_LEAST, _EXTREME = 0.01, 30.0
_SEED = 6_022
_EVIDENCE = 2


class Logistic(Frozen, frozen=True, kw_only=True):
    """Log odds are ``bias`` and the inputs by their ``slopes``."""

    bias: float
    slopes: tuple[float, ...]

    def chance(self, inputs: Sequence[float]) -> float:
        logit = self.bias + sum(slope * one for slope, one in zip(self.slopes, inputs, strict=True))
        return 1 / (1 + math.exp(-min(_EXTREME, max(-_EXTREME, logit))))


class Posterior(Frozen, frozen=True, kw_only=True):
    """One model's: the chance ``before`` it is asked, by the evidence alone, and ``after``."""

    before: Logistic
    after: Logistic

    def expected(self, likely: Likely) -> float:
        """The chance that an answer to a prompt of this evidence will be right."""
        return self.before.chance(_known(likely))

    def right(self, likely: Likely, signals: Signals) -> float:
        """The chance that an answer of these signals, to a prompt of this evidence, is right."""
        return self.after.chance((*_known(likely), *_sureness(signals)))


def fit(likely: Sequence[Likely], signals: Sequence[Signals], right: Sequence[bool]) -> Posterior:
    """By the answers to as many questions; ``likely``: what was known of each without it."""
    known = np.array([_known(one) for one in likely])
    sure, y = np.array([_sureness(one) for one in signals]), np.array(right, float)
    return Posterior(before=_logistic(known, y), after=_logistic(np.hstack([known, sure]), y))


def _logistic(x: Values, y: Values) -> Logistic:
    """The first columns are evidence, in log odds: worth nothing at least and itself at most. More would follow from a
    few questions that are nearly the same, and be wrong of a prompt that is exactly one of them.
    """
    fixed: dict[int, float] = {}
    while True:
        free = [at for at in range(x.shape[1]) if at not in fixed]
        offset = np.sum([slope * x[:, at] for at, slope in fixed.items()], axis=0) if fixed else np.zeros(len(y))
        bias, slopes = _fitted(x[:, free], y, offset)
        found = {**fixed, **dict(zip(free, slopes, strict=True))}
        beyond = {at: min(1.0, max(0.0, found[at])) for at in range(_EVIDENCE) if not 0 <= found[at] <= 1}
        if not beyond:
            return Logistic(bias=round(bias, 5), slopes=tuple(round(found[at], 5) for at in sorted(found)))
        fixed |= beyond


def _fitted(x: Values, y: Values, offset: Values) -> tuple[float, list[float]]:
    mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-3)
    weights = _ridge(np.hstack([np.ones((len(y), 1)), (x - mean) / scale]), y, offset)
    slopes = weights[1:] / scale
    return float(weights[0] - slopes @ mean), [float(slope) for slope in slopes]


def held_out(likely: Sequence[Likely], signals: Sequence[Signals], right: Sequence[bool]) -> Errors:
    """How well it is calibrated on questions that were held out of the fit, a fifth of them at a time."""
    folds = np.random.default_rng(_SEED).permutation(len(right)) % FOLDS
    found = np.empty(len(right))
    for fold in range(FOLDS):
        rest = np.flatnonzero(folds != fold).tolist()
        fitted = fit([likely[at] for at in rest], [signals[at] for at in rest], [right[at] for at in rest])
        for at in np.flatnonzero(folds == fold).tolist():
            found[at] = fitted.right(likely[at], signals[at])
    return errors(found, np.array(right, float))


def _ridge(design: Values, y: Values, offset: Values) -> Values:
    """Newton's method; the first column is not penalised. A step that makes it worse is halved: where the offset alone
    is sure of nearly everything, the curvature says little and a whole step goes far beyond.
    """
    penalty = np.full(design.shape[1], _PENALTY)
    penalty[0] = _LEAST
    weights: Values = np.zeros(design.shape[1])

    def loss(at: Values) -> float:
        logits = offset + design @ at
        return float(np.sum(np.logaddexp(0, logits) - y * logits) + penalty @ at**2 / 2)

    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(offset + design @ weights, -_EXTREME, _EXTREME)))
        curved = design.T @ (design * (p * (1 - p))[:, None]) + np.diag(penalty)
        step = np.linalg.solve(curved, design.T @ (y - p) - penalty * weights)
        scales = (0.5**halved for halved in range(_HALVED))
        weights = weights + step * next((scale for scale in scales if loss(weights + scale * step) <= loss(weights)), 0)
    return weights


def _known(likely: Likely) -> tuple[float, float]:
    return _logit(likely.of_skill), _logit(likely.of_this)


def _sureness(signals: Signals) -> tuple[float, float, float, float]:
    mean, least = max(signals.mean_logprob, -_EXTREME), max(signals.min_logprob, -_EXTREME)
    return mean, least, signals.uncertain_share, math.log1p(signals.tokens)


def _logit(p: float) -> float:
    p = min(1 - _LEAST, max(_LEAST, p))
    return math.log(p / (1 - p))
