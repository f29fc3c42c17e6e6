"""Which sequence in the KV cache begins like a new prompt. Pure bookkeeping; `Context` moves the cells."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from local_models.chat.context import Tokens

# Below this many tokens a copy saves less than what it does to the cache's order.
LEAST = 8


class Match(msgspec.Struct, frozen=True):
    """`sequence` begins with the first `length` tokens of the prompt; if `whole`, there is no more to it."""

    sequence: int
    length: int
    whole: bool


def as_tokens(tokens: Sequence[int]) -> Tokens:
    """Tokens as an int32 array."""
    return np.asarray(tokens, np.int32)


def common(first: Tokens, second: Tokens) -> int:
    """Length of the longest common prefix."""
    size = min(first.size, second.size)
    differing = first[:size] != second[:size]
    at = int(differing.argmax()) if size else 0
    return at if size and differing[at] else size


class Idle:
    """Sequences that nobody runs, with the tokens they hold, least recently used first."""

    def __init__(self, budget: int) -> None:
        """`budget`: cells they may hold together."""
        self._budget = budget
        self._held: OrderedDict[int, Tokens] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def cells(self) -> int:
        """Cells held, those shared by several counted for each."""
        return sum(tokens.size for tokens in self._held.values())

    def match(self, prompt: Tokens) -> Match | None:
        """The sequence with the longest common prefix, at least LEAST; the last token is always computed again."""
        found: Match | None = None
        for sequence, tokens in self._held.items():
            length = min(common(tokens, prompt), prompt.size - 1)
            here = Match(sequence, length, whole=tokens.size <= length + 1)
            if length >= LEAST and (found is None or (here.length, here.whole) >= (found.length, found.whole)):
                found = here
        return found

    def add(self, sequence: int, tokens: Tokens) -> list[int]:
        """Keep a sequence; those that must go for it, which includes any that only repeats its beginning."""
        repeated = [other for other, held in self._held.items() if common(held, tokens) == held.size]
        for other in repeated:
            del self._held[other]
        self._held[sequence] = tokens
        gone = repeated
        while self._held and self.cells > self._budget:
            gone.append(self.oldest())
        return gone

    def use(self, sequence: int) -> None:
        """It was matched: it is the last to go now."""
        self._held.move_to_end(sequence)

    def take(self, sequence: int) -> Tokens:
        """It is run again, or gone."""
        return self._held.pop(sequence)

    def oldest(self) -> int:
        """Take out the least recently used. Raises KeyError where there is none."""
        return self._held.popitem(last=False)[0]

    def clear(self) -> Iterable[int]:
        """Forget all of them."""
        gone = list(self._held)
        self._held.clear()
        return gone
