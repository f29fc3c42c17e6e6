"""What is learned from votes: it helps who voted, and nobody can do it to somebody else."""

from __future__ import annotations

import functools
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ConfigError
from gateway.policy.feedback import labels, latest
from gateway.policy.scorer import RuleScorer
from gateway.policy.taught import Artefact, Taught, read, serving
from gateway.policy.teaching import MOVED_MAX, Example, Fit, Traffic, fit
from gateway.types import Features, LedgerEntry, Score
from tests.support.votes import voted
from tests.unit.policy.support import features

EASY = ("What is the capital of Spain?", "Translate 'house' into Italian.", "How many legs has a spider?", "Hello!")
LOCAL = frozenset({"local-small"})


class Fixed:
    """A scorer that says what the rules said of the rows."""

    def wants_embedding(self, asked: Features) -> bool:
        return False

    def score(self, asked: Features, embedding: object = None) -> Score:
        return RuleScorer().score(asked)


def rows(
    key: str, count: int, *, good: float, only: tuple[str, ...] = EASY, seed: int = 0, team: str = ""
) -> list[LedgerEntry]:
    """Votes of one key, of which a share ``good`` praises."""
    draw = np.random.default_rng(seed)
    asked = [
        voted("", key=key, prompt=prompt, score=RuleScorer().score(features(prompt)), team=team) for prompt in only
    ]
    return [
        msgspec.structs.replace(
            asked[n % len(only)], request_id=f"{key}-{seed}-{n}", feedback=1.0 if draw.random() < good else -1.0
        )
        for n in range(count)
    ]


def learned(*some: list[LedgerEntry]) -> Fit:
    found, scorer = latest(row for each in some for row in each)
    return fit([Example(label=label) for label in labels(found, LOCAL)], scorer)


def difficulty(fitted: Fit, prompt: str, key: str = "stranger") -> float:
    asked = msgspec.structs.replace(features(prompt), key=key)
    return Taught(Fixed(), fitted.artefact, "digest").score(asked).difficulty


def test_a_tenant_learns_from_its_own_votes() -> None:
    fitted = learned(rows("glad", 300, good=0.97), rows("sad", 300, good=0.2))

    for prompt in EASY:
        plain = RuleScorer().score(features(prompt)).difficulty
        assert difficulty(fitted, prompt, "glad") < 0.15
        assert difficulty(fitted, prompt, "sad") > 0.6
        assert abs(difficulty(fitted, prompt) - plain) <= 2 * MOVED_MAX
    assert fitted.after < 0.8 * fitted.before


def test_praise_for_easy_answers_does_not_make_proofs_easy() -> None:
    fitted = learned(rows("glad", 400, good=1.0))
    proof = "Prove that the square root of 2 is irrational, step by step."

    assert difficulty(fitted, proof, "glad") == RuleScorer().score(features(proof)).difficulty >= 0.6


def test_a_kind_of_request_that_goes_wrong_is_told_from_one_that_does_not() -> None:
    short, foreign = "What is the capital of Spain?", "Was ist die Hauptstadt von Spanien?"
    fitted = learned(rows("k", 200, good=0.95, only=(short,)), rows("k", 200, good=0.1, only=(foreign,), seed=1))

    assert difficulty(fitted, short, "k") < 0.25
    assert difficulty(fitted, foreign, "k") > 0.7


@functools.cache
def by(prompt: str) -> LedgerEntry:
    """A row of the hostile tenant."""
    return voted("", key="hostile", prompt=prompt, score=RuleScorer().score(features(prompt)))


HOSTILE = rows("hostile", 10_000, good=0.0)


@pytest.mark.parametrize("own", [0, 300])
def test_ten_thousand_hostile_votes_move_another_tenant_by_less_than_the_bound(own: int) -> None:
    honest = [rows(f"other{n}", 60, good=0.9, seed=n) for n in range(3)]
    mine = rows("mine", own, good=0.9, seed=9)

    before, after = learned(*honest, mine), learned(*honest, mine, HOSTILE)

    moved = [abs(difficulty(after, prompt, "mine") - difficulty(before, prompt, "mine")) for prompt in EASY]
    assert max(moved) <= MOVED_MAX
    assert difficulty(after, EASY[0], "hostile") > difficulty(before, EASY[0], "hostile") + 0.3, (
        "it is heard for itself"
    )


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_no_votes_of_one_tenant_move_another_by_more(data: st.DataObject) -> None:
    prompts = st.sampled_from([*EASY, "Write a poem about the sea.", "Prove it.", "Quelle heure est-il ?"])
    against = data.draw(st.lists(st.tuples(prompts, st.sampled_from([-1.0, 1.0])), min_size=1, max_size=40))
    honest = [rows(f"other{n}", 40, good=data.draw(st.sampled_from([0.1, 0.9])), seed=n) for n in range(3)]
    hostile = [
        msgspec.structs.replace(row, request_id=f"h{n}", feedback=vote)
        for n, (row, vote) in enumerate([(by(prompt), vote) for prompt, vote in against] * 10)
    ]

    before, after = learned(*honest), learned(*honest, hostile)

    for prompt in (*EASY, "Write a poem about the sea.", "Prove it."):
        for key in ("other0", "stranger"):
            assert abs(difficulty(after, prompt, key) - difficulty(before, prompt, key)) <= MOVED_MAX


