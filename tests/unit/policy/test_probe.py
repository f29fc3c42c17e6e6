"""The probe's questions and how answers to them are graded."""

from __future__ import annotations

import pytest

from gateway.policy.probe import SUMS, Check, Question, arithmetic, questions, right
from tests.support.easy_prompts import easy_prompts


def asked(check: Check, *answers: str, labels: tuple[str, ...] = (), case: bool = False) -> Question:
    return Question(prompt="?", answers=answers, skill="s", domain="d", check=check, labels=labels, case=case)


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        (asked("contains", "Rome"), "The capital of Italy is **Rome**.", True),
        (asked("contains", "Rome"), "Romeo is a lover.", False),
        (asked("contains", "buenos días"), "«Buenos días»", True),
        (asked("contains", "small", "little"), "little", True),
        (asked("number", "56"), "7 times 8 is 56.", True),
        (asked("number", "56"), "7 x 8 = 54", False),
        (asked("number", "1000"), "There are 1,000 metres.", True),
        (asked("number", "7"), "Seven days.", True),
        (asked("number", "7"), "Many.", False),
        (asked("label", "no", labels=("yes", "no")), "No, and yes would be wrong.", True),
        (asked("label", "no", labels=("yes", "no")), "I do not know", False),
        (asked("label", "no", labels=("yes", "no")), "Yes. No.", False),
        (asked("exact", "HELLO WORLD", case=True), '"HELLO WORLD"', True),
        (asked("exact", "HELLO WORLD", case=True), "Hello world", False),
        (asked("exact", "the river is calm"), "Sure! The river is calm", False),
    ],
)
def test_grading_is_lenient_about_form_and_strict_about_content(
    question: Question, answer: str, expected: bool
) -> None:
    assert right(question, answer) is expected


def test_the_set_is_the_same_each_time_and_covers_what_it_says() -> None:
    assert questions() == questions.__wrapped__()
    assert 300 <= len(questions()) <= 450
    assert {question.domain for question in questions()} == {
        "facts", "arithmetic", "extraction", "rewriting", "classification", "code", "translation", "languages",
    }  # fmt: skip
    assert len({question.prompt for question in questions()}) > 0.97 * len(questions())


def test_every_answer_that_is_expected_is_graded_as_right() -> None:
    for question in (*questions(), *easy_prompts()):
        assert right(question, question.answers[0]), question


@pytest.mark.parametrize("seed", range(3))
def test_generated_sums_are_right(seed: int) -> None:
    signs = {"+": int.__add__, "-": int.__sub__, "times": int.__mul__, "x": int.__mul__}
    checked = 0
    for question in arithmetic(seed, SUMS):
        words = question.prompt.rstrip("?.").split()
        for sign, apply in signs.items():
            if sign in words and words[words.index(sign) - 1].isdigit():
                at = words.index(sign)
                assert question.answers == (str(apply(int(words[at - 1]), int(words[at + 1]))),)
                checked += 1
    assert checked >= 30


def test_what_is_held_out_is_not_in_the_probe() -> None:
    known = {question.prompt.casefold() for question in questions()}

    assert len(easy_prompts()) >= 300
    assert not [question.prompt for question in easy_prompts() if question.prompt.casefold() in known]
