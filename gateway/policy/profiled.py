"""The learned :class:`gateway.protocols.Scorer`: a prompt is easy where the local model was found able to answer it.

Two stages, since an embedding costs milliseconds. The rules look first: what they call hard stays hard. Only where they
say easy, and the answer could thus be the local model's, the embedding is asked for, and with it the evidence of the
model's profile. Both must agree: difficulty is the greater of the two.

What is far from everything the model was ever asked is as hard as can be: nothing is known of how it would be answered.
So is what is longer than an embedding reads, since its end was not looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from gateway.policy.competence import UNLIKE, Competence
from gateway.policy.scorer import RuleScorer
from gateway.types import Features, Score

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BAND = 0.6
"""From here on what the rules say is not looked into: no shipped policy keeps a prompt local above it."""

FAR = "far-from-known"
"""The contribution that says so: one minus the cosine of the nearest question, 1 where the prompt is too long."""
READ_TOKENS = 200
"""Of the last user turn: the embedding reads 256 pieces of words, and an estimate may be that much too low."""


class ProfiledScorer:
    """For one local model, by its profile."""

    def __init__(self, competence: Competence) -> None:
        self._competence = competence
        self._rules = RuleScorer()

    def wants_embedding(self, features: Features) -> bool:
        """Whether the embedding of the last user turn can change what becomes of a request."""
        return features.last_user_tokens <= READ_TOKENS and self._rules.score(features).difficulty < BAND

    def score(self, features: Features, embedding: NDArray[np.float32] | None = None) -> Score:
        """Without an embedding, or with one of another size, what the rules say."""
        by_rules = self._rules.score(features)
        if features.last_user_tokens > READ_TOKENS and by_rules.difficulty < BAND:
            return _far(1.0)
        if embedding is None or len(embedding) != self._competence.dimension or by_rules.difficulty >= BAND:
            return by_rules
        likely = self._competence.likely(embedding)
        if likely.nearest <= UNLIKE:
            return _far(1 - likely.nearest)
        unsure = 1 - likely.expected
        if unsure <= by_rules.difficulty:
            return msgspec.structs.replace(by_rules, scorer="profile")
        shown = ((f"may-be-wrong:{likely.skill}", round(unsure, 3)),)
        return Score(difficulty=round(unsure, 3), contributions=shown, scorer="profile")


def _far(distance: float) -> Score:
    return Score(difficulty=1.0, contributions=((FAR, round(distance, 3)),), scorer="profile")


def is_far(score: Score) -> bool:
    """Whether the prompt is far from everything known: nothing that was learned makes that easier."""
    return any(name == FAR for name, _ in score.contributions)
