"""A scorer fitted to rows of one's own on top of the shipped one: never worse than it, as far as those rows can tell.

Kernel ridge regression of what is lost by staying small, by landmarks (Williams and Seeger, 2001), with the shipped
values as covariates that are not penalised: the tighter it is held, the nearer it is to the shipped scorer. How tight,
and whether it is used at all, is decided by the errors on rows left out one at a time, which ridge regression gives in
closed form (Allen's PRESS, 1974).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Values: TypeAlias = NDArray[np.float64]

LANDMARKS = 700
PENALTIES = tuple(10.0 ** (half / 2) for half in range(-4, 11))
_NARROWNESS = 0.5
_CLIP = 4.0
_LEAST_EIGENVALUE = 1e-5


class Stack:
    """Fitted; :meth:`score` gives what is expected to be lost."""

    def __init__(self, views: Sequence[Values], prior: Values, strong: Values, weak: Values, seed: int = 0) -> None:
        """``views``: arrays of shape (rows, inputs) of the same rows; ``prior``: their shipped values, of shape
        (rows, values), the score first. ``seed`` chooses the landmarks.
        """
        lost = strong - weak
        self._kernels = _Kernels(views, seed)
        regression = _Ridge(self._kernels(views), prior, lost)
        alone = _Ridge(np.zeros((len(lost), 0)), prior[:, :1], lost)
        self._regression = regression if _mean_square(regression) < _mean_square(alone) else None

    @property
    def is_fitted(self) -> bool:
        """Whether the rows show that fitting to them helps."""
        return self._regression is not None

    def score(self, views: Sequence[Values], prior: Values) -> Values:
        """Higher: to the strong model; the shipped score where fitting does not help. Views in the order of fitting."""
        if self._regression is None:
            return prior[:, 0]
        return self._regression(self._kernels(views), prior)


class _Kernels:
    """A Gaussian kernel of each view, and one of all, summed: as inner products of (rows, landmarks)."""

    def __init__(self, views: Sequence[Values], seed: int) -> None:
        self._moments = [(view.mean(axis=0), view.std(axis=0) + 1e-6) for view in views]
        some = np.sort(np.random.default_rng(seed).permutation(len(views[0]))[:LANDMARKS])
        self._landmarks = [view[some] for view in self._scaled(views)]
        values, vectors = np.linalg.eigh(self._likeness(self._landmarks))
        kept = values > values[-1] * _LEAST_EIGENVALUE
        self._whiten = vectors[:, kept] / np.sqrt(values[kept])

    def __call__(self, views: Sequence[Values]) -> Values:
        return np.asarray(self._likeness(self._scaled(views)) @ self._whiten)

    def _scaled(self, views: Sequence[Values]) -> list[Values]:
        """Every view standardised, and to a mean square length of 1: one counts as much as the next."""
        return [
            np.clip((view - mean) / spread, -_CLIP, _CLIP) / np.sqrt(view.shape[1])
            for view, (mean, spread) in zip(views, self._moments, strict=True)
        ]

    def _likeness(self, views: Sequence[Values]) -> Values:
        apart = [_apart(view, landmarks) for view, landmarks in zip(views, self._landmarks, strict=True)]
        of_all = np.exp(-_NARROWNESS / len(apart) * np.sum(apart, axis=0))
        return np.asarray(np.sum([np.exp(-_NARROWNESS * one) for one in apart], axis=0) + of_all)


def _apart(these: Values, those: Values) -> Values:
    """Squared distances, (rows of these, rows of those)."""
    squares = (these**2).sum(axis=1)[:, None] + (those**2).sum(axis=1)
    return np.asarray(np.maximum(squares - 2 * these @ those.T, 0))


class _Ridge:
    """``free`` (and a bias) are not penalised. ``left_out``: the error of each row when it is left out."""

    def __init__(self, x: Values, free: Values, y: Values) -> None:
        free = _with_bias(free)
        basis, _ = np.linalg.qr(free)
        away, rest = (one - basis @ (basis.T @ one) for one in (x, y))
        left, sizes, right = np.linalg.svd(away, full_matrices=False)
        turned, held = left.T @ rest, (basis**2).sum(axis=1)
        errors = []
        for shrink in (sizes**2 / (sizes**2 + penalty) for penalty in PENALTIES):
            share = np.minimum(held + left**2 @ shrink, 1 - 1e-6)
            errors.append((rest - left @ (shrink * turned)) / (1 - share))
        best = int(np.argmin([(error**2).mean() for error in errors]))
        self.left_out: Values = errors[best]
        self._slopes = right.T @ (sizes / (sizes**2 + PENALTIES[best]) * turned)
        self._free = np.linalg.lstsq(free, y - x @ self._slopes, rcond=None)[0]

    def __call__(self, x: Values, free: Values) -> Values:
        return np.asarray(x @ self._slopes + _with_bias(free) @ self._free)


def _mean_square(regression: _Ridge) -> float:
    return float((regression.left_out**2).mean())


def _with_bias(free: Values) -> Values:
    return np.hstack([np.ones((len(free), 1)), free])
