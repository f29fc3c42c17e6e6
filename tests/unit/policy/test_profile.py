"""Profiles of local models, and what follows from them for a new prompt."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from gateway.policy.competence import Asked, Competence, Vectors
from gateway.policy.probe import questions
from gateway.policy.profile import SUFFIX, Profile, find, fingerprint, graded, set_id, write
from gateway.policy.profiled import BAND, ProfiledScorer
from gateway.policy.scorer import RuleScorer
from tests.support.hard_prompts import HARD_AND_SHORT
from tests.unit.policy.support import features

ASKED = Asked.shipped()
CAPITALS = [at for at, skill in enumerate(ASKED.of) if ASKED.skills[skill] == "capitals"]


def profile(right: Iterable[str] = ()) -> Profile:
    known = frozenset(right)
    outcomes = "".join("01"[ASKED.skills[skill] in known] for skill in ASKED.of)
    return Profile(file="m-Q4_0.gguf", digest="", questions=ASKED.id, right=outcomes)


def test_what_ships_belongs_together() -> None:
    assert ASKED.id == set_id(questions())
    assert len(ASKED.vectors) == len(questions())
    assert [ASKED.skills[skill] for skill in ASKED.of] == [question.skill for question in questions()]


def test_a_profile_is_of_one_file_and_one_set(tmp_path: Path) -> None:
    model = tmp_path / "m-Q4_0.gguf"
    model.write_bytes(b"GGUF" * 100_000)
    made = graded(model, questions(), [question.answers[0] for question in questions()])
    write(made, tmp_path / f"m{SUFFIX}")

    assert set(made.right) == {"1"}
    assert find(tmp_path, "m", ASKED.id) == made
    assert find(tmp_path, "m", "another set") is None
    assert find(tmp_path, "other", ASKED.id) is None
    assert find(tmp_path / "elsewhere", "m", ASKED.id) is None
    changed = bytearray(model.read_bytes())
    changed[-10] ^= 1
    model.write_bytes(changed)
    assert find(tmp_path, "m", ASKED.id) is None
    model.unlink()
    assert find(tmp_path, "m", ASKED.id) is None


def test_what_is_no_profile_is_none(tmp_path: Path) -> None:
    (tmp_path / f"m{SUFFIX}").write_text("{}")

    assert find(tmp_path, "m", ASKED.id) is None


def test_a_digest_covers_the_whole_of_a_small_file_and_the_size(tmp_path: Path) -> None:
    file = tmp_path / "f"
    digests = set()
    for content in (b"", b"a", b"ab", b"b" * 5_000_000, b"b" * 5_000_001, b"b" * 4_999_999 + b"a"):
        file.write_bytes(content)
        digests.add(fingerprint(file))
    assert len(digests) == 6


def test_a_model_is_trusted_with_what_it_was_found_to_know() -> None:
    knows = Competence(profile(right={"capitals"}), ASKED)
    knows_not = Competence(profile(right={"opposites"}), ASKED)

    for at in CAPITALS:
        assert knows.likely(ASKED.vectors[at]).skill == "capitals"
        assert knows.likely(ASKED.vectors[at]).at_least > 0.65
        assert knows_not.likely(ASKED.vectors[at]).right < 0.2


def test_without_evidence_there_is_no_trust() -> None:
    everything = Competence(profile(right=set(ASKED.skills)), ASKED)
    unlike = np.random.default_rng(0).normal(size=(1, ASKED.vectors.shape[1])).astype(np.float32)[0]

    assert everything.likely(unlike / np.linalg.norm(unlike)).at_least < 0.3


def test_the_scorer_needs_both_the_rules_and_the_evidence() -> None:
    trusted = ProfiledScorer(Competence(profile(right=set(ASKED.skills)), ASKED))
    untrusted = ProfiledScorer(Competence(profile(), ASKED))
    easy, vector = features("What is the capital of Italy?"), ASKED.vectors[CAPITALS[0]]
    hard = features("Prove that every tree with n vertices has n - 1 edges, step by step.")

    assert trusted.wants_embedding(easy)
    assert trusted.score(easy, vector).difficulty < 0.35
    assert untrusted.score(easy, vector).difficulty > 0.9
    assert untrusted.score(easy, vector).contributions[0][0] == "may-be-wrong:capitals"
    assert not trusted.wants_embedding(hard)
    assert trusted.score(hard, vector).difficulty >= BAND


@pytest.mark.parametrize("vector", [None, np.ones(3, np.float32)])
def test_without_a_vector_that_compares_the_rules_decide(vector: Vectors | None) -> None:
    scorer = ProfiledScorer(Competence(profile(), ASKED))
    easy = features("What is the capital of Italy?")

    assert scorer.score(easy, vector) == RuleScorer().score(easy)


def test_hard_and_short_is_kept_from_the_local_model() -> None:
    """Even where its profile is not known yet."""
    away = [prompt for prompt in HARD_AND_SHORT if RuleScorer().score(features(prompt)).difficulty >= 0.35]

    assert all(len(prompt.split()) <= 30 for prompt in HARD_AND_SHORT)
    assert len(away) >= 0.9 * len(HARD_AND_SHORT)
