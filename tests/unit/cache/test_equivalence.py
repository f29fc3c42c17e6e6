"""Whether two answers say the same."""

from __future__ import annotations

import json

import pytest

from gateway.cache.equivalence import answer_digest, answer_text, may_agree


def body(content: object) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()


def test_the_words_of_an_answer_are_found() -> None:
    assert answer_text(body("It is\n\n Paris.")) == "It is Paris."
    for odd in (b"{}", b"", b'{"choices": []}', body(None), body([{"type": "text"}]), body("x").replace(b"x", b"\xff")):
        assert answer_text(odd) == ""


def test_equal_answers_have_one_digest() -> None:
    assert answer_digest("Paris") == answer_digest("Paris") != answer_digest("Rome")


@pytest.mark.parametrize(
    ("a", "b", "agree"),
    [
        ("It is 20 degrees.", "The answer is 20 degrees.", True),
        ("It is 20 degrees.", "It is 21 degrees.", False),
        ("The capital is Paris.", "That would be Paris.", True),
        ("The capital is Paris.", "The capital is Rome.", False),
        ("Take 2 eggs and 3 cups.", "Use 3 cups and 2 eggs.", True),
    ],
)
def test_numbers_and_names_tell_answers_apart(a: str, b: str, agree: bool) -> None:
    assert may_agree(a, b) is agree
