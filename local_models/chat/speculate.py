"""Prompt-lookup decoding: what followed the same few tokens last time is proposed as a draft, and checked in one step.

A checked draft changes the speed and never the text: each row is drawn from as if the draft were not there, and the
first token that differs from the draft ends it. Whether a draft pays depends on how many rows the step has already (a
row costs most where it is alone) and on how often drafts came true lately, so both are measured and it switches itself
off.

Prompt lookup: https://github.com/apoorvumang/prompt-lookup-decoding
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

LONGEST_DRAFT = 15
_LENGTHS = (15, 11, 7, 3)
_GRAM = 3
# Hopeful enough to try on a fresh sequence, too low to go on after two drafts in a row that fail.
_PRIOR, _PRIOR_WEIGHT, _FORGET = 0.7, 3.0, 0.8
# What a switched-off sequence regains with each token that a draft would have got right.
_SEEN_WEIGHT = 0.5


class Lookup:
    """Where each run of three tokens of a growing sequence was last followed by something."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._next: dict[tuple[int, ...], int] = {}

    def extend(self, tokens: Sequence[int]) -> None:
        """Add tokens at the end."""
        known = self._tokens
        for token in tokens:
            if len(known) >= _GRAM:
                self._next[tuple(known[-_GRAM:])] = len(known)
            known.append(token)

    def draft(self, limit: int) -> list[int]:
        """At most `limit` tokens that followed the last three before; none where those are new."""
        at = self._next.get(tuple(self._tokens[-_GRAM:]))
        return [] if at is None else self._tokens[at : at + limit]


class Acceptance:
    """How likely the next drafted token is right, for one sequence, measured with forgetting."""

    def __init__(self, forget: float = _FORGET) -> None:
        self._forget = forget
        self._right, self._tried = _PRIOR * _PRIOR_WEIGHT, _PRIOR_WEIGHT

    @property
    def rate(self) -> float:
        """0..1."""
        return self._right / self._tried

    def record(self, accepted: int, drafted: int) -> None:
        """`accepted` of `drafted` tokens came true; those after the first wrong one say nothing."""
        tried = min(accepted + 1, drafted)
        self._right = self._right * self._forget**tried + accepted
        self._tried = self._tried * self._forget**tried + tried

    def would_have(self, right: bool) -> None:
        """A draft not made would, or would not, have begun right."""
        self._right = self._right * 0.97 + _SEEN_WEIGHT * right
        self._tried = self._tried * 0.97 + _SEEN_WEIGHT


def length(
    rate: float, rows: int, available: int, seconds: Callable[[int], float], lengths: Sequence[int] = _LENGTHS
) -> int:
    """How many tokens to draft beside `rows` rows so that tokens a second are most; 0: none pay.

    `seconds(n)` is what a step of n rows takes; `rate` the chance of each drafted token given those before it.
    """
    best, chosen = rows / seconds(rows), 0
    for count in sorted({min(each, available) for each in lengths}):
        if count <= 0:
            continue
        gained = sum(rate**place for place in range(1, count + 1))
        speed = (rows + gained) / seconds(rows + count)
        # A twentieth to spare: an estimate that only just pays is as often wrong as right.
        if speed > best * 1.05:
            best, chosen = speed, count
    return chosen
