"""Pairs that an encoder finds alike and that have different answers."""

from __future__ import annotations

import pytest

from gateway.cache import guard
from gateway.cache.words import read


def differ(asked: str, stored: str) -> str | None:
    return guard.reason(read(asked), read(stored))


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
        ("How do I get from Paris to Rome?", "How do I get from Rome to Paris?", "order"),
        ("Is the WHO right?", "Is the who right?", "names"),
        ("Convert MW to mW", "Convert mW to MW", "names"),
        ("Is a kB more than a kb?", "Is a kb more than a kB?", "spelling"),
        ("What does IT mean?", "What does it mean?", "names"),
        ("is a < b", "is a > b", "symbols"),
        ("what is c++", "what is c", "symbols"),
        ("is it - 5 degrees", "is it 5 degrees", "symbols"),
        ("what is 5 % of it", "what is 5 of it", "symbols"),
        ('count the letters of "a  b"', 'count the letters of "a b"', "quotes"),
        ("what does this do:\n  x", "what does this do:\nx", "spelling"),
        ("was sind maße", "was sind masse", "spelling"),
        ("does a dog chase a cat", "does a cat chase a dog", "order"),
        ("flights from london to paris", "flights from paris to london", "order"),
        ("What is the way to turn dollars into euros?", "How do I convert euros to dollars?", "order"),
        ("Did Daniel return the company?", "Was Daniel returned by the company?", "order"),
        ("Name three of them", "Name four of them", "numbers"),
        ("What is the maximum of it?", "What is the min of it?", "opposites"),
        ("What are the pros of tea?", "What are the disadvantages of tea?", "opposites"),
        ("How do I increase my weight?", "What can I do to reduce my weight?", "opposites"),
        ("Is it OK to drink before surgery?", "Is it OK to drink after surgery?", "opposites"),
        ("Is that legal?", "Is that illegal?", "opposites"),
        ("how many feet are in a mile", "how many inches are in a mile", "units"),
        ("reverse a string in python", "reverse a string in rust", "language"),
        ("Sum it up in one sentence", "Sum it up in one page", "scope"),
        ("Do people change?", "Why do people change?", "question"),
        ("When did it happen?", "Where did it happen?", "question"),
        ("In what year was it discovered?", "Who discovered it?", "question"),
        ("How many of them are there?", "How old are they?", "question"),
        ("Should I quit?", "Can I quit?", "mood"),
        ("Is she a nurse?", "Was she a nurse?", "mood"),
        ("If Jo and Ann met, would his dog be happy?", "If Jo and Ann met, would Ann's dog be happy?", "pronouns"),
        ("what does 'bank' mean", "what does 'bench' mean", "quotes"),
        ("Which mushrooms are safe to eat?", "Which mushrooms are unsafe to eat?", "opposites"),
        ("Is smoking allowed here?", "Is smoking prohibited here?", "opposites"),
        ("How do I serialize an object?", "How do I deserialize an object?", "opposites"),
        ("Is it closed on weekdays?", "Is it closed on weekends?", "opposites"),
        ("Are tomatoes toxic to dogs?", "Are tomatoes non-toxic to dogs?", "negation"),
        ("Ist Kaffee mit Milch gesund?", "Ist Kaffee ohne Milch gesund?", "negation"),
        ("how long for four gigabits", "how long for four gigabytes", "units"),
        ("is it two metres wide", "is it two litres wide", "units"),
        ("東京から大阪まで", "大阪から東京まで", "order"),
        ("What does print(API) do?", "what does print(api) do?", "names"),
        ("Is 👍 rude?", "Is 👎 rude?", "symbols"),
        ("Is 👍🏽 fine?", "Is 👍 fine?", "symbols"),
        ("what is ∑", "what is ∏", "symbols"),
        ("👍", "What is it?", "symbols"),
        ("\0", "What is it?", "spelling"),
        ("\0", "\1", "spelling"),
        ("Convert MHZ to mhz", "convert mhz to MHZ", "spelling"),
        ("treatment of hyperglycemia", "treatment of hypoglycemia", "opposites"),
        ("How do I encode a string?", "How do I decode a string?", "opposites"),
        ("life in pre-war Berlin", "life in post-war Berlin", "opposites"),
        ("Is the WHO in Geneva?", "is the who in geneva?", "names"),
        ("Does NASA pay ESA?", "Does ESA pay NASA?", "names"),
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
        ("What is the capital of Iran?", "Hi! What is the capital of Iran? Thanks!"),
        ("When was Ada Lovelace born?", "What year was Ada Lovelace born in?"),
        ("What is the capital of France?", "Which city is France's capital?"),
        ("How do I sort a list?", "What is the best way to sort a list?"),
        ("What is 5 percent of 80?", "What is 5% of 80?"),
        ("ten ways to relax", "10 ways to relax"),
        ("tea or coffee", "coffee or tea"),
        ("Did Jacob take the book?", "Was the book taken by Jacob?"),
        ("Where is it?\n", "  Where is  it?"),
        ("don't stop", "do not stop"),
        ("in 2,000 words please", "please, in 2,000 words"),
        ("Qu'est-ce que l'amour ?", "qu'est-ce que l'amour ?"),
        ("What is an API?", "what is an api"),
        ("How do I export a table to CSV?", "how to export table to csv"),
        ("How do TCP and UDP differ?", "How do UDP and TCP differ?"),
        ("How do I convert miles to kilometres?", "How can I convert miles to kilometers?"),
        ("How many liters are in a gallon?", "How many litres are in a gallon?"),
    ],
)
def test_mere_wording_is_left_to_the_encoder(asked: str, stored: str) -> None:
    assert differ(asked, stored) is None
    assert differ(asked, asked) is None
