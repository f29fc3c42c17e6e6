"""What observed answers have taught about one partition: a Bayesian logistic regression, beside the verifier's word.

Evidence about a pair of questions (a short vector whose first number is 1) → probability that one answer serves both.
Two explanations of the outcomes are weighed against each other: that the verifier is right here as it stands, and that
it is not, and a regression has to be learnt. Cold, that is mostly the verifier's word; each answer that was fetched
afresh shifts the weight (Bayesian model averaging: Hoeting et al., Statistical Science 1999) and moves the regression,
whose fit is the maximum a posteriori by Newton's method (Bishop, Pattern Recognition and Machine Learning, 4.5.1).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

OBSERVATIONS_MAX = 2_000
_POOL = 1_500
_STEPS = 12
_CLIP = 30.0
_ENOUGH = 1e-4


class Prior(msgspec.Struct, frozen=True):
    """Mean and precision (1 ÷ variance) of each weight before anything was observed.

    ``trust``: log-odds that the verifier, whose own are the second number of the evidence, is right as it stands; None
    where it says nothing.
    """

    mean: tuple[float, ...]
    precision: tuple[float, ...]
    trust: float | None = None


class Observation(msgspec.Struct, frozen=True):
    """One pair whose outcome is known. ``audited``: it would have been served, and was drawn to be checked with
    probability ``share`` (1 where it would not have been served). ``id`` names it, so that it counts once.

    ``said``: the probability it was given then. ``answers``: digests of the fresh and of the stored answer; ``made``:
    when and by which model each was made. ``policy``, ``mode`` and ``budget``: under which promise.
    """

    id: str
    evidence: tuple[float, ...]
    same: bool
    audited: bool = False
    share: float = 1.0
    said: float = -1.0
    answers: tuple[str, ...] = ()
    policy: str = ""
    mode: str = ""
    budget: float = 0.0
    made: tuple[tuple[int, str], ...] = ()


class Posterior:
    """Weights as learnt from the newest observations. Not safe for threads: the event loop owns it."""

    def __init__(self, prior: Prior) -> None:
        self._mean = np.array(prior.mean)
        self._precision = np.diag(prior.precision)
        self._prior, self._trusted = prior, prior.trust
        self.weights: Floats = self._mean.copy()
        self.observations: OrderedDict[str, Observation] = OrderedDict()
        self._asked: deque[tuple[float, ...]] = deque(maxlen=_POOL)
        self._unfitted = 0

    def p_same(self, evidence: Sequence[float]) -> float:
        """Probability that the stored answer serves; ``evidence``: as long as the prior."""
        return float(self._said(np.asarray(evidence))[0])

    def before(self, evidence: Sequence[float]) -> float:
        """By the regression alone, before anything was observed."""
        return float(_sigmoid(np.dot(self._mean, evidence)))

    @property
    def trust(self) -> float:
        """Probability that the verifier is right here as it stands; 0 where it says nothing."""
        return 0.0 if self._trusted is None else float(_sigmoid(np.asarray(self._trusted)))

    def _said(self, evidence: Floats) -> Floats:
        """Of each row; shape (rows,)."""
        rows = np.atleast_2d(evidence)
        learnt = _sigmoid(rows @ self.weights)
        if self._trusted is None:
            return learnt
        return np.asarray(self.trust * _sigmoid(rows[:, 1]) + (1 - self.trust) * learnt)

    def ask(self, evidence: tuple[float, ...]) -> None:
        """Remember a request by its evidence, whatever becomes of it: thresholds are about what is asked here."""
        self._asked.append(evidence)

    def observe(self, observation: Observation) -> bool:
        """Take an outcome over, once; whether it was new. The weights follow now and then."""
        if observation.id in self.observations:
            return False
        self.observations[observation.id] = observation
        if len(self.observations) > OBSERVATIONS_MAX:
            self.observations.popitem(last=False)
        self._unfitted += 1
        return True

    @property
    def due(self) -> bool:
        """Whether enough was observed since the last fit: the more is known, the less one outcome says."""
        return self._unfitted >= min(50, 1 + len(self.observations) // 20)

    def fit(self) -> None:
        """Maximum a posteriori over the kept observations, and how far they bear the verifier out."""
        self._unfitted = 0
        kept = self.observations.values()
        x = np.array([each.evidence for each in kept])
        y = np.array([each.same for each in kept], dtype=np.float64)
        self._climb(x, y)
        if self._prior.trust is not None:
            self._trusted = self._prior.trust + _likelihood(x[:, 1], y) - _likelihood(x @ self._mean, y)

    def _climb(self, x: Floats, y: Floats) -> None:
        loss = self._loss(x, y, self.weights)
        for _ in range(_STEPS):
            p = _sigmoid(x @ self.weights)
            slope = x.T @ (y - p) - self._precision @ (self.weights - self._mean)
            curve = (x.T * (p * (1 - p))) @ x + self._precision
            step = np.linalg.solve(curve, slope)
            after, size = loss, 1.0
            while size > 1e-3:
                after = self._loss(x, y, self.weights + size * step)
                if after <= loss:
                    break
                size /= 2
            if after > loss:
                return
            self.weights = self.weights + size * step
            if loss - after < _ENOUGH:
                return
            loss = after

    def _loss(self, x: Floats, y: Floats, weights: Floats) -> float:
        z, off = x @ weights, weights - self._mean
        return float((np.logaddexp(0, z) - y * z).sum() + 0.5 * off @ self._precision @ off)

    def threshold(self, share: float, most: float) -> float:
        """The largest probability of a wrong answer at which to serve, so that of all that is served at most ``share``
        is expected to be wrong. ``most`` bounds it; ``share`` while nothing was asked.
        """
        if not self._asked:
            return min(most, share)
        wrong = np.sort(1 - self._said(np.array(self._asked)))
        mean = np.cumsum(wrong) / np.arange(1, len(wrong) + 1)
        served = int(np.searchsorted(mean, share, side="right"))
        return min(most, float(wrong[served - 1]) if served else 0.0)


def _likelihood(odds: Floats, y: Floats) -> float:
    """Log-likelihood of outcomes that were given these log-odds."""
    return float(-np.logaddexp(0, np.where(y > 0, -odds, odds)).sum())


def _sigmoid(value: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(value, -_CLIP, _CLIP))))
