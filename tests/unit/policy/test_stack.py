"""A scorer fitted to one's own rows, on top of the shipped one."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.policy.curve import Values, split
from gateway.policy.stack import Stack

ROWS = 1_500


def graded(told: float, seed: int = 1) -> tuple[Values, Values, Values]:
    """Inputs of 20 numbers, of which the first tells by ``told`` where the strong model is needed."""
    draw = np.random.default_rng(seed)
    inputs = draw.normal(size=(ROWS, 20))
    needed = 1 / (1 + np.exp(-told * inputs[:, 0]))
    weak = (draw.random(ROWS) > needed).astype(float)
    return inputs, np.ones(ROWS), weak


def test_rows_of_ones_own_beat_a_prior_that_knows_nothing() -> None:
    inputs, strong, weak = graded(2.0)
    prior = np.random.default_rng(2).normal(size=ROWS)
    fitted, judged = slice(0, 1000), slice(1000, ROWS)

    stack = Stack([inputs[fitted]], prior[fitted], strong[fitted], weak[fitted])
    score = stack.score([inputs[judged]], prior[judged])

    assert stack.blend > 0.5
    best = split(strong[judged], weak[judged], inputs[judged, 0]).apgr
    assert split(strong[judged], weak[judged], score).apgr > best - 0.02


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_tell_nothing_leave_the_prior_as_it_was(seed: int) -> None:
    inputs, strong, weak = graded(0.0, seed)
    prior = -weak + np.random.default_rng(3).normal(size=ROWS)
    fitted, judged = slice(0, 1000), slice(1000, ROWS)

    stack = Stack([inputs[fitted]], prior[fitted], strong[fitted], weak[fitted])
    score = stack.score([inputs[judged]], prior[judged])

    alone = split(strong[judged], weak[judged], prior[judged]).apgr
    assert split(strong[judged], weak[judged], score).apgr > alone - 0.01
