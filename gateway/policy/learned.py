"""Predicted quality of a small and a large model on a prompt, from a shipped artefact and numpy alone.

A mixture of three linear experts (word problems, examination questions, open requests) over the form of the prompt
(:mod:`gateway.policy.signals`) and what it is about, in two stages, since an embedding costs milliseconds: the first
reads the mean of the words' vectors, which are MiniLM's own token vectors reduced to a few dozen directions; the
second, where somebody has it, the embedding of the prompt. How they were made and what they are worth: docs/router.md.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gateway.policy.signals import NAMES, WINDOW, signals, split_words
from gateway.types import Frozen

FILE = Path(__file__).with_name("difficulty.npz")
KINDS = ("word-problem", "examination", "request")
CLIP = 4.0
FULL = "full_"
"""Prefix of the second stage's arrays."""
DIMENSION = 384
"""Of all-MiniLM-L6-v2's vectors, which the second stage reads."""

FULL_SCALE = float(np.sqrt(DIMENSION))
"""Brings a vector of length 1 to numbers as large as the standardised signals."""

Values: TypeAlias = NDArray[np.float32]


class Estimate(Frozen, frozen=True, kw_only=True):
    """What a prompt is expected to get: ``small`` and ``large`` are the qualities (0 … 1) of a model of each class,
    ``lost`` what is lost by staying small, which is the difficulty. ``contributions`` to it: strongest first.
    """

    small: float
    large: float
    lost: float
    contributions: tuple[tuple[str, float], ...] = ()


class Words:
    """Vectors of words, int8 of shape (words, dimension) with a scale each that holds the word's weight."""

    def __init__(self, words: list[str], vectors: NDArray[np.int8], scales: Values) -> None:
        self._row = {word: row for row, word in enumerate(words)}
        self._vectors, self._scales = vectors, scales

    def mean(self, words: list[str]) -> Values:
        """float32 of shape (dimension,), length 1; zero where no word is known."""
        rows = [row for word in words if (row := self._row.get(word)) is not None]
        summed: Values = self._scales[rows] @ self._vectors[rows].astype(np.float32)
        length = float(np.sqrt(summed @ summed))
        return summed / length if length else summed


class Experts:
    """One stage. ``gates``, ``small`` and ``lost`` have the shape (kinds, 1 + signals + topic), the bias first."""

    def __init__(self, arrays: Mapping[str, Any], stage: str = "") -> None:
        self._mean, self._spread = arrays["mean"], arrays["spread"]
        self.gates, self.small, self.lost = (arrays[stage + name] for name in ("gates", "small", "lost"))

    def inputs(self, form: Values, topic: Values) -> Values:
        """float32 of shape (1 + inputs,): 1, the standardised signals, the topic."""
        standard = np.clip((form - self._mean) / self._spread, -CLIP, CLIP)
        return np.concatenate((np.ones(1, np.float32), standard, topic)).astype(np.float32)

    def estimate(self, x: Values) -> Estimate:
        share = softmax(self.gates @ x)
        small = float(share @ squash(self.small @ x))
        lost = float(share @ squash(self.lost @ x))
        return Estimate(
            small=small, large=min(1.0, small + lost), lost=lost, contributions=self._contributions(x, share)
        )

    def _contributions(self, x: Values, share: Values) -> tuple[tuple[str, float], ...]:
        parts = (share @ self.lost) * x
        named = dict(zip(NAMES, parts[1 : 1 + len(NAMES)].tolist(), strict=True))
        named["topic"] = float(parts[1 + len(NAMES) :].sum())
        strongest = sorted(named.items(), key=lambda part: -abs(part[1]))[:6]
        return (("kind:" + KINDS[int(share.argmax())], round(float(parts[0]), 3)), *_rounded(strongest))


class Mixture:
    """Both stages."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        words = bytes(arrays["words"]).decode().split("\n")
        self.words = Words(words, arrays["vectors"], arrays["scales"])
        self._by_words = Experts(arrays)
        self._by_meaning = Experts(arrays, FULL) if FULL + "lost" in arrays else None

    @classmethod
    @functools.cache
    def shipped(cls) -> Mixture:
        """The artefact of this version, read once."""
        with np.load(FILE) as arrays:
            return cls(dict(arrays))

    def inputs(self, prompt: str) -> Values:
        """float32 of shape (1 + inputs,): 1, the standardised signals, the mean of the words."""
        return self._by_words.inputs(signals(prompt), self.words.mean(split_words(prompt[:WINDOW].lower())))

    def estimate(self, prompt: str, vector: Values | None = None) -> Estimate:
        """Pure; a fraction of a millisecond. ``vector``: all-MiniLM-L6-v2's of :func:`gateway.policy.signals.stem`,
        where it is to be had.
        """
        if vector is None or self._by_meaning is None or len(vector) != DIMENSION:
            return self._by_words.estimate(self.inputs(prompt))
        x = self._by_meaning.inputs(signals(prompt), np.asarray(vector * FULL_SCALE, np.float32))
        return self._by_meaning.estimate(x)


def _rounded(parts: list[tuple[str, float]]) -> list[tuple[str, float]]:
    return [(name, round(part, 3)) for name, part in parts if abs(part) >= 0.001]


def squash(value: Values) -> Values:
    """Into (0, 1), nearly unchanged in between, and never equal where the values were not."""
    return np.asarray(1 / (1 + np.exp(-4 * (value - 0.5))), np.float32)


def softmax(value: Values) -> Values:
    """Along the last axis."""
    powers = np.exp(value - value.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)
