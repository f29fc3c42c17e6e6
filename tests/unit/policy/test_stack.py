"""A scorer fitted to one's own rows, on top of the shipped one."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.policy.curve import Values, split
from gateway.policy.stack import Stack

ROWS = 900
FITTED, JUDGED = slice(0, 600), slice(600, ROWS)


def graded(told: float, seed: int = 1) -> tuple[Values, Values, Values]:
    """Inputs of 20 numbers, of which the first tells by ``told`` where the strong model is needed."""
    draw = np.random.default_rng(seed)
    inputs = draw.normal(size=(ROWS, 20))
    needed = 1 / (1 + np.exp(-told * inputs[:, 0]))
    weak = (draw.random(ROWS) > needed).astype(float)
    return inputs, np.ones(ROWS), weak


def test_rows_of_ones_own_beat_a_prior_that_knows_nothing() -> None:
    inputs, strong, weak = graded(2.0)
    prior = np.random.default_rng(2).normal(size=(ROWS, 2))

    stack = Stack([inputs[FITTED]], prior[FITTED], strong[FITTED], weak[FITTED])
    score = stack.score([inputs[JUDGED]], prior[JUDGED])

    assert stack.is_fitted
    best = split(strong[JUDGED], weak[JUDGED], inputs[JUDGED, 0]).apgr
    assert split(strong[JUDGED], weak[JUDGED], score).apgr > best - 0.03


def test_what_no_line_can_tell_is_learned() -> None:
    inputs, strong, _ = graded(0.0)
    weak = (np.abs(inputs[:, 0]) < 0.7).astype(float)
    prior = np.zeros((ROWS, 1))

    stack = Stack([inputs[FITTED, :3]], prior[FITTED], strong[FITTED], weak[FITTED])
    score = stack.score([inputs[JUDGED, :3]], prior[JUDGED])

    best = split(strong[JUDGED], weak[JUDGED], -weak[JUDGED]).apgr
    assert split(strong[JUDGED], weak[JUDGED], score).apgr > best - 0.05


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fitted", [slice(0, 60), FITTED])
def test_rows_that_tell_nothing_leave_the_prior_as_it_was(seed: int, fitted: slice) -> None:
    inputs, strong, weak = graded(0.0, seed)
    draw = np.random.default_rng(3)
    prior = np.stack([-weak + draw.normal(size=ROWS), draw.normal(size=ROWS)], axis=1)

    stack = Stack([inputs[fitted]], prior[fitted], strong[fitted], weak[fitted])
    score = stack.score([inputs[JUDGED]], prior[JUDGED])

    alone = split(strong[JUDGED], weak[JUDGED], prior[JUDGED, 0]).apgr
    assert split(strong[JUDGED], weak[JUDGED], score).apgr > alone - 0.01


def test_where_fitting_does_not_help_the_shipped_score_is_the_score() -> None:
    inputs, strong, weak = graded(0.0)
    few = slice(0, 40)
    prior = np.random.default_rng(3).normal(size=(ROWS, 8))
    prior[:, 0] -= 2 * weak

    stack = Stack([inputs[few]], prior[few], strong[few], weak[few])

    assert not stack.is_fitted
    assert np.array_equal(stack.score([inputs[JUDGED]], prior[JUDGED]), prior[JUDGED, 0])


def test_the_same_rows_and_seed_make_the_same_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.policy.stack.LANDMARKS", 30)
    inputs, strong, weak = graded(1.0)
    prior, few = np.zeros((ROWS, 1)), slice(0, 120)
    stacks = [Stack([inputs[few]], prior[few], strong[few], weak[few], seed) for seed in (5, 5, 6)]
    first, again, other = (stack.score([inputs], prior) for stack in stacks)

    assert np.allclose(first, again, atol=1e-6)
    assert not np.allclose(first, other, atol=1e-6), "other landmarks"
