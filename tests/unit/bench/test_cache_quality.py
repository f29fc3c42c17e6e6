"""The benchmark of the cache's decisions counts what it says it counts."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from gateway.cache.trial import Opinion, Threshold, judge
from tests.bench.cache.pairs import LOOKALIKES, Row, Tally, tallied
from tests.bench.cache.quality import Served, run, runs

ROWS = [
    {"prompt": "How do I reset my password?", "class_id": 1},
    {"prompt": "how do I reset my password?", "class_id": 1},
    {"prompt": "How can I reset my password?", "class_id": 1},
    {"prompt": "How do I reset my phone?", "class_id": 2},
    {"prompt": "Which bird is that?", "class_id": 3},
]
ANGLES = np.array([0.0, 0.0, 0.1, 0.2, 1.5])
VECTORS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1).astype(np.float32)


def test_semantic_hits_and_wrong_ones_are_counted_without_the_exact_tiers() -> None:
    assert run(ROWS, VECTORS, Threshold(0.9)) == Served(5, 2, 1)
    assert run(ROWS, VECTORS, judge("question", 0.01)) == Served(5, 1, 0)


def test_every_budget_and_threshold_is_run() -> None:
    assert len(list(runs(ROWS, VECTORS, "faq"))) == 8


def test_the_interval_is_wilsons() -> None:
    assert Served(100, 0, 0).interval() == (0.0, 1.0)
    low, high = Served(6000, 4000, 40).interval()
    assert (low, high) == pytest.approx((0.00735, 0.01359), abs=1e-4)


def test_pairs_are_counted_by_kind() -> None:
    yes, no = (Opinion(None, 0.9, accept) for accept in (True, False))
    rows = [Row("a", "b", 1, "x"), Row("a", "c", 1, "x"), Row("a", "d", 0, "x"), Row("a", "e", 0, "y")]
    assert tallied(rows, [yes, no, yes, no]) == {
        "x": Tally(2, 1, 1, 1),
        "y": Tally(0, 0, 1, 0),
        "all": Tally(2, 1, 2, 1),
    }


def test_the_look_alikes_are_of_both_labels_and_each_is_there_once() -> None:
    rows = [msgspec.json.decode(line, type=Row) for line in LOOKALIKES.read_bytes().splitlines()]
    assert len({(row.a, row.b) for row in rows}) == len(rows)
    assert {row.label for row in rows} == {0, 1}
