"""What own traffic has taught, stacked on the shipped verifier: written by ``gateway cache train``.

A layer is a logistic regression over the shipped verifier's log-odds and the measures it goes by. The first is fitted
on what all tenants taught, and there is one for each large tenant without what that tenant taught. What makes the cache
bolder than the shipped verifier must be borne out by all of them: no tenant by itself can do that to the others.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.cache.verifier import MEASURES, Measures, Verifier, shipped, shipped_digest

FORMAT = "farthing.verifier-layer/1"
Floats = NDArray[np.float64]


class HeldBack(msgspec.Struct, frozen=True):
    """What was measured on outcomes that were not learnt from. ``log_loss``, ``brier``: before and after, in nats and
    as mean squared error. ``bins``: low, high, outcomes, mean said and share that was the same.
    """

    outcomes: int
    log_loss: tuple[float, float]
    brier: tuple[float, float]
    bins: list[tuple[float, float, int, float, float]]


class Layers(msgspec.Struct, frozen=True):
    """The artefact. ``verifier``: digest of the verifier it is stacked on. ``weights``: a layer each, of 1, of the
    log-odds and of the measures less ``mean``, divided by ``spread``.
    """

    format: str
    verifier: str
    measures: list[str]
    mean: list[float]
    spread: list[float]
    weights: list[list[float]]
    outcomes: int
    wrong: int
    tenants: int
    since_ms: int
    until_ms: int
    held_back: HeldBack


class Recalibrated(Verifier):
    """The shipped verifier with layers on top. Any thread may ask it."""

    def __init__(self, layers: Layers, below: Verifier | None = None) -> None:
        """Raises ValueError where it was trained on another verifier than the shipped one, or is damaged."""
        if layers.format != FORMAT or tuple(layers.measures) != MEASURES or layers.verifier != shipped_digest():
            raise ValueError("it was trained on another version's verifier: train it again")
        self._below = below or shipped()
        self._mean, self._spread = np.array(layers.mean), np.array(layers.spread)
        self._weights = np.array(layers.weights)
        if self._weights.shape[1:] != (2 + len(MEASURES),) or not np.isfinite(self._weights).all():
            raise ValueError("its weights are damaged")

    def log_odds(self, measures: Measures) -> float:
        """What the first layer says; above what the shipped verifier says only as far as every other one does."""
        below = self._below.log_odds(measures)
        inputs = np.concatenate(((1.0, below), (measures - self._mean) / self._spread))
        return float(combined(inputs[None, :], self._weights)[0])


def combined(inputs: Floats, weights: Floats) -> Floats:
    """Log-odds, shape (rows,). ``inputs``: shape (rows, width), of which the second is what the shipped verifier says;
    ``weights``: (layers, width).
    """
    said, below = inputs @ weights.T, inputs[:, 1]
    return np.asarray(np.where(said[:, 0] <= below, said[:, 0], np.maximum(below, said.min(axis=1))))


def read(path: Path) -> Recalibrated:
    """Raises OSError, and ValueError where the file is not what it should be."""
    try:
        return Recalibrated(msgspec.json.decode(path.read_bytes(), type=Layers))
    except msgspec.DecodeError as error:
        raise ValueError(f"this is no file of `gateway cache train`: {error}") from None
