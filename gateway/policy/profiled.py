"""The learned :class:`gateway.protocols.Scorer`: a prompt is easy where the local model was found able to answer it.

Two stages, since an embedding costs milliseconds. The rules look first: what they call hard stays hard. Only where they
say easy, and the answer could thus be the local model's, the embedding is asked for, and with it the evidence of the
model's profile. Both must agree: difficulty is the greater of the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gateway.policy.competence import Competence
from gateway.policy.scorer import DIAL, NEUTRAL_QUALITY, RuleScorer
from gateway.types import Features, Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BAND = 0.6
"""From here on what the rules say is not looked into: no shipped policy keeps a prompt local above it."""


class ProfiledScorer:
    """For one local model, by its profile."""

    def __init__(self, competence: Competence) -> None:
        self._competence = competence
        self._rules = RuleScorer()

    def wants_embedding(self, features: Features) -> bool:
        """Whether the embedding of the last user turn can change what becomes of a request."""
        return self._rules.score(features).difficulty < BAND

    def score(self, features: Features, embedding: NDArray[np.float32] | None = None) -> Score:
        """Without an embedding, or with one of another size, what the rules say."""
        by_rules = self._rules.score(features)
        if embedding is None or len(embedding) != self._competence.dimension or by_rules.difficulty >= BAND:
            return by_rules
        likely = self._competence.likely(embedding)
        dial = (features.quality - NEUTRAL_QUALITY) * DIAL
        unsure = min(1.0, max(0.0, 1 - likely.at_least + dial))
        if unsure <= by_rules.difficulty:
            return msgspec.structs.replace(by_rules, scorer="profile")
        parts = ((f"may-be-wrong:{likely.skill}", round(1 - likely.at_least, 3)), ("quality", round(dial, 3)))
        shown = tuple(part for part in parts if part[1])
        return Score(difficulty=round(unsure, 3), contributions=shown, scorer="profile")
