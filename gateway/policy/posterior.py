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

_PENALTY, _STEPS = 2.0, 30
_LEAST, _EXTREME = 0.01, 30.0
_SEED = 6_022


class Posterior(Frozen, frozen=True, kw_only=True):
    """One model's: log odds are ``bias`` and the inputs by their ``slopes``."""

    bias: float
    slopes: tuple[float, ...]

    def right(self, likely: Likely, signals: Signals) -> float:
        """The chance that an answer of these signals, to a prompt of this evidence, is right."""
        logit = self.bias + sum(slope * one for slope, one in zip(self.slopes, _inputs(likely, signals), strict=True))
        return 1 / (1 + math.exp(-min(_EXTREME, max(-_EXTREME, logit))))


def fit(likely: Sequence[Likely], signals: Sequence[Signals], right: Sequence[bool]) -> Posterior:
    """By the answers to as many questions; ``likely``: what was known of each without it."""
    x = np.array([_inputs(one, how) for one, how in zip(likely, signals, strict=True)])
    mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-3)
    weights = _ridge(np.hstack([np.ones((len(x), 1)), (x - mean) / scale]), np.array(right, float))
    slopes = weights[1:] / scale
    return Posterior(bias=round(float(weights[0] - slopes @ mean), 5), slopes=tuple(round(float(s), 5) for s in slopes))


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


def _ridge(design: Values, y: Values) -> Values:
    """Newton's method; the first column is not penalised."""
    penalty = np.full(design.shape[1], _PENALTY)
    penalty[0] = _LEAST
    weights: Values = np.zeros(design.shape[1])
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(design @ weights, -_EXTREME, _EXTREME)))
        curved = design.T @ (design * (p * (1 - p))[:, None]) + np.diag(penalty)
        weights = weights + np.linalg.solve(curved, design.T @ (y - p) - penalty * weights)
    return weights


def _inputs(likely: Likely, signals: Signals) -> tuple[float, ...]:
    return (
        _logit(likely.right),
        _logit(likely.like_these),
        max(signals.mean_logprob, -_EXTREME),
        max(signals.min_logprob, -_EXTREME),
        signals.uncertain_share,
        math.log1p(signals.tokens),
    )


def _logit(p: float) -> float:
    p = min(1 - _LEAST, max(_LEAST, p))
    return math.log(p / (1 - p))
