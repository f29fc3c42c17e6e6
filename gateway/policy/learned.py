"""Predicted quality of a small and a large model on a prompt, from a shipped artefact and numpy alone.

A mixture of three linear experts (word problems, examination questions, open requests) over the form of the prompt
(:mod:`gateway.policy.signals`) and what it is about: the mean of its words' vectors, which are MiniLM's own token
vectors reduced to a few dozen directions. How it was made and what it is worth: docs/router.md.
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


class Mixture:
    """The experts. ``gates``, ``small`` and ``lost`` have the shape (kinds, 1 + inputs), the bias first."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        words = bytes(arrays["words"]).decode().split("\n")
        self.words = Words(words, arrays["vectors"], arrays["scales"])
        self.mean, self.spread = arrays["mean"], arrays["spread"]
        self.gates, self.small, self.lost = arrays["gates"], arrays["small"], arrays["lost"]

    @classmethod
    @functools.cache
    def shipped(cls) -> Mixture:
        """The artefact of this version, read once."""
        with np.load(FILE) as arrays:
            return cls(dict(arrays))

    def inputs(self, prompt: str) -> Values:
        """float32 of shape (1 + inputs,): 1, the standardised signals, the mean of the words."""
        form = np.clip((signals(prompt) - self.mean) / self.spread, -CLIP, CLIP)
        topic = self.words.mean(split_words(prompt[:WINDOW].lower()))
        return np.concatenate((np.ones(1, np.float32), form, topic)).astype(np.float32)

    def estimate(self, prompt: str) -> Estimate:
        """Pure; a fraction of a millisecond."""
        x = self.inputs(prompt)
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


def _rounded(parts: list[tuple[str, float]]) -> list[tuple[str, float]]:
    return [(name, round(part, 3)) for name, part in parts if abs(part) >= 0.001]


def squash(value: Values) -> Values:
    """Into (0, 1), nearly unchanged in between, and never equal where the values were not."""
    return np.asarray(1 / (1 + np.exp(-4 * (value - 0.5))), np.float32)


def softmax(value: Values) -> Values:
    """Along the last axis."""
    powers = np.exp(value - value.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)
