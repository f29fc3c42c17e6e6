"""The test behind golden prompts: silent about a model that is noisy and stays, quick where it is swapped."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import pytest

from gateway.watching import conformal
from gateway.watching.conformal import BETS, Bag
from gateway.watching.golden import CHANNELS, Observation, prompts
from gateway.watching.standing import Standing, after_round, begun

PROMPTS = len(prompts())
Answer = Callable[[int, random.Random], Observation]


def said(text: str, *, right: bool = True, tokens: int = 20, reported: str = "m-1") -> Observation:
    return Observation(text=text, right=right, tokens=tokens, reported=reported, latency_ms=100.0)


def steady(name: str) -> Answer:
    """The same answer to the same prompt, always."""
    return lambda prompt, draw: said(f"{name} says {prompt}")


def wavering(name: str, noise: float, *, kinds: int = 20) -> Answer:
    """Its own answer to each prompt, and by ``noise`` one of some others, of other lengths, sometimes wrong."""

    def answer(prompt: int, draw: random.Random) -> Observation:
        if draw.random() >= noise:
            return said(f"{name} says {prompt}", tokens=20 + prompt)
        other = draw.randrange(kinds)
        return said(f"{name} may say {prompt} {other}", right=draw.random() < 0.6, tokens=10 + 3 * other)

    return answer


def chatty(prompt: int, draw: random.Random) -> Observation:
    """Never the same words twice, and one of three servers."""
    server = f"m-1 fp_{draw.randrange(3)}"
    return said(str(draw.random()), right=draw.random() < 0.8, tokens=draw.randrange(10, 60), reported=server)


def rounds(
    answer: Answer, count: int, draw: random.Random, known: Standing | None = None, *, asked: int = PROMPTS
) -> Standing:
    known = known or begun("x", asked, 0)
    for at in range(count):
        answers = {number: answer(number, draw) for number in range(asked)}
        known = after_round(known, answers, {channel: draw.random() for channel in CHANNELS}, at)
    return known


def rounds_until_alarm(known: Standing, answer: Answer, draw: random.Random, most: int) -> int:
    for count in range(1, most + 1):
        known = rounds(answer, 1, draw, known)
        if known.all_changes:
            return count
    raise AssertionError(f"no alarm in {most} rounds")


@pytest.mark.parametrize("answer", [steady("a"), wavering("a", 0.3), chatty], ids=["steady", "wavering", "chatty"])
def test_a_noisy_model_that_stays_the_same_raises_no_alarm_in_a_thousand_rounds(answer: Answer) -> None:
    known = rounds(answer, 1000, random.Random(1), asked=6)  # sixteen take six times as long: see the next test
    assert (known.all_changes, known.rounds) == (0, 1000)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("answer", [wavering("a", 0.1), wavering("a", 0.6), chatty], ids=["quiet", "loud", "chatty"])
def test_no_alarm_in_five_times_a_thousand_clean_rounds(answer: Answer, seed: int) -> None:
    assert rounds(answer, 1000, random.Random(seed)).all_changes == 0


@pytest.mark.parametrize(
    ("before", "after", "learned", "within"),
    [
        (steady("a"), steady("b"), 4, 1),
        (wavering("a", 0.1), wavering("b", 0.1), 8, 2),
        (wavering("a", 0.3), wavering("b", 0.3), 24, 3),
    ],
    ids=["steady", "a tenth noise", "a third noise"],
)
def test_a_swapped_model_alarms_within_the_stated_rounds(
    before: Answer, after: Answer, learned: int, within: int
) -> None:
    for seed in range(10):
        draw = random.Random(seed)
        known = rounds(before, learned, draw)
        assert known.all_changes == 0
        assert rounds_until_alarm(known, after, draw, within) <= within


def test_half_of_the_answers_are_enough() -> None:
    def half(prompt: int, draw: random.Random) -> Observation:
        return steady("b" if prompt % 2 else "a")(prompt, draw)

    draw = random.Random(5)
    assert rounds_until_alarm(rounds(steady("a"), 12, draw), half, draw, 2) <= 2


def test_words_that_are_never_the_same_hide_no_fall_in_quality_or_change_of_length() -> None:
    def worse(prompt: int, draw: random.Random) -> Observation:
        return said(str(draw.random()), right=draw.random() < 0.2, tokens=20)

    def longer(prompt: int, draw: random.Random) -> Observation:
        return said(str(draw.random()), right=draw.random() < 0.9, tokens=draw.randrange(200, 300))

    def usual(prompt: int, draw: random.Random) -> Observation:
        return said(str(draw.random()), right=draw.random() < 0.95, tokens=draw.randrange(20, 24))

    draw = random.Random(2)
    known = rounds(usual, 24, draw)
    assert known.all_changes == 0
    assert rounds_until_alarm(known, worse, random.Random(3), 6) <= 6
    assert rounds_until_alarm(known, longer, random.Random(3), 3) <= 3


def test_a_server_that_calls_itself_something_else_alarms_at_once() -> None:
    draw = random.Random(4)
    known = rounds(chatty, 8, draw)
    told = rounds(lambda prompt, draw: said(str(draw.random()), reported="m-2"), 1, draw, known)
    assert told.all_changes == 1
    (change,) = told.changes
    assert "reported" in change.channels
    assert (change.rounds, change.before.reported[:3], change.after.reported) == (8, "m-1", "m-2")


def test_after_a_change_the_new_model_is_the_one_that_is_known() -> None:
    draw = random.Random(6)
    known = rounds(steady("b"), 30, draw, rounds(steady("a"), 10, draw))
    assert (known.all_changes, known.rounds) == (1, 30)
    assert known.changes[0].prompts == known.changes[0].asked == PROMPTS
    again = rounds(steady("a"), 1, draw, known)
    assert again.all_changes == 2


def test_prompts_that_got_no_answer_change_nothing() -> None:
    draw, known = random.Random(7), begun("x", PROMPTS, 0)
    for at in range(60):
        asked = [number for number in range(PROMPTS) if draw.random() < 0.7] or [0]
        answers = {number: wavering("a", 0.2)(number, draw) for number in asked}
        known = after_round(known, answers, {channel: draw.random() for channel in CHANNELS}, at)
    assert (known.rounds, known.all_changes) == (60, 0)


def clean_p_values(count: int, draw: random.Random, shown: Callable[[random.Random], str]) -> list[float]:
    bags: list[Bag] = [{} for _ in range(6)]
    found = []
    for _ in range(count):
        names = [shown(draw) for _ in bags]
        for bag, name in zip(bags, names, strict=True):
            conformal.count(bag, (name,))
        found.append(conformal.p_value(bags, names, draw.random()))
    return found


NOISES: Mapping[str, Callable[[random.Random], str]] = {
    "two answers": lambda draw: "ab"[draw.random() < 0.2],
    "many answers": lambda draw: str(draw.randrange(40)),
    "one and many": lambda draw: "a" if draw.random() < 0.8 else str(draw.randrange(100)),
}


@pytest.mark.parametrize("noise", NOISES)
def test_p_values_of_a_clean_model_are_uniform_whatever_the_noise(noise: str) -> None:
    found = sorted(clean_p_values(1500, random.Random(11), NOISES[noise]))
    distance = max(abs((at + 0.5) / len(found) - p) for at, p in enumerate(found))
    assert distance < 1.63 / len(found) ** 0.5  # Kolmogorov–Smirnov at 1 %


def test_false_alarms_stay_below_the_bound_at_a_level_where_there_are_some() -> None:
    level, alarms, runs, each = 200.0, 0, 120, 60
    for seed in range(runs):
        draw, sums = random.Random(seed), [0.0] * len(BETS)
        for p in clean_p_values(each, draw, NOISES["one and many"]):
            sums = conformal.bet(sums, p)
            if conformal.evidence(sums) >= level:
                alarms += 1
                break
    assert 0 < alarms <= 1.5 * runs * each / level


def test_the_evidence_of_clean_rounds_grows_no_faster_than_their_number() -> None:
    totals = []
    for seed in range(2000):
        draw, sums = random.Random(seed), [0.0] * len(BETS)
        for _ in range(5):
            sums = conformal.bet(sums, draw.random())
        totals.append(min(conformal.evidence(sums), 100.0))
    assert sum(totals) / len(totals) < 5.5
