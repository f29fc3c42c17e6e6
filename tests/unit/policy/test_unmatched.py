"""Why a rule did not match: the part of its condition that was false, with what it saw."""

from __future__ import annotations

from typing import Any

import cel
import pytest

from gateway.policy.unmatched import conjuncts, why_not

SEEN: dict[str, Any] = {
    "difficulty": 0.5512345,
    "words": 30,
    "tags": ["a"],
    "prompt_tokens": 10,
    "code": True,
    "question": "why",
}


@pytest.mark.parametrize(
    ("when", "reason"),
    [
        ("difficulty < 0.35 && prompt_tokens < 1500", "difficulty < 0.35 is false: difficulty = 0.5512"),
        ("prompt_tokens < 1500 && (code && words < 12)", "words < 12 is false: words = 30"),
        ("(code) && (words == 30) && (question == 'what')", "question == 'what' is false: question = 'why'"),
        ("'x && y' in tags || words > 40", "'x && y' in tags || words > 40 is false: tags = ['a'], words = 30"),
        ("tags.exists(t, t == 'b && c') && code", "tags.exists(t, t == 'b && c') is false: tags = ['a']"),
        ("!(code) && true", "!(code) is false: code = true"),
        ("code ? words > 40 : words > 10", "code ? words > 40 : words > 10 is false: code = true, words = 30"),
        ("unheard > 3 && code", "unheard > 3 could not be evaluated"),
        ("unheard > 3 && !code", "!code is false: code = true"),
        ("words > 3", "words > 3 is not known to be false any more: words = 30"),
        ('question == "it\\"s && so"', 'question == "it\\"s && so" is false: question = \'why\''),
    ],
)
def test_the_first_part_that_was_false_and_what_it_saw(when: str, reason: str) -> None:
    assert why_not("r", when, SEEN).reason == reason


def test_only_what_the_part_reads_is_told() -> None:
    why = why_not("easy", "difficulty < 0.35 && words < 5", SEEN)
    assert (why.rule, why.when, why.clause) == ("easy", "difficulty < 0.35 && words < 5", "difficulty < 0.35")
    assert why.values == {"difficulty": 0.5512345}


@pytest.mark.parametrize(
    "source",
    [
        "a && b && c",
        "(a && (b)) && c",
        "a || b && c",
        "(a || b) && c",
        "!(a && b)",
        "a ? b : c",
        "[a, b].exists(x, x && c)",
    ],
)
def test_the_parts_together_say_what_the_whole_does(source: str) -> None:
    parts = conjuncts(source)
    for number in range(8):
        values = {name: bool(number >> place & 1) for place, name in enumerate("abc")}

        def holds(text: str) -> bool:
            read = set(cel.compile(text).variables())
            return bool(cel.compile(text).execute({name: values[name] for name in values if name in read}))  # noqa: B023

        assert holds(source) == all(map(holds, parts))
