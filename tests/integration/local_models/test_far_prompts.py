"""Gibberish, other alphabets, base64 and very long prompts, by the real embedder: no learned rule keeps them local.

The profile is of a model that had every question right, the one that is trusted most, and the default model's own.
"""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import random
from collections.abc import Sequence

import pytest

from gateway.policy.competence import Asked, Competence
from gateway.policy.profile import Profile
from gateway.policy.profiled import BAND, FAR, ProfiledScorer
from gateway.policy.scorer import RuleScorer
from gateway.types import Score
from local_models.embed.model import Embedder, load
from tests.bench.routing.record import shipped
from tests.support.hard_prompts import HARD_AND_SHORT
from tests.support.models import embed_model
from tests.unit.policy.support import features
from tests.unit.policy.test_scorer import ARENA

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


def knows_all() -> Competence:
    asked = Asked.shipped()
    return Competence(Profile(file="m", digest="", questions=asked.id, right="1" * len(asked.of)), asked)


def scored(embedding: Embedder, prompts: Sequence[str], of: Competence | None = None) -> list[Score]:
    scorer = ProfiledScorer(of or knows_all())
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
    for of in (knows_all(), shipped()):
        found = scored(embedding, prompts, of)
        assert [prompt for prompt, score in zip(prompts, found, strict=True) if score.difficulty < KEPT] == []


def test_what_the_rules_take_for_easy_goes_away_because_it_is_far_and_says_so(embedding: Embedder) -> None:
    assert all(RuleScorer().score(features(prompt)).difficulty < KEPT for prompt in FAR_AND_EASY)
    for score in scored(embedding, FAR_AND_EASY):
        assert score.difficulty >= BAND
        assert FAR in dict(score.contributions)


def test_what_is_near_is_still_kept(embedding: Embedder) -> None:
    easy = ["What is the capital of Portugal?", "Which colour does a lemon have?", "What is the opposite of cheap?"]
    assert all(score.difficulty < KEPT for score in scored(embedding, easy))


def test_the_default_model_is_not_even_tried_on_what_is_hard_and_short(embedding: Embedder) -> None:
    """Proofs, graduate science, medicine and law under the shipped profile and the default policy."""
    away = [score for score in scored(embedding, HARD_AND_SHORT, shipped()) if score.difficulty >= BAND]

    assert len(away) >= 0.9 * len(HARD_AND_SHORT)


@pytest.mark.skipif(not ARENA.exists(), reason="the shared data are not beside this checkout")
def test_nor_on_what_people_ask_large_models(embedding: Embedder) -> None:
    with gzip.open(ARENA, "rt", encoding="utf-8") as lines:
        prompts = [json.loads(line)["prompt"] for line in itertools.islice(lines, 0, None, 5)]
    away = [score for score in scored(embedding, prompts, shipped()) if score.difficulty >= BAND]

    assert len(prompts) >= 200
    assert len(away) >= 0.95 * len(prompts)


def test_what_the_default_model_knows_is_kept(embedding: Embedder) -> None:
    easy = ["What is the capital of France?", "Good morning!", "Thanks a lot!"]
    assert all(score.difficulty < KEPT for score in scored(embedding, easy, shipped()))
