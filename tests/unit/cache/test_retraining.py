"""Layers on the shipped verifier: what they learn, and whom they cannot be taught by."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

from gateway.cache.lessons import Lesson
from gateway.cache.recalibrated import Layers, Recalibrated
from gateway.cache.retraining import train, weights_of
from gateway.cache.verifier import measure, shipped
from gateway.cache.words import read

ALIKE = [
    ("How do I reset my password?", "How can I reset my password?"),
    ("How do I cancel my order?", "How can I cancel my order?"),
    ("What is the price of a ticket?", "What's the price of a ticket?"),
    ("Where do I find my invoice?", "Where can I find my invoice?"),
]
COLOURS = ("red", "green", "yellow", "purple", "orange", "silver", "golden", "violet")


def lessons(pairs: list[tuple[str, str]], same: bool, tenant: str = "a", copies: int = 1) -> Iterator[Lesson]:
    for number in range(copies):
        for one, other in pairs:
            cosine = 0.97 - number % 10 / 1000
            measures = tuple(measure(read(one), read(other), cosine).tolist())
            yield Lesson(ts_ms=1, tenant=tenant, partition="p", source="explored", measures=measures, same=same)


def p_same(layers: Layers, pair: tuple[str, str]) -> float:
    return Recalibrated(layers).p_same(read(pair[0]), read(pair[1]), 0.97)


def test_pairs_that_were_wrong_are_believed_less_and_others_hardly() -> None:
    wrong = [(f"How do I change the {c} light?", f"How do I change the {c} lights?") for c in COLOURS]
    layers = train([*lessons(wrong, False, copies=10), *lessons(ALIKE, True, "b", copies=30)])

    before = shipped().p_same(read(wrong[0][0]), read(wrong[0][1]), 0.97)
    assert p_same(layers, wrong[0]) < before - 0.3
    assert p_same(layers, ALIKE[0]) > 0.9
    assert layers.held_back.log_loss[1] < layers.held_back.log_loss[0]


def test_few_outcomes_change_little() -> None:
    layers = train(list(lessons(ALIKE[:1], False)))
    assert p_same(layers, ALIKE[1]) > 0.5


def test_no_tenant_makes_the_cache_bolder_for_the_others() -> None:
    doubtful = [(f"Is the {c} one good?", f"Is the {c} one bad?") for c in COLOURS]
    layers = train([*lessons(doubtful, True, "poisons", copies=200), *lessons(ALIKE, True, "b", copies=3)])
    before = shipped().p_same(read(doubtful[0][0]), read(doubtful[0][1]), 0.97)
    assert p_same(layers, doubtful[0]) <= before + 0.01
    both = train([*lessons(doubtful, True, "b", copies=50), *lessons(doubtful, True, "c", copies=50)])
    assert p_same(both, doubtful[0]) > before + 0.1


def test_a_tenant_counts_for_its_share_at_most() -> None:
    weights = weights_of(["loud"] * 5_000 + ["b"] * 400 + ["c"] * 400 + ["d"] * 400)
    assert weights[:5_000].sum() <= 401
    assert weights[5_000:].min() == 1.0
    assert weights_of(["alone"] * 5_000).min() == 1.0


def test_what_another_verifier_was_stacked_on_is_refused() -> None:
    layers = train(list(lessons(ALIKE, True)))
    for damaged in (
        msgspec.structs.replace(layers, verifier="0" * 64),
        msgspec.structs.replace(layers, weights=[[1.0]]),
        msgspec.structs.replace(layers, weights=[[float(np.nan)] * 24]),
    ):
        with pytest.raises(ValueError, match=r"train it again|damaged"):
            Recalibrated(damaged)


def test_nothing_to_learn_from_is_said() -> None:
    with pytest.raises(ValueError, match="nothing was learnt"):
        train([])
