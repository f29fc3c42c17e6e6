"""Drafts from a second, smaller model of the same vocabulary, checked by the large one like any other draft.

Speculative decoding (https://arxiv.org/abs/2211.17192), here in its greedy form: the draft is the small model's
likeliest continuation, and each row of the large model is drawn from as if there were none. It pays where the small
model is much the quicker and often right; both are measured, and it rests while it does not pay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from local_models.chat.context import Context, NoCells, Piece, Shape, Tokens
from local_models.chat.model import LoadError, Model
from local_models.chat.prefix import as_tokens, common
from local_models.chat.speculate import Acceptance, length

_LENGTHS = (2, 3, 5, 7)
_FORGET, _COST_RATE = 0.98, 0.1
# Tokens of a prompt the small model reads beside one step: a long one must not hold up the streams.
_PIECE = 64
# Steps without a draft after which it is tried again: another task may suit it better.
_REST = 256


def check_vocabulary(model: Model, draft: Model) -> None:
    """Raise LoadError unless every token means the same to both."""
    same = model.vocabulary == draft.vocabulary and model.ends == draft.ends
    if not same or any(
        model.piece(at, special=True) != draft.piece(at, special=True) for at in range(draft.vocabulary)
    ):
        raise LoadError("the draft model has another vocabulary than the model it is to draft for")


class Drafter:
    """The small model, with a sequence for each slot of the large one. For the engine's thread."""

    def __init__(self, model: Model, cells: int, slots: int, threads: int) -> None:
        """Raises LoadError where there is no memory for it."""
        self.model = model
        self._context = Context(model, Shape(cells, slots, _PIECE, slots + 2, threads))
        self._held = [as_tokens([])] * slots
        self._seconds = min(self._timed(size) for size in (1, 1, 1))
        self._rested = 0
        self.acceptance = Acceptance(_FORGET)

    def worth(self, rows: int, most: int, seconds: Callable[[int], float]) -> int:
        """How many tokens to draft, of at most `most`, beside `rows` rows; `seconds(n)` is the large model's step."""
        count = length(
            self.acceptance.rate, rows, most, lambda size: seconds(size) + (size - rows) * self._seconds, _LENGTHS
        )
        self._rested = 0 if count else self._rested + 1
        if self._rested >= _REST:
            self._rested, self.acceptance = 0, Acceptance(_FORGET)
        return count

    def draft(self, slot: int, tokens: Sequence[int], count: int) -> list[int]:
        """The likeliest `count` tokens after these; none while a long prompt is still being read."""
        try:
            return self._drafted(slot, as_tokens(tokens), count)
        except NoCells:
            # Slots keep what they read last, and all of it may be more than there is room for: it is read again.
            self._context.clear()
            self._held = [as_tokens([])] * len(self._held)
            return []

    def _drafted(self, slot: int, told: Tokens, count: int) -> list[int]:
        same = min(common(self._held[slot], told), told.size - 1)
        self._context.cut(slot, same)
        self._held[slot] = told[: same + _PIECE]
        begun = time.perf_counter()
        row = self._context.decode([Piece(slot, same, told[same : same + _PIECE], 1)])[0]
        if same + _PIECE < told.size:
            return []
        drafted = [int(row.argmax())]
        while len(drafted) < count:
            at = told.size + len(drafted) - 1
            drafted.append(int(self._context.decode([Piece(slot, at, drafted[-1:], 1)])[0].argmax()))
        self._held[slot] = np.concatenate([told, as_tokens(drafted[:-1])])
        self._seconds += _COST_RATE * ((time.perf_counter() - begun) / count - self._seconds)
        return drafted

    def use(self, threads: int) -> None:
        """Compute on so many threads."""
        self._context.use(threads)

    def _timed(self, size: int) -> float:
        begun = time.perf_counter()
        self._context.decode([Piece(0, 0, [1] * size, 1)])
        seconds = time.perf_counter() - begun
        self._context.clear()
        return seconds

    def close(self) -> None:
        """Give its memory back."""
        self._context.close()
        self.model.close()
