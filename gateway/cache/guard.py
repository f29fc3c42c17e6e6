"""Cheap and certain reasons why two similar questions have different answers. Where it speaks, there is no hit.

An embedding hardly sees what this looks at: numbers, negation, and who stands where ("Paris to Rome").
"""

from __future__ import annotations

import re

_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_NEGATION = frozenset(
    {"no", "not", "never", "none", "without", "cannot", "nobody", "nothing", "neither", "nor", "except", "unless"}
)
_FILLER = frozenset(
    {
        *("a", "an", "the", "is", "are", "was", "were", "be", "do", "does", "did", "to", "of", "in", "on", "at", "for"),
        *("from", "and", "or", "i", "you", "me", "my", "your", "please", "can", "could", "would", "what", "whats"),
        *("what's", "which", "who", "whos", "who's", "where", "how", "tell", "know", "it", "its", "it's", "there", "s"),
    }
)


def differ(asked: str, stored: str) -> str | None:
    """Why the answer to ``stored`` cannot answer ``asked``; None where nothing certain speaks against it."""
    if _NUMBER.findall(asked) != _NUMBER.findall(stored):
        return "numbers"
    left, right = _words(asked), _words(stored)
    if _negations(left) != _negations(right):
        return "negation"
    if _names(asked) != _names(stored):
        return "names"
    if sorted(_content(left)) == sorted(_content(right)) and _content(left) != _content(right):
        return "order"
    return None


def _words(text: str) -> list[str]:
    return [word.casefold().replace("’", "'") for word in _WORD.findall(text)]


def _negations(words: list[str]) -> int:
    return sum(word in _NEGATION or word.endswith("n't") for word in words)


def _names(text: str) -> list[str]:
    """Capitalised words after the first one: names, in their order."""
    return [word for word in _WORD.findall(text)[1:] if word[0].isupper() and word.casefold() not in _FILLER]


def _content(words: list[str]) -> list[str]:
    return [word for word in words if word not in _FILLER]
