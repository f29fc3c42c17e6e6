"""How sure the model was of its own answer, from the log-probabilities of the tokens it drew."""

from __future__ import annotations

import math

import msgspec

OPENING = 24
"""The most tokens of an opening: the first clause, which holds a short answer. What follows it says little of that."""
_CLAUSE_ENDS = frozenset(b".,;!?\n")

# A token the model gave less than even odds: there was something else it might as well have said.
UNCERTAIN = math.log(0.5)


class Confidence(msgspec.Struct, frozen=True, omit_defaults=True):
    """Over the tokens so far: natural log-probabilities, and the share of tokens below even odds.

    ``opening``: the same over the opening alone, once there are more tokens.
    """

    mean_logprob: float
    min_logprob: float
    uncertain_share: float
    tokens: int
    opening: Confidence | None = None

    @property
    def score(self) -> float:
        """0..1: the geometric mean of the tokens' probabilities."""
        return math.exp(min(self.mean_logprob, 0.0))


class Tally:
    """Adds one token after another."""

    def __init__(self) -> None:
        self._sum, self._least, self._uncertain, self._tokens = 0.0, 0.0, 0, 0
        self._opening: Confidence | None = None

    def add(self, logprob: float, piece: bytes) -> None:
        """Count a token, and what it adds to the text."""
        self._sum += logprob
        self._least = min(self._least, logprob)
        self._uncertain += logprob < UNCERTAIN
        self._tokens += 1
        if self._opening is None and (self._tokens == OPENING or not _CLAUSE_ENDS.isdisjoint(piece)):
            self._opening = self.so_far()

    def so_far(self) -> Confidence | None:
        """None before the first token."""
        if not self._tokens:
            return None
        share = self._uncertain / self._tokens
        opening = self._opening if self._opening and self._opening.tokens < self._tokens else None
        return Confidence(self._sum / self._tokens, self._least, share, self._tokens, opening)
