"""From how sure a local model was of an answer to how likely that answer is right.

A logistic regression on the answer's signals with an intercept for each skill of the probe, drawn to the common one as
the data say (random intercepts; their variance by expectation maximisation over Laplace's approximation). What is not
known of a skill widens the prediction towards even odds (MacKay 1992, doi:10.1162/neco.1992.4.5.720): a prompt like
nothing in the probe is given what a skill never seen deserves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gateway.types import Frozen, Signals

Values: TypeAlias = NDArray[np.float64]

FOLDS = 5
_SEED = 6_021
_ROUNDS = 40
_SLOPE_PENALTY = 1.0
_BIAS_PENALTY = 0.01
_BINS = 10
_EXTREME = 30.0


class Calibration(Frozen, frozen=True, kw_only=True):
    """One model's, in log odds. ``skills``: the offset of each, and the variance of bias and offset together.
    ``spread``: that variance for a skill never seen.
    """

    bias: float
    slopes: tuple[float, ...]
    spread: float
    skills: dict[str, tuple[float, float]]

    def right(self, signals: Signals, skill: str = "", sure: float = 0.0) -> float:
        """The chance that an answer of these signals is right; ``sure`` (0 … 1): that the prompt asks for ``skill``."""
        offset, variance = self.skills.get(skill, (0.0, self.spread))
        logit = self.bias + sum(map(_product, self.slopes, _inputs(signals))) + sure * offset
        unknown = sure * variance + (1 - sure) * self.spread
        return 1 / (1 + math.exp(-min(_EXTREME, max(-_EXTREME, logit)) / math.sqrt(1 + math.pi * unknown / 8)))


class Errors(Frozen, frozen=True, kw_only=True):
    """``ece``: expected calibration error over ten bins of equal width; ``brier``: mean squared error."""

    ece: float
    brier: float


class Reliability(Frozen, frozen=True, kw_only=True):
    """What confidence was worth on questions that were held out of the fit: the bare geometric mean, calibrated, and
    calibrated where all questions of the skill were held out.
    """

    raw: Errors
    calibrated: Errors
    new_skills: Errors


def fit(signals: Sequence[Signals], right: Sequence[bool], skills: Sequence[str]) -> Calibration:
    """By the answers to as many questions, each of one skill."""
    names = sorted(set(skills))
    x, y = np.array([_inputs(one) for one in signals]), np.array(right, float)
    mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-3)
    of = np.array([[skill == name for name in names] for skill in skills], float)
    design = np.hstack([np.ones((len(y), 1)), (x - mean) / scale, of])
    weights, variances, spread = _mixed(design, y, x.shape[1] + 1)
    slopes = weights[1 : x.shape[1] + 1] / scale
    offsets = zip(weights[x.shape[1] + 1 :].tolist(), variances.tolist(), strict=True)
    return Calibration(
        bias=round(float(weights[0] - slopes @ mean), 5),
        slopes=tuple(round(float(slope), 5) for slope in slopes),
        spread=round(spread, 5),
        skills={name: (round(at, 5), round(of_it, 5)) for name, (at, of_it) in zip(names, offsets, strict=True)},
    )


def _mixed(design: Values, y: Values, fixed: int) -> tuple[Values, Values, float]:
    """Weights of all columns; the variance of the first and each of those from ``fixed`` on together, and of the first
    and another one drawn as these were.
    """
    spread = 1.0
    weights: Values = np.zeros(design.shape[1])
    covariance: Values = np.eye(design.shape[1])
    for _ in range(_ROUNDS):
        penalty = np.full(design.shape[1], 1 / spread)
        penalty[0], penalty[1:fixed] = _BIAS_PENALTY, _SLOPE_PENALTY
        p = 1 / (1 + np.exp(-np.clip(design @ weights, -_EXTREME, _EXTREME)))
        precision = design.T @ (design * (p * (1 - p))[:, None]) + np.diag(penalty)
        covariance = np.asarray(np.linalg.inv(precision), dtype=np.float64)
        weights += covariance @ (design.T @ (y - p) - penalty * weights)
        spread = max(1e-3, float(np.mean(weights[fixed:] ** 2 + np.diag(covariance)[fixed:])))
    bias = float(covariance[0, 0])
    return weights, bias + np.diag(covariance)[fixed:] + 2 * covariance[0, fixed:], bias + spread


def cross_validated(signals: Sequence[Signals], right: Sequence[bool], skills: Sequence[str]) -> Reliability:
    """How well it is calibrated on what it was not fitted to."""
    y = np.array(right, float)
    return Reliability(
        raw=errors(np.array([raw(one) for one in signals]), y),
        calibrated=errors(_held_out(signals, right, skills, _dealt(range(len(y)))), y),
        new_skills=errors(_held_out(signals, right, skills, _dealt(skills)), y),
    )


def _dealt(groups: Sequence[object]) -> NDArray[np.int64]:
    """A fold for each item; items of a group share theirs."""
    names = list(dict.fromkeys(groups))
    order = np.random.default_rng(_SEED).permutation(len(names))
    return np.array([order[names.index(group)] % FOLDS for group in groups])


def _held_out(
    signals: Sequence[Signals], right: Sequence[bool], skills: Sequence[str], folds: NDArray[np.int64]
) -> Values:
    found = np.empty(len(signals))
    for fold in range(FOLDS):
        rest = np.flatnonzero(folds != fold).tolist()
        calibration = fit([signals[at] for at in rest], [right[at] for at in rest], [skills[at] for at in rest])
        for at in np.flatnonzero(folds == fold).tolist():
            found[at] = calibration.right(signals[at], skills[at], float(skills[at] in calibration.skills))
    return found


def errors(p: Values, right: Values) -> Errors:
    """Of predictions ``p`` (n,) against what was (n,), 0 or 1."""
    return Errors(ece=sum(_gaps(p, right)), brier=float(np.mean((p - right) ** 2)))


def _gaps(p: Values, right: Values) -> Iterator[float]:
    bins = np.minimum((p * _BINS).astype(int), _BINS - 1)
    for each in np.unique(bins):
        inside = bins == each
        yield float(inside.mean() * abs(p[inside].mean() - right[inside].mean()))


def raw(signals: Signals) -> float:
    """The confidence that nothing was done to: the geometric mean of the tokens' probabilities."""
    return math.exp(min(signals.mean_logprob, 0.0))


def _inputs(signals: Signals) -> tuple[float, float, float, float]:
    return signals.mean_logprob, signals.min_logprob, signals.uncertain_share, math.log1p(signals.tokens)


def _product(slope: float, value: float) -> float:
    return slope * value
