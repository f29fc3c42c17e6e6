"""Pairs that an encoder finds alike and that have different answers."""

from __future__ import annotations

import pytest

from gateway.cache.guard import differ


@pytest.mark.parametrize(
    ("asked", "stored", "reason"),
    [
        ("What is 12 times 3?", "What is 13 times 3?", "numbers"),
        ("What is 1.5 plus 2?", "What is 15 plus 2?", "numbers"),
        ("Who won in 1998?", "Who won?", "numbers"),
        ("Meet at 10:30?", "Meet at 10:45?", "numbers"),
        ("What is 3 minus 5?", "What is 5 minus 3?", "numbers"),
        ("Is it safe to eat?", "Is it not safe to eat?", "negation"),
        ("Can I take this with food?", "Can I take this without food?", "negation"),
        ("Why does it work?", "Why doesn't it work?", "negation"),
        ("Why does it work?", "Why doesn’t it work?", "negation"),
        ("everyone except me", "everyone like me", "negation"),
        ("What is the capital of France?", "What is the capital of Finland?", "names"),
        ("How do I get from Paris to Rome?", "How do I get from Rome to Paris?", "names"),
        ("Is the WHO right?", "Is the who right?", "names"),
        ("Convert MW to mW", "Convert mW to MW", "names"),
        ("Is a kB more than a kb?", "Is a kb more than a kB?", "spelling"),
        ("What does IT mean?", "What does it mean?", "names"),
        ("is a < b", "is a > b", "symbols"),
        ("what is c++", "what is c", "symbols"),
        ("is it - 5 degrees", "is it 5 degrees", "symbols"),
        ("what is 5 % of it", "what is 5 of it", "symbols"),
        ('count the letters of "a  b"', 'count the letters of "a b"', "spelling"),
        ("what does this do:\n  x", "what does this do:\nx", "spelling"),
        ("was sind maße", "was sind masse", "spelling"),
        ("does a dog chase a cat", "does a cat chase a dog", "order"),
        ("flights from london to paris", "flights from paris to london", "order"),
    ],
)
def test_a_certain_difference_is_named_in_both_directions(asked: str, stored: str, reason: str) -> None:
    assert differ(asked, stored) == reason
    assert differ(stored, asked) == reason


@pytest.mark.parametrize(
    ("asked", "stored"),
    [
        ("What is the capital of France?", "What's the capital of France?"),
        ("how do i boil an egg", "How can I boil an egg?"),
        ("Tell me the height of Everest", "What is the height of Everest?"),
        ("what is the capital of france", "What is the capital of france?"),
        ("well, how are you", "Well how are  you?"),
        ("a well-known dish", "a well known dish"),
        ("don't stop", "do not stop"),
        ("in 2,000 words please", "please, in 2,000 words"),
        ("Qu'est-ce que l'amour ?", "qu'est-ce que l'amour ?"),
    ],
)
def test_mere_wording_is_left_to_the_encoder(asked: str, stored: str) -> None:
    assert differ(asked, stored) is None
    assert differ(asked, asked) is None
