"""The shipped mixture, on prompts anybody would order the same way."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from gateway.policy.learned import Estimate, Mixture
from gateway.policy.signals import NAMES, signals

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

    assert found.contributions[0][0] == "kind:request"
    assert "code_words" in dict(found.contributions)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Estimate) == found


def test_the_same_prompt_has_the_same_estimate() -> None:
    assert MIXTURE.estimate("Why is the sky blue?") == MIXTURE.estimate("Why is the sky blue?")
