"""Questions about now, and the years that questions name."""

from __future__ import annotations

import pytest

from gateway.recency import about_now, latest_year


@pytest.mark.parametrize(
    "question",
    ["What's the weather in Paris?", "Who won the match last weekend?", "Wie ist das Wetter heute?", "今天的新闻"],
)
def test_about_now(question: str) -> None:
    assert about_now(question)


@pytest.mark.parametrize(
    "question", ["What is the capital of France?", "How does alternating current flow?", "写一首诗"]
)
def test_true_for_good(question: str) -> None:
    assert not about_now(question)


@pytest.mark.parametrize(
    ("question", "year"),
    [
        ("Who won the 2024 election?", 2024),
        ("Compare 1999 with 2003.", 2003),
        ("I paid $2000 for 2048px and 20.24 more, 2,025 items, 2000%", 0),
        ("What is 12 + 30?", 0),
        ("in 1789", 0),
    ],
)
def test_the_latest_year(question: str, year: int) -> None:
    assert latest_year(question) == year
