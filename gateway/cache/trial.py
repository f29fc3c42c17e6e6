"""A cache partition in memory: how a stream of requests, or two questions, would have been treated.

Decides by the same objects as the gateway. An answer is known only where it was asked for: on a miss.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.cache.decision import NEIGHBOURS, REJECTED, Judge, Mode, Neighbour, Verdict, observed
from gateway.cache.guard import reason
from gateway.cache.keys import normalise
from gateway.cache.posterior import Observation
from gateway.cache.verifier import Verifier, shipped
from gateway.cache.words import Text, read

Vector = NDArray[np.float32]
_FIRST = 16


class Opinion(msgspec.Struct, frozen=True):
    """Of two questions, by a cache that knows nothing yet. ``guard``: why they differ for certain, or None."""

    guard: str | None
    p_same: float
    accept: bool


class Decider(Protocol):
    """What decides in a partition, and learns from the answers it asks for."""

    def judge(self, asked: Text, neighbours: Sequence[Neighbour]) -> Verdict: ...

    def learn(self, observation: Observation) -> None: ...


class Threshold:
    """The usual semantic cache, to compare with: the closest question is served if its cosine is at least ``least``."""

    def __init__(self, least: float) -> None:
        self._least = least

    def judge(self, asked: Text, neighbours: Sequence[Neighbour]) -> Verdict:
        if not neighbours or neighbours[0].similarity < self._least:
            return REJECTED
        return Verdict("accept", neighbours[0].entry, neighbours[0].answer)

    def learn(self, observation: Observation) -> None:
        """A threshold never does."""


def judge(mode: Mode, max_wrong_rate: float, seed: int = 0, verifier: Verifier | None = None) -> Judge:
    """A decision object as a partition begins with. ``seed``: of what is drawn to be checked; ``verifier``: None for
    the shipped one.
    """
    return Judge(mode, max_wrong_rate, verifier or shipped(), random.Random(seed))


class Partition:
    """The exact and the semantic tier of one partition; entries are named by the number of their request."""

    def __init__(self, decider: Decider, shape: tuple[int, int]) -> None:
        """``shape``: requests at most, and the vectors' dimension."""
        self._decider = decider
        self._vectors: Vector = np.empty((min(_FIRST, shape[0]), shape[1]), dtype=np.float32)
        self._exact: dict[str, int] = {}
        self._stored: list[tuple[int, Text, str]] = []

    def ask(self, number: int, question: str, answer: str, vector: Vector) -> int | None:
        """The number of the request whose answer is served; None where ``answer`` is fetched, and stored."""
        key = normalise(question) or question
        if key in self._exact:
            return self._exact[key]
        asked = read(question)
        verdict = self._decider.judge(asked, self._nearest(vector))
        if verdict.action == "accept":
            return int(verdict.entry)
        if verdict.action == "explore":
            self._decider.learn(observed(verdict, str(number), verdict.answer == answer))
        self._exact[key] = number
        if len(self._stored) == len(self._vectors):
            self._vectors = np.concatenate((self._vectors, np.empty_like(self._vectors)))
        self._vectors[len(self._stored)] = vector
        self._stored.append((number, asked, answer))
        return None

    def _nearest(self, vector: Vector) -> list[Neighbour]:
        similarities = self._vectors[: len(self._stored)] @ vector
        order = np.argsort(-similarities)[:NEIGHBOURS]
        found = [(*self._stored[place], float(similarities[place])) for place in order]
        return [Neighbour(str(number), text, similarity, answer) for number, text, answer, similarity in found]


class Partitions:
    """As the wall divides requests: a partition of its own for each history. ``decider`` makes what decides in one."""

    def __init__(self, decider: Callable[[], Decider], shape: tuple[int, int]) -> None:
        self._decider, self._shape = decider, shape
        self._held: dict[bytes, Partition] = {}

    def ask(self, history: bytes, number: int, question: str, answer: str, vector: Vector) -> int | None:
        """As :meth:`Partition.ask`, of requests with this history."""
        if history not in self._held:
            self._held[history] = Partition(self._decider(), self._shape)
        return self._held[history].ask(number, question, answer, vector)


def opinions(
    pairs: Sequence[tuple[str, str]],
    similarities: Sequence[float],
    max_wrong_rate: float,
    verifier: Verifier | None = None,
) -> Iterator[Opinion]:
    """May the answer to the second question of each pair serve the first?"""
    verifier = verifier or shipped()
    for (a, b), similarity in zip(pairs, similarities, strict=True):
        asked, stored = read(a), read(b)
        decider = judge("question", max_wrong_rate, verifier=verifier)
        verdict = decider.judge(asked, [Neighbour("", stored, similarity, "")])
        p_same = verdict.p_same if verdict.action != "reject" else verifier.p_same(asked, stored, similarity)
        yield Opinion(reason(asked, stored), p_same, verdict.action == "accept")
