"""The shipped mixture, on prompts anybody would order the same way."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from gateway.policy.learned import DIMENSION, Estimate, Mixture
from gateway.policy.signals import NAMES, signals, stem

MIXTURE = Mixture.shipped()

HARDER = [
    ("Hello!", "Write a Python function that merges overlapping intervals and runs in O(n log n)."),
    ("What is the capital of Norway?", "Prove that every tree with n vertices has n - 1 edges."),
    (
        "Tom has 3 apples and buys 2 more. How many apples does he have?",
        "Tom earns $14 an hour for 6 hours on each of 5 days, pays 20% tax, spends half of the rest on rent and a "
        "third of what is then left on food. How much does he save in 4 weeks if every second week he gives $25 away?",
    ),
    ("Write a friendly blog post about a trip to Iceland.", "Find the derivative of x^2 sin(3x) and all its zeros."),
]


@pytest.mark.parametrize(("easier", "harder"), HARDER)
def test_more_is_lost_on_what_is_harder(easier: str, harder: str) -> None:
    assert MIXTURE.estimate(easier).lost < MIXTURE.estimate(harder).lost


@pytest.mark.parametrize(
    "prompt", ["", " ", "?", "\n" * 5000, "x" * 100_000, "日本語の質問", "1,2,,3.4.5 %$", "A. b\nB. c"]
)
def test_any_text_has_an_estimate(prompt: str) -> None:
    found = MIXTURE.estimate(prompt)

    assert 0 < found.small < 1
    assert found.small <= found.large <= 1
    assert 0 < found.lost < 1
    assert len(signals(prompt)) == len(NAMES)
    assert np.isfinite(signals(prompt)).all()


def test_an_estimate_says_what_it_is_made_of() -> None:
    found = MIXTURE.estimate("Write a Python function that reverses a list.")

    assert found.contributions[0][0] == "kind:other"
    assert "code_words" in dict(found.contributions)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Estimate) == found


def test_the_same_prompt_has_the_same_estimate() -> None:
    assert MIXTURE.estimate("Why is the sky blue?") == MIXTURE.estimate("Why is the sky blue?")


MUCH_LOST = [
    "Develop a script that reads every log file of a folder and prints the ten most frequent errors.",
    "Given two sorted arrays, write code that returns their median in logarithmic time.",
    "A tank is filled by one pipe in 3 hours and by another in 5. How long do both take together?",
    "Five friends sit in a row. Bea is left of Carl, and Dora sits at an end. Who can sit in the middle?",
]
LITTLE_LOST = [
    "Compose a toast for my sister's graduation, warm and not too long.",
    "Pretend to be an innkeeper of the Middle Ages and welcome me to your house.",
    "Discuss how the telephone changed family life in the twentieth century.",
    "Describe an autumn market so that a reader can smell it.",
]


@pytest.mark.parametrize("little", LITTLE_LOST)
def test_kinds_of_work_are_told_apart(little: str) -> None:
    assert all(MIXTURE.estimate(little).lost < MIXTURE.estimate(much).lost for much in MUCH_LOST)


def test_a_vector_of_another_model_is_not_read() -> None:
    prompt = "Write a poem about the sea."
    by_words = MIXTURE.estimate(prompt)

    assert MIXTURE.estimate(prompt, np.ones(7, np.float32)) == by_words
    meaning = np.full(DIMENSION, DIMENSION**-0.5, np.float32)
    assert MIXTURE.estimate(prompt, meaning) != by_words
    assert 0 < MIXTURE.estimate(prompt, meaning).lost < 1


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ("Which is red?\nA. blood\nB. milk\nAnswer:", "Which is red?"),
        ("Which is red?\n (A) blood\n (B) milk", "Which is red?"),
        ("Explain this line:\nA. blood", "Explain this line:\nA. blood"),
        ("Hello!", "Hello!"),
        ("", ""),
    ],
)
def test_what_is_asked_is_told_from_the_options(prompt: str, asked: str) -> None:
    assert stem(prompt) == asked


def test_of_a_long_prompt_the_beginning_and_the_end_are_what_is_asked() -> None:
    found = stem("Read this. " + "word " * 5000 + "Who did it?")

    assert len(found) < 1_300
    assert found.startswith("Read this.")
    assert found.endswith("Who did it?")
