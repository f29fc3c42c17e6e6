"""Confidence as the chance of a right answer."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from gateway.policy.calibration import Calibration, cross_validated, errors, fit, raw
from gateway.policy.competence import Asked, Competence, weighed
from gateway.policy.profile import SHIPPED, SUFFIX, Profile
from gateway.types import Signals
from tests.bench.routing import record

EASY_SKILL, HARD_SKILL = "capitals", "sums"


def drawn(count: int, seed: int = 0) -> tuple[list[Signals], list[bool], list[str]]:
    """Answers of a model that is far too sure of itself, and bad at sums."""
    draw = np.random.default_rng(seed)
    signals, right, skills = [], [], []
    for at in range(count):
        mean = -float(draw.exponential(0.3))
        skill = (EASY_SKILL, HARD_SKILL, "other")[at % 3]
        offset = {EASY_SKILL: 1.5, HARD_SKILL: -2.5}.get(skill, 0.0)
        signals.append(Signals(mean, 3 * mean, min(1.0, -mean), 8))
        right.append(bool(draw.random() < 1 / (1 + math.exp(-(offset + 1 + 4 * mean)))))
        skills.append(skill)
    return signals, right, skills


def test_what_is_held_out_is_told_better_than_by_the_bare_confidence() -> None:
    found = cross_validated(*drawn(300))

    assert found.calibrated.brier < found.raw.brier - 0.05
    assert found.calibrated.ece < found.raw.ece / 2
    assert found.calibrated.brier < found.new_skills.brier < found.raw.brier


def test_surer_is_likelier_and_a_skill_counts_as_far_as_it_is_the_prompt_s() -> None:
    calibration = fit(*drawn(300))
    sure, unsure = Signals(-0.05, -0.15, 0.0, 8), Signals(-0.9, -2.7, 0.9, 8)

    assert calibration.right(sure) > calibration.right(unsure) + 0.3
    several = [calibration.right(sure, HARD_SKILL, share) for share in (0.0, 0.3, 0.7, 1.0)]
    assert several == sorted(several, reverse=True)
    assert several[0] > 0.5 > several[-1]
    assert calibration.right(sure, "never seen", 1.0) == calibration.right(sure)


def test_what_is_not_known_of_a_skill_draws_towards_even_odds() -> None:
    calibration = Calibration(bias=3.0, slopes=(0.0,) * 4, spread=4.0, skills={"known": (0.0, 0.01)})
    signals = Signals(-0.1, -0.1, 0.0, 4)

    assert 0.5 < calibration.right(signals) < calibration.right(signals, "known", 1.0) - 0.03


@pytest.mark.parametrize("outcome", [True, False])
def test_a_model_that_is_always_right_or_wrong_can_be_fitted(outcome: bool) -> None:
    signals, right, skills = drawn(60)
    calibration = fit(signals, [outcome] * len(right), skills)

    assert abs(calibration.right(signals[0], skills[0], 1.0) - outcome) < 0.1


@pytest.mark.parametrize("value", [-math.inf, -1e9, 1e9])
def test_no_signal_is_too_odd(value: float) -> None:
    calibration = fit(*drawn(60))

    assert 0 <= calibration.right(Signals(value, value, 1.0, 1)) <= 1


def test_errors_are_the_usual_ones() -> None:
    """Four predictions in two bins: |0.75 - 0.5| and |0.25 - 0|, each half of all."""
    found = errors(np.array([0.75, 0.75, 0.25, 0.25]), np.array([1.0, 0.0, 0.0, 0.0]))

    assert found.ece == pytest.approx(0.25)
    assert found.brier == pytest.approx((0.0625 + 0.5625 + 0.0625 + 0.0625) / 4)


def test_a_real_model_s_confidence_holds_on_prompts_it_was_not_probed_with() -> None:
    """As recorded of SmolLM2; the soak asks it afresh."""
    rows = record.read().rows
    right = np.array([row.right for row in rows], float)
    bare = errors(np.array([raw(row.signals) for row in rows]), right)
    calibrated = errors(np.array([row.both for row in rows]), right)

    assert len(rows) >= 300
    assert calibrated.brier < 0.85 * bare.brier
    assert calibrated.ece < 0.5 * bare.ece


def test_what_was_recorded_is_what_the_shipped_profile_says() -> None:
    """And the profile belongs to the shipped questions."""
    written = (SHIPPED / f"smollm2-135m-instruct{SUFFIX}").read_bytes()
    profile = msgspec.json.decode(written, type=Profile)
    asked = Asked.shipped(thorough=True)
    competence = Competence(profile, asked)

    assert profile.questions == asked.id
    assert len(profile.right) == len(profile.signals) == len(asked.of)
    again = weighed(profile).posterior
    assert profile.posterior is not None
    assert again is not None
    assert again.after.slopes == pytest.approx(profile.posterior.after.slopes, abs=0.02), "made by what is here"
    for row in record.read().rows[::10]:
        assert competence.answered(row.signals, None) == pytest.approx(row.alone, abs=1e-6)


def test_a_profile_of_before_says_nothing_of_confidence() -> None:
    asked = Asked.shipped()
    written = msgspec.json.encode(
        {"file": "m.gguf", "digest": "d", "questions": asked.id, "right": "1" * len(asked.of)}
    )
    competence = Competence(msgspec.json.decode(written, type=Profile), asked)

    assert competence.answered(Signals(-0.1, -0.2, 0.0, 4), None) is None
    assert competence.likely(asked.vectors[0]).right > 0.5


def test_a_profile_keeps_its_calibration() -> None:
    signals, right, skills = drawn(60)
    profile = Profile(
        file="m", digest="d", questions="q", right="".join("01"[one] for one in right),
        signals=tuple((one.mean_logprob, one.min_logprob, one.uncertain_share, one.tokens) for one in signals),
        calibration=fit(signals, right, skills),
    )  # fmt: skip

    assert msgspec.json.decode(msgspec.json.encode(profile), type=Profile) == profile
