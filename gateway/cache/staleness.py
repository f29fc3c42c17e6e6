"""How long an answer stays true, read from the question: what is asked about now is soon answered differently.

Word lists, not a model: they cost microseconds, can be read, and err towards asking again.
"""

from __future__ import annotations

import random
import re

from gateway.recency import about_now

NOW_S = 300.0
"""How long an answer about now may be reused: five minutes."""
_SHORTEST = 0.9

_HINTS = (
    "random",
    "another",
    "different",
    "a new",
    "one more",
    "surprise",
    "dice",
    " die",
    " a d",
    "coin",
    "pick ",
    "uid",
)
_THING = (
    r"(?:numbers?|words?|names?|joke|facts?|quote|story|poem|choice|card|colou?r|city|country|person|string|sample|recipe"
    r"|topic|idea|question|movie|song|book|password|passphrase|pin)"
)
_VARIED = re.compile(
    rf"\b(?:random (?:\w+ ){{0,2}}{_THING}|(?:another|a different|a new|one more) (?:\w+ )?{_THING}|surprise me"
    r"|(?:roll|throw) (?:a|the|two|some) (?:\w+-sided )?(?:dice|die|d\d+)|(?:flip|toss) a coin"
    r"|pick (?:a|one|any) \w+ (?:from|between)|(?:generate|create|make|give me) (?:an? |some )?(?:\w+ )?[ug]uid)\b",
    re.IGNORECASE,
)


def wants_variety(question: str) -> bool:
    """Whether who asks twice wants two answers: a random number, another joke."""
    lowered = question.lower()
    return any(hint in lowered for hint in _HINTS) and _VARIED.search(question) is not None


def lifetime_s(question: str, ttl_s: float) -> float:
    """Seconds for which an answer may be reused, at most ``ttl_s``; a little less by chance, so that what was stored
    together does not end together.
    """
    longest = min(ttl_s, NOW_S) if about_now(question) else ttl_s
    return longest * random.uniform(_SHORTEST, 1.0)