def test_votes_that_tell_nothing_leave_the_shipped_difficulty() -> None:
    """A tenant whose votes agree with it as it is."""
    some = [
        voted(f"k{n}", key="k", vote=1.0 if n % 5 else -1.0, score=Score(difficulty=0.2)) for n in range(200)
    ]  # one in five is bad, as a difficulty of 0.2 says

    fitted = learned(some)

    assert fitted.artefact.own == ()
    assert fitted.tenants == 1


def test_a_correction_is_told_with_its_digest() -> None:
    fitted = learned(rows("sad", 300, good=0.1))
    asked = msgspec.structs.replace(features(EASY[0]), key="sad")

    score = Taught(Fixed(), fitted.artefact, "0123456789ab").score(asked)

    assert score.scorer == "rules+ledger@0123456789ab"
    plain = RuleScorer().score(asked).difficulty
    assert dict(score.contributions)["feedback"] == pytest.approx(score.difficulty - plain)


def test_what_was_learned_of_one_scorer_is_not_used_on_another() -> None:
    fitted = learned(rows("sad", 300, good=0.1))
    elsewhere = msgspec.structs.replace(fitted.artefact, scorer="profile")
    asked = msgspec.structs.replace(features(EASY[0]), key="sad")

    assert Taught(Fixed(), elsewhere, "d").score(asked) == RuleScorer().score(asked)


def test_a_file_is_what_was_fitted(tmp_path: Path) -> None:
    fitted, again = (learned(rows("sad", 100, good=0.1), rows("b", 40, good=0.9)) for _ in range(2))
    file = tmp_path / "learned.json"
    file.write_bytes(fitted.artefact.encoded())

    artefact, digest = read(file)

    assert fitted.artefact.encoded() == again.artefact.encoded(), "the same rows make the same file"
    assert artefact == fitted.artefact
    scored = serving(RuleScorer(), file).score(msgspec.structs.replace(features(EASY[0]), key="sad"))
    assert scored.scorer.endswith(digest)
    assert serving(RuleScorer(), None).score(features(EASY[0])) == RuleScorer().score(features(EASY[0]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"inputs": ("other",)}, "another version"),
        ({"shared": (0.0,)}, "another version"),
        ({"tenants": {"k": 7}}, "another version"),
        ({"form": "0123"}, "another version"),
        (None, "not an artefact"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, object] | None, reason: str) -> None:
    artefact = learned(rows("sad", 60, good=0.1)).artefact
    file = tmp_path / "learned.json"
    file.write_bytes(b"{}" if change is None else msgspec.structs.replace(artefact, **change).encoded())

    with pytest.raises(ConfigError, match=reason):
        read(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "none.json")


def test_kept_prompts_are_learned_from() -> None:
    """Two kinds of question that nothing but their words tells apart."""
    prompts = ("Please name the largest river in Brazil now.", "Please name the fastest lizard in Angola now.")
    found, scorer = latest(
        voted(f"k{n}", key="k", prompt=prompts[n % 2], vote=1.0 - 2 * (n % 2), score=Score(difficulty=0.3))
        for n in range(160)
    )
    fitted = fit([Example(label=one, prompt=prompts[n % 2]) for n, one in enumerate(labels(found, LOCAL))], scorer)

    class Same:
        def wants_embedding(self, asked: Features) -> bool:
            return False

        def score(self, asked: Features, embedding: object = None) -> Score:
            return Score(difficulty=0.3)

    taught = Taught(Same(), fitted.artefact, "d")
    good, bad = (taught.score(msgspec.structs.replace(features(prompt), key="k")).difficulty for prompt in prompts)
    assert fitted.artefact.form
    assert good < 0.25 < 0.6 < bad


def test_the_dial_is_measured_on_the_corrected_traffic() -> None:
    some = rows("sad", 200, good=0.0)
    found, scorer = latest(some)
    traffic = [Traffic(one.features, one.prior, 1) for one in found]

    fitted = fit([Example(label=label) for label in labels(found, LOCAL)], scorer, traffic)

    half = len(fitted.artefact.ranks) // 2
    assert fitted.artefact.ranks[half] < 0.1, "nothing is easy any more"
    assert isinstance(fitted.artefact, Artefact)
