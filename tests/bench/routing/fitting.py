"""Which two bounds go together, a difficulty to try below and a confidence to keep from: found on the probe alone.

Whatever a mistake may cost, one pair does best on the probe's questions, each of them scored by all others. These
pairs, the corners of quality over cost, are the settings of scorer + cascade. The dearer the large model, the cheaper
a try beside it, the more is tried.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from gateway.policy.competence import Asked, Competence
from gateway.policy.probe import questions
from gateway.policy.profile import SHIPPED, SUFFIX, Profile
from gateway.policy.profiled import ProfiledScorer
from gateway.policy.scorer import RuleScorer
from gateway.types import Signals
from tests.bench.routing.curve import Price, large_usd, small_usd
from tests.bench.routing.record import Row, Setting, features_of
from tests.support.models import CHAT

LARGE_IS_RIGHT = 0.97
_Corner = tuple[float, float, Setting]
_DIFFICULTIES = tuple(number / 100 for number in range(101))
_CONFIDENCES = tuple(number / 40 for number in range(41))


def probed() -> list[Row]:
    """The probe's questions as the easy prompts are recorded, by the shipped profile."""
    profile = msgspec.json.decode((SHIPPED / f"{CHAT}{SUFFIX}").read_bytes(), type=Profile)
    asked = Asked.of_profile(profile)
    assert asked is not None
    assert profile.calibration is not None
    assert profile.posterior is not None
    competence, rules = Competence(profile, asked), RuleScorer()
    rows = []
    for place, (question, likely) in enumerate(zip(questions(thorough=True), competence.of_each(), strict=True)):
        signals, features = Signals(*profile.signals[place]), features_of(question)
        scorer = ProfiledScorer(competence.without(place))
        embedded = asked.vectors[place] if scorer.wants_embedding(features) else None
        alone = profile.calibration.right(signals)
        rows.append(
            Row(
                prompt=question.prompt,
                right=profile.right[place] == "1",
                signals=signals,
                rules=rules.score(features).difficulty,
                scorer=scorer.score(features, embedded).difficulty,
                alone=alone,
                both=alone if embedded is None else profile.posterior.right(likely, signals),
            )
        )
    return rows


def fitted(rows: Sequence[Row], price: Price) -> list[Setting]:
    """From all kept to the best quality there is."""
    right = np.array([row.right for row in rows], float)
    small, large = np.array([small_usd(row) for row in rows]), np.array([large_usd(row, price) for row in rows])
    scorer, both = np.array([row.scorer for row in rows]), np.array([row.both for row in rows])
    found = []
    for difficulty in _DIFFICULTIES:
        tried = scorer < difficulty
        for confidence in _CONFIDENCES:
            kept = tried & (both >= confidence)
            quality = float(right[kept].sum() + LARGE_IS_RIGHT * (~kept).sum())
            found.append((float(small[tried].sum() + large[~kept].sum()), quality, Setting(difficulty, confidence)))
    return [setting for _, _, setting in _corners(found)]


def _corners(points: list[_Corner]) -> list[_Corner]:
    """The upper convex hull, up to the best quality."""
    hull: list[_Corner] = []
    for at in sorted(points):
        while len(hull) >= 2 and _is_below(hull[-1], hull[-2], at):
            hull.pop()
        hull.append(at)
    best = max(range(len(hull)), key=lambda place: hull[place][1])
    return hull[: best + 1]


def _is_below(middle: _Corner, left: _Corner, right: _Corner) -> bool:
    rise, run = right[1] - left[1], right[0] - left[0]
    return (middle[1] - left[1]) * run <= rise * (middle[0] - left[0])
