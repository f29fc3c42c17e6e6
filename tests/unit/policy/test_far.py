"""Prompts far from everything a local model was asked are not its to answer, wherever the dial stands."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from gateway.policy.competence import UNLIKE, Asked, Competence, Vectors
from gateway.policy.profile import Profile
from gateway.policy.profiled import BAND, FAR, READ_TOKENS, ProfiledScorer
from gateway.policy.scorer import RuleScorer
from gateway.policy.taught import BANDS, INPUTS, Artefact, Taught
from tests.unit.policy.support import features

ASKED = Asked.shipped()
KNOWS_ALL = Profile(file="m", digest="", questions=ASKED.id, right="1" * len(ASKED.of))
SCORER = ProfiledScorer(Competence(KNOWS_ALL, ASKED))
EASY = "What is the capital of Italy?"


def at_cosine(cosine: float) -> Vectors:
    """A vector whose nearest question is as near as that."""
    draw = np.random.default_rng(1)
    question = ASKED.vectors[0]
    away = draw.normal(size=question.shape).astype(np.float32)
    away -= (away @ question) * question
    away /= np.linalg.norm(away)
    vector = cosine * question + (1 - cosine**2) ** 0.5 * away
    assert float((ASKED.vectors @ vector).max()) == pytest.approx(cosine, abs=0.02)
    return np.asarray(vector, np.float32)


@pytest.mark.parametrize("quality", [0, 5, 10])
def test_what_is_unlike_every_question_goes_away_at_any_quality(quality: int) -> None:
    asked = msgspec.structs.replace(features(EASY), quality=quality)
    found = SCORER.score(asked, at_cosine(UNLIKE - 0.05))

    assert found.difficulty >= BAND
    if RuleScorer().score(asked).difficulty < BAND:
        ((name, distance),) = found.contributions
        assert name == FAR
        assert distance == pytest.approx(1.05 - UNLIKE, abs=0.03)


def test_what_is_like_a_question_it_had_right_stays() -> None:
    found = SCORER.score(features(EASY), ASKED.vectors[0])

    assert found.difficulty < 0.35
    assert FAR not in dict(found.contributions)


def test_a_prompt_whose_end_no_embedding_reads_goes_away_unread() -> None:
    padded = features(f"{EASY} " + "so it is " * 150)

    assert padded.last_user_tokens > READ_TOKENS
    assert not SCORER.wants_embedding(padded)
    assert SCORER.score(padded, ASKED.vectors[0]).difficulty >= BAND
    assert SCORER.score(padded).difficulty >= BAND


def test_the_rules_alone_know_nothing_of_distance() -> None:
    """Without a vector there is nothing to compare, and no learned rule keeps anything."""
    assert SCORER.score(features(EASY)) == RuleScorer().score(features(EASY))


def test_votes_on_local_answers_do_not_bring_it_back() -> None:
    """An artefact that makes everything easier by 0.9."""
    shared = ((-0.9,) + (0.0,) * (len(INPUTS) - 1)) * BANDS
    taught = Taught(SCORER, Artefact(scorer="profile", inputs=INPUTS, shared=shared), "digest")

    assert taught.score(features(EASY), at_cosine(UNLIKE + 0.15)).difficulty < BAND
    assert taught.score(features(EASY), at_cosine(UNLIKE - 0.05)).difficulty == 1.0
