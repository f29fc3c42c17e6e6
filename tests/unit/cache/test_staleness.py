"""How long an answer stays true, read from the question."""

from __future__ import annotations

import pytest

from gateway.cache.staleness import NOW_S, lifetime_s, wants_variety
from gateway.recency import about_now

DAY_S = 86_400.0


@pytest.mark.parametrize(
    "question",
    [
        "What is the weather in Paris?",
        "What's the latest iPhone?",
        "Who is the current president of France?",
        "What is the price of gold?",
        "How much is a Tesla?",
        "what time is it",
        "TODAY'S news about AI",
        "Who won the match?",
        "What happened this week?",
        "Is the shop open now?",
        "EUR USD exchange rate",
        "Wie ist das Wetter heute?",
        "Quel est le prix du pain ?",
        "¿Qué tiempo hace en Madrid?",
        "今天天气怎么样",
        "最新のニュースは?",
        "какая сегодня погода",
    ],
)
def test_what_is_about_now_is_soon_answered_differently(question: str) -> None:
    assert about_now(question)
    assert lifetime_s(question, DAY_S) <= NOW_S
    assert lifetime_s(question, 60) <= 60


@pytest.mark.parametrize(
    "question",
    [
        "",
        "What is the capital of France?",
        "How does alternating current work?",
        "What is an electric current in a wire?",
        "What is current density?",
        "Explain the history of Rome",
        "How do I reset my password?",
        "Was ist die Hauptstadt von Frankreich, und wo liegt sie hier?",
        "Where is Costa Rica?",
        "What is the actual meaning of this word?",
    ],
)
def test_what_is_not_lives_as_long_as_the_policy_says(question: str) -> None:
    assert not about_now(question)
    assert lifetime_s(question, DAY_S) >= 0.9 * DAY_S


def test_what_was_stored_together_does_not_end_together() -> None:
    ends = [lifetime_s("What is the capital of France?", DAY_S) for _ in range(200)]
    assert max(ends) <= DAY_S
    assert max(ends) - min(ends) > 0.05 * DAY_S


@pytest.mark.parametrize(
    "question",
    [
        "Give me a random number",
        "a random five letter word, please",
        "Tell me another joke",
        "Flip a coin",
        "roll a die",
        "Generate a uuid",
        "Surprise me!",
        "pick one colour from this list",
    ],
)
def test_who_wants_variety_gets_it(question: str) -> None:
    assert wants_variety(question)


@pytest.mark.parametrize(
    "question",
    [
        "How does a random forest work?",
        "Is there another way to sort a list?",
        "What is the difference between a coin and a token?",
        "How do I create a password?",
        "Write a poem about the sea",
    ],
)
def test_who_only_speaks_of_chance_does_not(question: str) -> None:
    assert not wants_variety(question)
