"""What rows say of local answers, and how much anybody's votes count."""

from __future__ import annotations

import pytest

from gateway.policy.dial import Dialled
from gateway.policy.feedback import VOTES_MAX, Decided, Label, Tenant, decided, labels, latest, weighed
from gateway.policy.scorer import RuleScorer
from gateway.types import LedgerEntry, RequestOptions, Score
from tests.support.votes import voted
from tests.unit.policy.support import features

LOCAL = frozenset({"local-small"})
HARD = Score(difficulty=0.8)


def of(*rows: LedgerEntry) -> list[Label]:
    return labels(latest(rows)[0], LOCAL)


def known(row: LedgerEntry) -> Decided:
    found = decided(row)
    assert found is not None
    return found


def test_a_vote_is_about_the_model_that_answered() -> None:
    good, bad = of(voted("a", vote=1.0), voted("b", vote=-0.5, model="claude", score=HARD))

    assert (good.local, good.good, good.tenant) == (True, 1.0, Tenant("default", "k1"))
    assert (bad.local, bad.good) == (False, 0.25)


@pytest.mark.parametrize(
    "row",
    [
        voted("a"),
        voted("a", vote=1.0, rule="pinned"),
        voted("a", vote=1.0, served="cache"),
        voted("a", vote=1.0, status="error"),
        voted("a", vote=1.0, detail={"decision": None}),
        voted("a", vote=1.0, detail={"features": {"words": 3}}),
    ],
    ids=["no vote", "pinned", "stored", "failed", "undecided", "older"],
)
def test_rows_that_say_nothing_of_a_local_answer(row: LedgerEntry) -> None:
    assert of(row) == []


def test_an_answer_that_was_given_up_is_half_a_vote_against_it() -> None:
    tried = [{"model": "local-small", "error": "escalated"}, {"model": "claude", "error": ""}]

    against, for_ = sorted(of(voted("a", vote=1.0, model="claude", detail={"attempts": tried})), key=lambda x: x.good)

    assert (against.local, against.good, against.weight) == (True, 0.0, 0.5)
    assert (for_.local, for_.good, for_.weight) == (False, 1.0, 1.0)


def test_a_vote_on_a_shadow_counts_for_who_asked() -> None:
    asked = voted("a", model="claude", key="k7", team="red")
    shadow = voted("a-shadow-local-small", vote=-1.0, key="shadow", detail={"shadow_of": "a"})

    (label,) = of(asked, shadow)

    assert (label.of, label.local, label.tenant, label.key_id) == ("a", True, Tenant("default", "red"), "k7")


def test_what_the_dial_and_an_artefact_added_is_taken_away_again() -> None:
    asked = features("What is the capital of France?", options=RequestOptions(quality=8))
    plain, turned = RuleScorer().score(features()), Dialled(RuleScorer()).score(asked)
    taught = Score(
        difficulty=0.3, contributions=(("base", 0.2), ("feedback", 0.15), ("quality", -0.05)), scorer="rules+ledger@abc"
    )

    assert known(voted("a", score=turned)).difficulty == pytest.approx(plain.difficulty)
    found = known(voted("a", score=taught))
    assert [found.difficulty, found.prior] == pytest.approx([0.35, 0.2])
    assert found.shipped == "rules"


def test_only_what_compares_with_the_newest_rows_is_used() -> None:
    rows = [
        voted("old", score=Score(difficulty=0.2)),
        voted("hard", score=Score(difficulty=0.7)),
        voted("new", score=Score(difficulty=0.3, scorer="profile")),
    ]

    found, scorer = latest(rows)

    assert ([one.row.request_id for one in found], scorer) == (["hard", "new"], "profile")


def test_nobody_counts_for_more_than_a_hundred_votes() -> None:
    rows = [voted(f"a{n}", vote=-1.0, key="loud") for n in range(300)]
    rows += [voted(f"t{n}", vote=-1.0, key=f"key{n % 3}", team="red") for n in range(600)]
    rows += [voted(f"b{n}", vote=1.0, key="quiet") for n in range(10)]

    votes = of(*rows)
    sums: dict[Tenant, float] = {}
    for vote, weight in zip(votes, weighed(votes), strict=True):
        sums[vote.tenant] = sums.get(vote.tenant, 0.0) + weight

    assert sums == {
        Tenant("default", "loud"): pytest.approx(VOTES_MAX),
        Tenant("default", "red"): pytest.approx(VOTES_MAX),
        Tenant("default", "quiet"): pytest.approx(10),
    }
