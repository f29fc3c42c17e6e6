"""Which spellings mean the same request, and which only look as if they did."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.normal import normalise


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the capital of France?", "what is the capital of france?"),
        ("What is the capital of France?", "  What is   the capital of France? "),
        ("WHAT IS THE CAPITAL OF FRANCE?", "what is the capital of france?"),
        ("Don't you know?", "don't  you know?"),
        ("Was heißt Straße?", "was heißt straße?"),
        ("Où est la gare ?", "où est la gare ?"),
        ("Caf\u00e9 near me", "cafe\u0301 near me"),
        ("Что такое любовь?", "что такое  любовь?"),
        ("a\u00a0b", "A b"),
        ("Add 2 and  3", "Add 2 and 3"),
        ("What is the capital of France?", "what is the capital of france"),
        ("What is the capital of France?", "What is the capital of France ??"),
        ("Tell me about France.", "tell me about France"),
        ("Add 2 and 3.", "Add 2 and 3"),
        ("Don\u2019t you know?", "Don't you know?"),
        ("\uff37hat is it\uff1f", "what is it?"),
        ("of\ufb01ce hours", "office hours"),
        ("zero\u200bwidth", "zerowidth"),
        ("well\u2011known", "well-known"),
        ("ΠΟΙΟΣ ΕΙΝΑΙ Ο ΟΔΟΣ", "ποιος είναι ο οδος".replace("ί", "ι")),
    ],
)
def test_case_and_spacing_alone_do_not_make_another_question(one: str, other: str) -> None:
    assert normalise(one) is not None
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("capital of France", "capital of Finland"),
        ("Add 2 and 3", "Add 3 and 2"),
        ("Add 12 and 3", "Add 1 2 and 3"),
        ("Convert 5 Mb to kb", "Convert 5 MB to kb"),
        ("Is 5 mW more than 5 MW?", "Is 5 MW more than 5 mW?"),
        ("Convert MW to mW", "Convert mW to MW"),
        ("Is a kB more than a kb?", "Is a kb more than a kB?"),
        ("Tell us about the US", "Tell US about the us"),
        ("Can the WHO help?", "Can the who help?"),
        ("What does IT mean?", "What does it mean?"),
        ("US", "us"),
        ("Was sind Maße?", "Was sind Masse?"),
        ("Is it x² ?", "Is it x2 ?"),
        ("Is it so?", "Is it so!"),
        ("re-sign", "resign"),
        ("Which macOS is this?", "Which macos is this?"),
        ("Lets eat, Grandma", "Lets eat Grandma"),
        ("What is 10² ?", "What is 102 ?"),
        ("What is 10²?", "What is 10^2?"),
        ("half is ½", "half is 1/2"),
        ("What is n!", "What is n"),
        ("You are sure?", "You are sure."),
        ("Where is Turkey?", "Where is turkey?"),
        ("Wer sind Sie?", "Wer sind sie?"),
        ("ılık su", "ilik su"),
        ("ISI nedir, İzmir", "ısı nedir, İzmir"),
        ("H₂O", "HO"),
        ("من", "مِن"),
    ],
)
def test_what_means_something_else_stays_apart(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


@pytest.mark.parametrize(
    "text",
    [
        "How long is `Ab`?",
        'Spell "Polish"',
        "Spell 'a  b'",
        "('Ab') or not",
        "Spell “Polish”",
        "Was heißt „Ab“?",
        "Que veut dire «Ab»?",
        "Spell ‘Ab’",
        "line\nbreak",
        "a\tb",
        "x = Foo",
        "print(X)",
        "a.B",
        "see https://example.com/Ab",
        "cd /Usr/Local\\x",
        "why {x}",
        "list[int]",
        "a <b> tag",
        "ls | wc",
        "my_Var",
        "cost in $",
        "write to Bob@example",
        "x" * 4001,
    ],
)
def test_quotes_code_lines_and_addresses_are_only_answered_by_themselves(text: str) -> None:
    assert normalise(text) is None


@given(st.text(max_size=60))
def test_normalising_is_stable_and_blind_to_outer_space_and_unicode_form(text: str) -> None:
    once = normalise(text)
    if once is None:
        return
    assert normalise(f" {text} ") == once
    assert normalise(unicodedata.normalize("NFD", text)) in {once, None}
    again = normalise(once)
    assert again in {once, None}


@given(st.text("abcdefg XYZ?!,", max_size=40), st.text("abcdefg XYZ?!,", max_size=40))
def test_equal_means_equal_but_for_case_and_spacing(one: str, other: str) -> None:
    if normalise(one) == normalise(other):
        assert one.lower().rstrip(" ?").split() == other.lower().rstrip(" ?").split()
