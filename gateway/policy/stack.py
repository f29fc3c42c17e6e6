"""A scorer fitted to rows of one's own on top of the shipped one: never worse than it, as far as those rows can tell.

Ridge regressions of what is lost by staying small, on several views of a prompt; penalties and the blend with the
shipped score are chosen by cross-validation over the rows, by APGR.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gateway.policy.curve import split

Values: TypeAlias = NDArray[np.float64]

FOLDS = 5
PENALTIES = (3.0, 30.0, 300.0, 3000.0)
BLENDS = (0.0, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0)
_LEAST_GAIN = 0.002


class Stack:
    """Fitted; :meth:`score` gives the blend."""

    def __init__(self, views: Sequence[Values], prior: Values, strong: Values, weak: Values, seed: int = 0) -> None:
        """``views``: arrays of shape (rows, inputs) of the same rows; ``prior``: their shipped scores."""
        lost = strong - weak
        folds = np.random.default_rng(seed).permutation(len(lost)) % FOLDS
        held = [_held_out(view, lost, folds) for view in views]
        self._fits = [_Ridge(view, lost, penalty) for view, (penalty, _) in zip(views, held, strict=True)]
        own = np.mean([_standard(scores) for _, scores in held], axis=0)
        prior_standard = _standard(prior)
        areas = [split(strong, weak, blend * own + (1 - blend) * prior_standard).apgr for blend in BLENDS]
        best = int(np.argmax(areas))
        self.blend = BLENDS[best] if areas[best] > areas[0] + _LEAST_GAIN else 0.0

    def score(self, views: Sequence[Values], prior: Values) -> Values:
        """Higher: to the strong model. Views in the order of fitting."""
        own = np.mean([_standard(fit(view)) for fit, view in zip(self._fits, views, strict=True)], axis=0)
        return np.asarray(self.blend * own + (1 - self.blend) * _standard(prior))


class _Ridge:
    def __init__(self, x: Values, y: Values, penalty: float) -> None:
        self._mean, self._spread = x.mean(axis=0), x.std(axis=0) + 1e-6
        z = self._z(x)
        normal = z.T @ z
        normal[np.diag_indices_from(normal)] += penalty * z.shape[1] / 10
        self._slopes = np.linalg.solve(normal, z.T @ (y - y.mean()))

    def _z(self, x: Values) -> Values:
        return np.asarray(np.clip((x - self._mean) / self._spread, -4, 4))

    def __call__(self, x: Values) -> Values:
        return np.asarray(self._z(x) @ self._slopes)


def _held_out(x: Values, y: Values, folds: NDArray[np.int64]) -> tuple[float, Values]:
    """The penalty whose held-out predictions err least, and these."""
    best: tuple[float, float, Values] | None = None
    for penalty in PENALTIES:
        scores = np.zeros(len(y))
        for fold in range(FOLDS):
            own = folds == fold
            scores[own] = _Ridge(x[~own], y[~own], penalty)(x[own]) + y[~own].mean()
        error = float(((scores - y) ** 2).mean())
        if best is None or error < best[0]:
            best = (error, penalty, scores)
    assert best is not None
    return best[1], best[2]


def _standard(values: Values) -> Values:
    return np.asarray((values - values.mean()) / (values.std() + 1e-9))
