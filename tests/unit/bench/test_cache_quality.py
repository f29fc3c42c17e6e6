"""The benchmark of the cache's decisions counts what it says it counts."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.cache.trial import Threshold, judge
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
