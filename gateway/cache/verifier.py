"""The verifier: how likely it is that the answer to one question also answers another, from both texts and embeddings.

Gradient-boosted trees over a few measures of how two questions differ, calibrated; trained by
:mod:`gateway.cache.training` and shipped as ``verifier.json``. docs/verifier.md is its model card.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.cache.guard import reason
from gateway.cache.words import FUNCTION_WORDS, Lexicon, Text, lexicon, listed, stem

Measures = NDArray[np.float64]

MEASURES = (
    *("cosine", "fewer_unmatched", "more_unmatched", "rarest_unmatched", "unmatched", "unmatched_share"),
    *("synonyms", "typos", "reordered", "asks", "words_shared", "pairs_shared", "trigrams_shared", "length_ratio"),
    *("shortest", "function_words", "same_words", "same_start", "same_end", "one_sided", "guarded", "same_asked"),
)
_SHIPPED = Path(__file__).with_name("verifier.json")
_SAFE_LETTERS = 4
_LONG, _LONGEST = 7, 24
_MOST_LEAVES = 64
_ALL = np.uint64(2**64 - 1)
_SLIPS_MOST = 100  # pairs of words: a text made for it would hold the event loop for a second
_PREFIX = 5
_ASKING = frozenset(listed("what which who where when why how is are do does did can could should would will"))


class Tree(msgspec.Struct, frozen=True):
    """Nodes by place; a leaf has ``feature`` -1. Goes left where the measure is at most ``threshold``."""

    feature: list[int]
    threshold: list[float]
    left: list[int]
    right: list[int]
    value: list[float]


class Model(msgspec.Struct, frozen=True):
    """What training wrote. ``slope`` and ``offset`` calibrate the sum of the trees (Platt)."""

    measures: list[str]
    start: float
    slope: float
    offset: float
    trees: list[Tree]
    data: dict[str, str]


class Verifier:
    """Any thread may ask it; it keeps nothing."""

    def __init__(self, model: Model) -> None:
        """Raises ValueError where the model was trained on other measures, or has trees of more than 64 leaves."""
        if any(tree.feature.count(-1) > _MOST_LEAVES for tree in model.trees):
            raise ValueError(f"a tree of the verifier has more than {_MOST_LEAVES} leaves")
        if tuple(model.measures) != MEASURES:
            raise ValueError("the verifier was trained on other measures: train it again")
        self._model = model
        self._feature, self._threshold, self._kept, self._value = map(
            np.array, zip(*_laid_out(model.trees), strict=True)
        )
        self._trees = np.arange(len(model.trees))

    def p_same(self, asked: Text, stored: Text, cosine: float) -> float:
        """Probability that the answer to ``stored`` answers ``asked``; ``cosine`` is that of their embeddings."""
        return self.p_of(measure(asked, stored, cosine))

    def p_of(self, measures: Measures) -> float:
        """As `p_same`, of what :func:`measure` found; shape (len(MEASURES),)."""
        return float(1.0 / (1.0 + np.exp(-self.log_odds(measures))))

    def log_odds(self, measures: Measures) -> float:
        """Of what `p_of` says."""
        return self._model.slope * self.raw(measures) + self._model.offset

    def raw(self, measures: Measures) -> float:
        """The sum of the trees, in log-odds before calibration. ``measures``: shape (len(MEASURES),)."""
        right = ~(measures[self._feature] <= self._threshold)
        left_over = np.bitwise_and.reduce(np.where(right, self._kept, _ALL), axis=1)
        leaf = np.bitwise_count((left_over & -left_over) - np.uint64(1))
        return self._model.start + float(self._value[self._trees, leaf].sum())


@cache
def shipped() -> Verifier:
    """The verifier this package ships; read on first use."""
    return Verifier(msgspec.json.decode(_SHIPPED.read_bytes(), type=Model))


@cache
def shipped_digest() -> str:
    """Tells one shipped verifier from another: what is stacked on one (recalibrated.py) fits no other."""
    return hashlib.sha256(_SHIPPED.read_bytes()).hexdigest()


def measure(left: Text, right: Text, cosine: float, *, guarded: bool | None = None) -> Measures:
    """How two questions differ, shape (len(MEASURES),). Symmetric. Words are matched by stem, synonym and spelling.
    ``guarded``: whether the guard speaks, where that was asked before.
    """
    words = lexicon()
    a, b = list(dict.fromkeys(left.content)), list(dict.fromkeys(right.content))
    only_a, only_b, synonyms, typos = _matched(a, b, words)
    unmatched = [words.rare(word) for word in (*only_a, *only_b)]
    said = sum(map(words.rare, a)) + sum(map(words.rare, b))
    counts = sorted((len(only_a), len(only_b)))
    order = [[word for word in own if word in other] for own, other in ((a, b), (b, a))]
    la, lb = left.lower, right.lower
    lengths = sorted((len(la), len(lb)))
    return np.array(
        [
            cosine,
            *counts,
            max(unmatched, default=0.0),
            sum(unmatched),
            sum(unmatched) / said if said else 0.0,
            min(synonyms, 3),
            min(typos, 3),
            order[0] != order[1],
            _asked_apart(left, right),
            _shared(set(la), set(lb)),
            _shared(set(pairwise(la)), set(pairwise(lb))),
            _shared(_trigrams(la), _trigrams(lb)),
            lengths[0] / max(1, lengths[1]),
            min(len(left.content), len(right.content)),
            len({word for word in set(la) ^ set(lb) if word in FUNCTION_WORDS}),
            set(a) == set(b),
            la[:1] == lb[:1],
            left.content[-1:] == right.content[-1:],
            (counts[0] == 0) != (counts[1] == 0),
            reason(left, right) is not None if guarded is None else guarded,
            set(a) <= set(b) or set(b) <= set(a),
        ],
        dtype=np.float64,
    )


def _laid_out(trees: Sequence[Tree]) -> Iterator[tuple[list[int], list[float], list[int], list[float]]]:
    """Of each tree its inner nodes' features and thresholds, which leaves (a bit each, from the left) are left where a
    node sends to the right, and the leaves' values; all trees as long as the longest. So that all nodes are compared at
    once, and the first leaf that none has ruled out is it: QuickScorer (Lucchese et al., SIGIR 2015).
    """
    most = max(len(tree.feature) for tree in trees)
    for tree in trees:
        inner: dict[int, int] = {}
        leaves: list[float] = []
        _walk(tree, 0, inner, leaves)
        none = most - len(inner)
        yield (
            [*(tree.feature[node] for node in inner), *[0] * none],
            [*(tree.threshold[node] for node in inner), *[np.inf] * none],
            [*(int(_ALL) ^ below for below in inner.values()), *[int(_ALL)] * none],
            [*leaves, *[0.0] * (most - len(leaves))],
        )


def _walk(tree: Tree, node: int, inner: dict[int, int], leaves: list[float]) -> None:
    """Collect the leaves from the left, and for each inner node the bits of those that lie to its left."""
    if tree.feature[node] < 0:
        leaves.append(tree.value[node])
        return
    first = len(leaves)
    inner[node] = 0
    _walk(tree, tree.left[node], inner, leaves)
    inner[node] = (1 << len(leaves)) - (1 << first)
    _walk(tree, tree.right[node], inner, leaves)


def _matched(a: list[str], b: list[str], words: Lexicon) -> tuple[list[str], list[str], int, int]:
    """Words without a counterpart on either side, and how many were matched as synonyms and as misspellings."""
    only_a, only_b = [word for word in a if word not in b], [word for word in b if word not in a]
    synonyms = typos = 0
    spelling = len(only_a) * len(only_b) <= _SLIPS_MOST
    for word in list(only_a):
        for other in only_b:
            alike = other in words.synonyms.get(word, ()) or _derived(word, other)
            known = word in words.rarity and other in words.rarity
            misspelt = spelling and not alike and not known and _misspelt(word, other)
            if alike or misspelt:
                synonyms, typos = synonyms + alike, typos + misspelt
                only_a.remove(word)
                only_b.remove(other)
                break
    return only_a, only_b, synonyms, typos


def _derived(word: str, other: str) -> bool:
    """Whether one word begins with the other: "invest", "investment"."""
    return min(len(word), len(other)) >= _PREFIX and (word.startswith(other) or other.startswith(word))


def _misspelt(word: str, other: str) -> bool:
    """Whether one slip of the fingers (two in a long word) makes one word the other; never of digits."""
    shorter, longer = sorted((len(word), len(other)))
    if shorter < _SAFE_LETTERS or longer > _LONGEST or not (word.isalpha() and other.isalpha()):
        return False
    slips = 1 if shorter < _LONG else 2
    return len(set(word) ^ set(other)) <= 2 * slips and _slips(word, other) <= slips


def _slips(a: str, b: str) -> int:
    """Optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbours."""
    if abs(len(a) - len(b)) > 2:
        return 3
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        older, before, row = before, row, [i]
        for j, other in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == other:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
    return row[-1]


def _asked_apart(left: Text, right: Text) -> float:
    """0 where both begin to ask alike, 1 where one does not say how, 2 where they ask otherwise."""
    asked = [next((word for word in text.lower[:12] if word in _ASKING), "") for text in (left, right)]
    if asked[0] == asked[1]:
        return 0.0
    return 1.0 if "" in asked else 2.0


def _trigrams(words: Sequence[str]) -> set[str]:
    text = f" {' '.join(map(stem, words))} "
    return {text[place : place + 3] for place in range(len(text) - 2)}


def _shared(a: set[str] | set[tuple[str, str]], b: set[str] | set[tuple[str, str]]) -> float:
    both = len(a | b)
    return len(a & b) / both if both else 0.0
