"""What is served, explored and rejected, and what becomes of the share of wrong answers as it learns."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from gateway.cache.decision import Judge, Mode, Neighbour, Verdict, observed
from gateway.cache.posterior import Observation
from gateway.cache.verifier import Measures, Verifier
from gateway.cache.words import Text, read

NAMES = itertools.count()


class Says(Verifier):
    """A verifier that always says the same."""

    def __init__(self, p: float) -> None:
        self._p = p

    def p_of(self, measures: Measures) -> float:
        return self._p


ASKED, STORED = read("how do i reset my password"), read("how can i reset my password")


def judge(p: float = 0.995, mode: Mode = "question", budget: float = 0.01, seed: int = 1) -> Judge:
    return Judge(mode, budget, Says(p), random.Random(seed))


def near(similarity: float = 0.98, answer: str = "a", entry: str = "e", text: Text = STORED) -> Neighbour:
    return Neighbour(entry, text, similarity, answer)


def test_a_sure_pair_is_served_by_a_cache_that_knows_nothing() -> None:
    verdict = judge().judge(ASKED, [near()])
    assert (verdict.action, verdict.entry) == ("accept", "e")
    assert verdict.p_same > 0.98


@pytest.mark.parametrize(
    ("p", "budget", "action"),
    [(0.992, 0.005, "explore"), (0.992, 0.01, "accept"), (0.97, 0.02, "explore"), (0.7, 0.05, "explore")],
)
def test_how_sure_a_cache_that_knows_nothing_must_be(p: float, budget: float, action: str) -> None:
    """By the budget, and never less than 99 %: what the verifier says may be wrong here."""
    assert judge(p, budget=budget).judge(ASKED, [near(0.98)]).action == action


@pytest.mark.parametrize(
    ("similarity", "beside", "budget", "action"),
    [
        (0.98, [], 0.05, "accept"),
        (0.94, [], 0.05, "explore"),
        (0.98, [], 0.02, "explore"),
        (0.98, [("b", 0.93)], 0.05, "explore"),
        (0.98, [("a", 0.93)], 0.05, "explore"),
    ],
)
def test_closeness_serves_where_the_budget_allows_for_look_alikes(
    similarity: float, beside: list[tuple[str, float]], budget: float, action: str
) -> None:
    """Not where another answer is as near, nor where the same answer has another question as near: where variants of a
    question crowd, the next one is a look-alike more often.
    """
    others = [near(s, answer, answer * 2, read("how to reset my pass word")) for answer, s in beside]
    assert judge(0.9, budget=budget).judge(ASKED, [near(similarity), *others]).action == action


@pytest.mark.parametrize(
    ("asked", "stored", "action"),
    [
        ("Как включить уведомления?", "Как выключить уведомления?", "explore"),
        ("如何打开文件?", "如何关闭文件?", "explore"),
        ("¿Cómo llego al aeropuerto?", "¿Cómo salgo del aeropuerto?", "explore"),
        ("Как включить уведомления?", "Как мне включить уведомления?", "accept"),
        ("¿Cómo cambio mi contraseña?", "¿Cómo cambio contraseña?", "accept"),
        ("How do I delete my account?", "How do I remove my account?", "accept"),
    ],
)
@pytest.mark.parametrize("budget", [0.01, 0.05])
def test_in_a_language_nothing_was_measured_on_no_word_is_taken_for_another(
    asked: str, stored: str, action: str, budget: float
) -> None:
    """However sure the verifier, and however close the encoder finds them: to it opposites are the same there."""
    neighbour = near(0.999, text=read(stored))
    assert judge(0.999, budget=budget).judge(read(asked), [neighbour]).action == action
    assert judge(0.5, budget=budget).judge(read(asked), [neighbour], {"e": 0.999}).action == "accept"


@pytest.mark.parametrize(("budget", "served"), [(0.01, 6), (0.05, 30)])
def test_a_question_that_is_asked_again_and_again_is_checked(budget: float, served: int) -> None:
    decider = judge(budget=budget)
    assert [decider.judge(ASKED, [near()]).action for _ in range(2)] == ["accept", "explore"]
    for number in range(60):
        decider.learn(Observation(f"{number}", (1.0, 5.3, 1.0, 0.0, -0.5), True))
    decider.audit.share = lambda: 0.0  # type: ignore[method-assign]
    asked = another()
    assert [decider.judge(asked, [near()]).action for _ in range(served + 1)] == [*["accept"] * served, "explore"]


def test_a_verifier_that_is_wrong_here_is_soon_believed_no_more() -> None:
    right, wrong = judge(0.995), judge(0.995)
    for number in range(60):
        for decider in (right, wrong):
            same = decider is right or number % 4 != 0
            decider.learn(Observation(f"{number}", (1.0, 5.3, 1.0, 0.0, -0.5), same))
    assert right.posterior.trust > 0.95
    assert wrong.posterior.trust < 0.001
    assert right.judge(ASKED, [near()]).action == "accept"
    assert wrong.judge(ASKED, [near()]).action == "explore"


def test_another_answer_nearby_makes_it_doubt() -> None:
    decider = judge(0.995, budget=0.05)
    for number in range(60):
        decider.learn(Observation(f"{number}", (1.0, 5.3, 1.0, 0.0, -0.5), number % 5 != 0))
    alone = decider.judge(ASKED, [near(0.97)])
    beside = decider.judge(ASKED, [near(0.97), near(0.96, "b", "f", read("how do i reset my pass word"))])
    assert beside.p_same < alone.p_same - 0.02
    decider.learn(Observation("same", (1.0, 5.3, 1.0, 0.0, -0.5), True, answers=("b", "a")))
    merged = decider.judge(ASKED, [near(0.97), near(0.96, "b", "f", read("how do i reset my pass word"))])
    assert merged.p_same > beside.p_same + 0.1


def test_nothing_is_learnt_from_what_is_far_away() -> None:
    assert judge().judge(ASKED, [near(0.7)]).action == "reject"
    assert judge().judge(ASKED, []).action == "reject"


@pytest.mark.parametrize("mode", ["question", "faq"])
def test_where_the_guard_speaks_there_is_no_hit(mode: Mode) -> None:
    stored = [near(1.0, entry=str(n), text=read(f"how can i not reset my password {n}")) for n in range(8)]
    decider = judge(0.9999, mode, 1.0)
    assert decider.judge(read("how can i reset my password"), stored).action == "reject"
    assert decider.judge(read("how can i reset my password"), [*stored, near(0.9)]).entry in ("e", "")


def another() -> Text:
    """What is asked, in writing of its own: a question that comes back is treated as one."""
    return read("how do i reset my password" + f"{next(NAMES):b}".replace("0", "?").replace("1", "!"))


def served(decider: Judge, rounds: int, wrong: float, chance: random.Random) -> tuple[int, int]:
    """Hits, and how many of them were wrong, of so many requests of which a share is another question."""
    hits = bad = 0
    for _ in range(rounds):
        verdict, same = decider.judge(another(), [near()]), chance.random() >= wrong
        if verdict.action == "accept":
            hits, bad = hits + 1, bad + (not same)
        elif verdict.action == "explore":
            decider.learn(observed(verdict, f"{next(NAMES)}", same))
    return hits, bad


def test_what_is_right_goes_on_being_served_and_a_share_of_it_is_checked() -> None:
    decider = judge()
    hits, _ = served(decider, 1000, 0.0, random.Random(2))
    assert 920 < hits < 985
    assert decider.audit.checked == 1000 - hits
    assert not decider.audit.closed


@pytest.mark.parametrize("budget", [0.01, 0.05])
def test_look_alikes_only_are_soon_no_longer_served(budget: float) -> None:
    wrong = sorted(served(judge(budget=budget, seed=seed), 120, 1.0, random.Random(seed))[1] for seed in range(12))
    assert sum(wrong) / 12 < 30  # two checks of one in eight
    assert wrong[9] < 60


def test_a_partition_that_goes_wrong_later_is_closed_too_and_opens_when_it_is_back() -> None:
    decider, chance = judge(), random.Random(3)
    served(decider, 200, 0.0, chance)
    _, wrong = served(decider, 500, 1.0, chance)
    assert wrong < 250
    assert served(decider, 50, 1.0, chance)[0] == 0
    served(decider, 3000, 0.0, chance)
    assert served(decider, 100, 0.0, chance)[0] > 80


def test_an_outcome_counts_once_and_one_of_another_mode_not_at_all() -> None:
    decider = judge()
    verdict = Verdict("explore", evidence=(1.0, 5.0, 1.0, 0.0, -0.5))
    for _ in range(3):
        decider.learn(observed(verdict, "e", True))
    decider.learn(Observation("f", (1.0,) * 6, False))
    assert list(decider.posterior.observations) == ["e"]


def test_what_was_learnt_is_taken_over_by_another_worker() -> None:
    first, second = judge(), judge()
    served(first, 300, 0.6, random.Random(4))
    second.restore(list(first.posterior.observations.values()))
    assert second.judge(ASKED, [near()]).action == "explore"
    assert second.posterior.weights == pytest.approx(first.posterior.weights, abs=0.2)


def faq(same: Sequence[float], other: Sequence[float] = ()) -> list[Neighbour]:
    found = [near(s, "a", f"a{s}") for s in same] + [near(s, "b", f"b{s}") for s in other]
    return sorted(found, key=lambda each: -each.similarity)


def test_in_faq_mode_neighbours_that_agree_are_believed_once_they_have_been_right() -> None:
    decider = judge(mode="faq", budget=0.02)
    agree, disagree = faq([0.95, 0.93, 0.9, 0.9, 0.9]), faq([0.8, 0.7, 0.7], [0.79, 0.78, 0.7])
    chance = random.Random(5)
    for number in range(400):
        for name, neighbours, right in (("agree", agree, 1.0), ("disagree", disagree, 0.5)):
            verdict = decider.judge(ASKED, neighbours)
            if verdict.action == "explore":
                decider.learn(observed(verdict, f"{name}{number}", chance.random() < right))
    actions = [decider.judge(ASKED, agree).action for _ in range(50)]
    assert actions.count("accept") > 40
    assert decider.judge(ASKED, disagree).action == "explore"
    assert decider.judge(ASKED, agree).entry == "a0.95"
