"""Predicted quality of a small and a large model on a prompt, from a shipped artefact and numpy alone.

Two linear experts and a gate between them, over the form of the prompt (:mod:`gateway.policy.signals`). Where a story
is told in everyday words, what is hard is its length and the number of its steps: the first expert knows these and
nothing else. Everywhere else it counts what the prompt is about as well, in two stages, since an embedding costs
milliseconds: the first reads the mean of the words' vectors, which are MiniLM's own token vectors reduced to a few
dozen directions; the second, where somebody has it, the embedding of the prompt. How they were made and what they are
worth: docs/router.md.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gateway.policy.signals import NAMES, WINDOW, signals, split_words
from gateway.types import Frozen

FILE = Path(__file__).with_name("difficulty.npz")
CLIP = 4.0
FULL = "full_"
"""Prefix of the second stage's arrays."""
DIMENSION = 384
"""Of all-MiniLM-L6-v2's vectors, which the second stage reads."""

FULL_SCALE = float(np.sqrt(DIMENSION))
"""Brings a vector of length 1 to numbers as large as the standardised signals."""

SURELY_A_STORY = 0.98
"""From here on an embedding is not worth its milliseconds."""

_FORM = 1 + len(NAMES)

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


class Expert:
    """Linear in its inputs: ``small`` and ``lost`` have the shape (inputs,), the bias first."""

    def __init__(self, arrays: Mapping[str, Any], prefix: str) -> None:
        self.small, self.lost = arrays[prefix + "small"], arrays[prefix + "lost"]


class Mixture:
    """The gate, the expert for stories, and that for everything else in either stage."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self.words = Words(bytes(arrays["words"]).decode().split("\n"), arrays["vectors"], arrays["scales"])
        self._mean, self._spread, self._gate = arrays["mean"], arrays["spread"], arrays["gate"]
        self._story, self._by_words = Expert(arrays, "story_"), Expert(arrays, "")
        self._by_meaning = Expert(arrays, FULL)
        self.band = float(arrays["band"])
        """Difficulty by words is seldom (1 in 20) further from that by meaning."""

    @classmethod
    @functools.cache
    def shipped(cls) -> Mixture:
        """The artefact of this version, read once."""
        with np.load(FILE) as arrays:
            return cls(dict(arrays))

    def inputs(self, prompt: str) -> Values:
        """float32 of shape (1 + inputs,): 1, the standardised signals, the mean of the words."""
        return np.concatenate((self._form(prompt), self._topic(prompt)))

    def wants_embedding(self, prompt: str, threshold: float | None = None) -> bool:
        """Whether the second stage could say otherwise than the first: of no story, and with a ``threshold`` of
        difficulty only where the first stage comes near it.
        """
        form = self._form(prompt)
        if self._is_story(form) >= SURELY_A_STORY:
            return False
        return threshold is None or abs(self.estimate(prompt).lost - threshold) <= self.band

    def estimate(self, prompt: str, vector: Values | None = None) -> Estimate:
        """Pure; a fraction of a millisecond. ``vector``: all-MiniLM-L6-v2's of :func:`gateway.policy.signals.stem`,
        where it is to be had.
        """
        form = self._form(prompt)
        if vector is None or len(vector) != DIMENSION:
            return self._mixed(form, self._topic(prompt), self._by_words)
        return self._mixed(form, np.asarray(vector * FULL_SCALE, np.float32), self._by_meaning)

    def values(self, prompt: str, vector: Values | None = None) -> tuple[float, ...]:
        """What a fit to other rows starts from, the difficulty first: the estimates of each stage there is, and how
        much of a story the prompt is.
        """
        story, first = self._is_story(self._form(prompt)), self.estimate(prompt)
        if vector is None:
            return first.lost, first.small, story
        last = self.estimate(prompt, vector)
        return last.lost, first.lost, last.small, first.small, story

    def _form(self, prompt: str) -> Values:
        standard = np.clip((signals(prompt) - self._mean) / self._spread, -CLIP, CLIP)
        return np.concatenate((np.ones(1, np.float32), standard)).astype(np.float32)

    def _topic(self, prompt: str) -> Values:
        return self.words.mean(split_words(prompt[:WINDOW].lower()))

    def _is_story(self, form: Values) -> float:
        return 1 / (1 + math.exp(-min(60.0, max(-60.0, float(self._gate @ form)))))

    def _mixed(self, form: Values, topic: Values, otherwise: Expert) -> Estimate:
        share, x = self._is_story(form), np.concatenate((form, topic))
        small, lost = (
            share * squash(float(story @ form)) + (1 - share) * squash(float(other @ x))
            for story, other in ((self._story.small, otherwise.small), (self._story.lost, otherwise.lost))
        )
        parts = (1 - share) * otherwise.lost * x
        parts[:_FORM] += share * self._story.lost * form
        shown = _strongest(share, parts)
        return Estimate(small=small, large=min(1.0, small + lost), lost=lost, contributions=shown)


def _strongest(share: float, parts: Values) -> tuple[tuple[str, float], ...]:
    named = dict(zip(NAMES, parts[1:_FORM].tolist(), strict=True))
    named["topic"] = float(parts[_FORM:].sum())
    strongest = sorted(named.items(), key=lambda part: -abs(part[1]))[:6]
    kind = "kind:story" if share >= 0.5 else "kind:other"
    shown = [(name, round(part, 3)) for name, part in strongest if abs(part) >= 0.001]
    return ((kind, round(float(parts[0]), 3)), *shown)


def squash(value: float) -> float:
    """Into (0, 1), nearly unchanged in between, and never equal where the values were not."""
    return 1 / (1 + math.exp(-4 * (value - 0.5)))
