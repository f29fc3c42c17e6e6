"""Which sequence begins like a new prompt: one that runs, or what an earlier one left behind.

What is left behind is taken out of the KV cache and kept beside it: attention looks at every cell in use, so cells kept
for later would slow down each step of whoever runs. Pure bookkeeping; `Context` moves the cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from local_models.chat.context import Share, State, Tokens

# Below this many tokens a copy saves less than what it does to the cache's order.
LEAST = 8
# Each one is compared with every new prompt.
_MOST_KEPT = 256


class Kept(msgspec.Struct, frozen=True, eq=False):
    """Tokens, and the keys and values that were computed for them."""

    tokens: Tokens
    state: State


class Match(msgspec.Struct, frozen=True):
    """What begins with the first `length` tokens of a prompt."""

    kept: Kept
    length: int


def as_tokens(tokens: Sequence[int]) -> Tokens:
    """Tokens as an int32 array."""
    return np.asarray(tokens, np.int32)


def common(first: Tokens, second: Tokens) -> int:
    """Length of the longest common prefix."""
    size = min(first.size, second.size)
    differing = first[:size] != second[:size]
    at = int(differing.argmax()) if size else 0
    return at if size and differing[at] else size


def shares(held: Sequence[tuple[int, Tokens]]) -> list[Share]:
    """For each sequence the longest beginning it has in common with one before it."""
    found = []
    for at, (sequence, tokens) in enumerate(held):
        lengths = [(common(tokens, other), source) for source, other in held[:at]]
        length, source = max(lengths, default=(0, -1))
        found.append(Share(sequence, source, length) if LEAST <= length < tokens.size else Share(sequence))
    return found


class Idle:
    """What ended sequences left behind, least recently used first."""

    def __init__(self, budget: int) -> None:
        """`budget`: tokens they may have together."""
        self._budget = budget
        self._kept: list[Kept] = []

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def cells(self) -> int:
        """Tokens kept."""
        return sum(each.tokens.size for each in self._kept)

    def match(self, prompt: Tokens) -> Match | None:
        """The longest common prefix, at least LEAST; the last token is always computed again."""
        found: Match | None = None
        for each in reversed(self._kept):
            length = min(common(each.tokens, prompt), prompt.size - 1)
            # Of two that serve as well the shorter one is the quicker to take back.
            if length >= LEAST and (
                found is None or (length, -each.tokens.size) > (found.length, -found.kept.tokens.size)
            ):
                found = Match(each, length)
        return found

    def use(self, kept: Kept) -> None:
        """It was matched: it is the last to go now."""
        if kept in self._kept:
            self._kept.remove(kept)
            self._kept.append(kept)

    def covers(self, tokens: Tokens) -> bool:
        """Whether something kept begins with all of these."""
        return any(common(each.tokens, tokens) == tokens.size for each in self._kept)

    def add(self, kept: Kept) -> None:
        """Keep this; what only repeats its beginning goes, and what is over the budget."""
        self._kept = [each for each in self._kept if common(each.tokens, kept.tokens) < each.tokens.size]
        self._kept.append(kept)
        while self._kept and (self.cells > self._budget or len(self._kept) > _MOST_KEPT):
            del self._kept[0]

    def clear(self) -> None:
        """Forget all of it."""
        self._kept.clear()
