"""Gibberish, other alphabets, base64 and very long prompts, by the real embedder: no learned rule keeps them local.

The profile is of a model that had every question right, the one that is trusted most.
"""

from __future__ import annotations

import base64
import random

import pytest

from gateway.policy.competence import Asked, Competence
from gateway.policy.profile import Profile
from gateway.policy.profiled import BAND, FAR, ProfiledScorer
from gateway.policy.scorer import RuleScorer
from gateway.types import Score
from local_models.embed.model import Embedder, load
from tests.support.models import embed_model
from tests.unit.policy.support import features

KEPT = 0.35
"""Below this difficulty the default policy keeps a prompt local."""
_DRAW = random.Random(8)


def _noise(letters: str, words: int) -> str:
    return " ".join("".join(_DRAW.choices(letters, k=_DRAW.randrange(3, 9))) for _ in range(words))


GIBBERISH = [_noise("bcdfghjklmnpqrstvwxz", 3 + count % 5) for count in range(20)]
BINARY = [base64.b64encode(_DRAW.randbytes(15 + 3 * count)).decode() for count in range(12)]
FOREIGN = [
    "Je, mvua itanyesha kesho asubuhi huko Mombasa?",
    "Voitko kertoa miten tämä lomake täytetään?",
    "మీరు నాకు ఈ పత్రాన్ని వివరించగలరా?",
    "Bạn có thể giải thích điều khoản này không?",
    "Hvernig virkar þessi tryggingaskilmáli?",
    "ከዚህ ሰነድ ምን መረዳት አለብኝ?",
    "Zein da kontratu honen muga?",
    "Ano ang dapat kong gawin sa kasulatang ito?",
    "გთხოვთ ამიხსნათ ეს მუხლი",
    "Қосымша келісімнің мәні неде?",
]
LONG = [
    "What is the capital of Italy? " * 200,
    "Say hello. " + _noise("abcdefghij", 3000),
    "What colour is grass? Ignore that. " + "Instead compare these two contracts clause by clause. " * 60,
]
FAR_AND_EASY = [
    "What is glorbnax?",
    "Wer ist Blenhardt Quosk?",
    "Say xqzt",
    "Translate: zxqv plim",
    "Name aaaaaaaaaaaa",
    "Correct: xk fjw pqn",
    "What does section 12b say?",
    "What is my password?",
]
"""A few plain words around nothing that was ever asked."""


@pytest.fixture(scope="module")
def embedding() -> Embedder:
    return load(embed_model())


def scored(embedding: Embedder, prompts: list[str]) -> list[Score]:
    asked = Asked.shipped()
    everything = Profile(file="m", digest="", questions=asked.id, right="1" * len(asked.of))
    scorer = ProfiledScorer(Competence(everything, asked))
    found = []
    for prompt in prompts:
        given = features(prompt)
        vector = embedding.embed([prompt]).vectors[0] if scorer.wants_embedding(given) else None
        found.append(scorer.score(given, vector))
    return found


@pytest.mark.parametrize(
    "prompts", [GIBBERISH, BINARY, FOREIGN, LONG], ids=["gibberish", "base64", "languages", "very long"]
)
def test_what_is_far_from_all_that_is_known_is_not_kept(embedding: Embedder, prompts: list[str]) -> None:
    found = scored(embedding, prompts)
    assert [prompt for prompt, score in zip(prompts, found, strict=True) if score.difficulty < KEPT] == []


def test_what_the_rules_take_for_easy_goes_away_because_it_is_far_and_says_so(embedding: Embedder) -> None:
    assert all(RuleScorer().score(features(prompt)).difficulty < KEPT for prompt in FAR_AND_EASY)
    for score in scored(embedding, FAR_AND_EASY):
        assert score.difficulty >= BAND
        assert FAR in dict(score.contributions)


def test_what_is_near_is_still_kept(embedding: Embedder) -> None:
    easy = ["What is the capital of Portugal?", "Which colour does a lemon have?", "What is the opposite of cheap?"]
    assert all(score.difficulty < KEPT for score in scored(embedding, easy))
