"""How many prompts the second stage of the shipped scorer is needed for, and what deciding without it loses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gateway.policy.learned import Mixture
from gateway.types import Frozen

Values: TypeAlias = NDArray[np.float64]


class Stages(Frozen, frozen=True, kw_only=True):
    """``useful``: the share of prompts whose score an embedding can change. The rest is told for the split that sends
    half of the prompts to the strong model: ``in_band`` is the share of prompts whose score by words is so near the
    threshold that an embedding can change the decision, and what follows are the mean qualities with no embedding, with
    those of the band, and with all.
    """

    useful: float
    in_band: float
    quality_without: float
    quality_band: float
    quality_all: float


class Scored(Frozen, frozen=True, kw_only=True):
    """Prompts by both stages: difficulties by the ``first`` alone and by ``both``, and whether an embedding is
    ``useful``, each of shape (prompts,). ``band``: :attr:`gateway.policy.learned.Mixture.band`.
    """

    first: Values
    both: Values
    useful: NDArray[np.bool_]
    band: float

    @classmethod
    def by(cls, mixture: Mixture, prompts: Sequence[str], vectors: NDArray[np.float32]) -> Scored:
        """``vectors``: of what is asked (:func:`gateway.policy.signals.stem`), of shape (prompts, DIMENSION)."""
        first = np.array([mixture.estimate(prompt).lost for prompt in prompts])
        useful = np.array([mixture.wants_embedding(prompt) for prompt in prompts])
        second = [mixture.estimate(prompt, vector).lost for prompt, vector in zip(prompts, vectors, strict=True)]
        return cls(first=first, both=np.where(useful, second, first), useful=useful, band=mixture.band)

    def at(self, places: NDArray[np.int64]) -> Scored:
        """Some of the prompts."""
        return Scored(first=self.first[places], both=self.both[places], useful=self.useful[places], band=self.band)

    def stages(self, strong: Values, weak: Values) -> Stages:
        """By graded answers, of shape (prompts,) each."""
        threshold = float(np.median(self.both))
        near = self.useful & (np.abs(self.first - threshold) <= self.band)

        def quality(away: NDArray[np.bool_]) -> float:
            return float(np.where(away, strong, weak).mean())

        return Stages(
            useful=float(self.useful.mean()),
            in_band=float(near.mean()),
            quality_without=quality(self.first > float(np.median(self.first))),
            quality_band=quality(np.where(near, self.both, self.first) > threshold),
            quality_all=quality(self.both > threshold),
        )
